"""Who goes first, what forms a batch, whom a failure hits, and how it ends."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext

import pytest

from indexer.models import batching
from indexer.models.batching import BatchThread, EngineBusy, EngineClosed, Life, Run
from indexer.models.cores import Budget
from indexer.models.types import Lane, ModelUnavailable
from indexer.models.watchdog import Watchdog

FAST, BULK = Lane.INTERACTIVE, Lane.BULK
PATIENCE = 30.0  # only for a test that would otherwise hang


class Recorder:
    """A model that doubles numbers, records its batches, fails on 13, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.unavailable = ""
        self.go_on = threading.Event()
        self.running = threading.Event()
        self.clock = 0.0
        self.seconds_each = 0.001

    def prepare(self) -> tuple[Run[int, int], AbstractContextManager[object]]:
        if self.unavailable:
            raise ModelUnavailable(self.unavailable)
        return self.run, nullcontext()

    def run(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        if items == [0]:
            self.running.set()
            assert self.go_on.wait(PATIENCE)
        self.clock += self.seconds_each * len(items)
        if 13 in items:
            raise ValueError("thirteen")
        return [2 * item for item in items]


def watchdog(seconds: float = 600.0, stuck: Callable[[str], None] = print) -> Watchdog:
    return Watchdog(seconds, stuck)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(batching.time, "perf_counter", lambda: recorder.clock)
    return recorder


@pytest.fixture
def threads(model: Recorder) -> Iterator[list[BatchThread[int, int]]]:
    made: list[BatchThread[int, int]] = []
    yield made
    model.go_on.set()
    for thread in made:
        thread.close()


def start(
    threads: list[BatchThread[int, int]], model: Recorder, max_batch: int = 8, capacity: int = 100
) -> BatchThread[int, int]:
    """A warm thread that is held up by an item of the bulk lane."""
    thread = BatchThread(
        "doubler", model.prepare, watchdog(), max_batch=max_batch, capacity=capacity
    )
    threads.append(thread)
    for _ in range(12):  # until the time of the first call is forgotten
        assert thread.submit(1, BULK).result(PATIENCE) == 2
    thread.submit(0, BULK)
    assert model.running.wait(PATIENCE)
    model.batches.clear()
    return thread


def results(futures: Sequence[Future[int]]) -> list[int]:
    return [future.result(PATIENCE) for future in futures]


def test_interactive_goes_first_but_every_fifth_batch_is_bulk(
    threads: list[BatchThread[int, int]], model: Recorder
) -> None:
    thread = start(threads, model, max_batch=1)
    bulk = [thread.submit(i, BULK) for i in (101, 102, 103)]
    fast = [thread.submit(i, FAST) for i in range(1, 11)]
    model.go_on.set()
    assert results(fast) == [2 * i for i in range(1, 11)]
    assert results(bulk) == [202, 204, 206]
    assert [batch[0] for batch in model.batches] == [
        *(1, 2, 3, 4, 101),
        *(5, 6, 7, 8, 102),
        *(9, 10, 103),
    ]


def test_what_waits_forms_batches_that_never_mix_lanes(
    threads: list[BatchThread[int, int]], model: Recorder
) -> None:
    thread = start(threads, model, max_batch=8)
    futures = [thread.submit(i, BULK) for i in range(101, 111)]
    futures += [thread.submit(i, FAST) for i in (1, 2, 3)]
    model.go_on.set()
    results(futures)
    assert model.batches == [[1, 2, 3], [*range(101, 109)], [109, 110]]


def test_batches_are_as_long_as_a_person_may_wait(
    threads: list[BatchThread[int, int]], model: Recorder
) -> None:
    model.seconds_each = batching.BATCH_SECONDS / 3.5
    thread = start(threads, model, max_batch=8)
    futures = [thread.submit(i, BULK) for i in range(101, 108)]
    model.go_on.set()
    results(futures)
    assert model.batches == [[101, 102, 103], [104, 105, 106], [107]]


def test_the_first_batch_of_an_unknown_model_is_one_item(
    threads: list[BatchThread[int, int]], model: Recorder
) -> None:
    thread = BatchThread("doubler", model.prepare, watchdog(), max_batch=8)
    threads.append(thread)
    futures = [thread.submit(i, BULK) for i in (0, 1, 2, 3)]
    model.go_on.set()
    results(futures)
    assert model.batches[0] == [0]


def test_a_failure_hits_only_its_own_item(
    threads: list[BatchThread[int, int]], model: Recorder
) -> None:
    thread = start(threads, model)
    before = thread.stats()
    futures = [thread.submit(i, BULK) for i in (12, 13, 14)]
    model.go_on.set()
    assert results([futures[0], futures[2]]) == [24, 28]
    with pytest.raises(ValueError, match="thirteen"):
        futures[1].result(PATIENCE)
    assert model.batches == [[12, 13, 14], [12], [13], [14]]
    assert thread.stats()["failed"] - before["failed"] == 1
    assert thread.submit(5, FAST).result(PATIENCE) == 10


def test_an_unavailable_model_fails_all_and_is_tried_again_for_the_next(
    threads: list[BatchThread[int, int]], model: Recorder
) -> None:
    thread = start(threads, model)
    model.unavailable = "put it there"
    futures = [thread.submit(i, FAST) for i in (1, 2)]
    model.go_on.set()
    for future in futures:
        with pytest.raises(ModelUnavailable, match="put it there"):
            future.result(PATIENCE)
    assert futures[0].exception() is not futures[1].exception()
    model.unavailable = ""
    assert thread.submit(3, FAST).result(PATIENCE) == 6


def test_what_was_cancelled_is_not_computed(
    threads: list[BatchThread[int, int]], model: Recorder
) -> None:
    thread = start(threads, model)
    futures = [thread.submit(i, FAST) for i in (1, 2, 3)]
    assert futures[1].cancel()
    model.go_on.set()
    assert results([futures[0], futures[2]]) == [2, 6]
    assert model.batches == [[1, 3]]
    lonely = thread.submit(4, FAST)
    lonely.cancel()
    assert thread.submit(5, FAST).result(PATIENCE) == 10


def test_a_full_interactive_lane_says_so_at_once(
    threads: list[BatchThread[int, int]], model: Recorder
) -> None:
    thread = start(threads, model, capacity=2)
    fits = [thread.submit(i, FAST) for i in (1, 2)]
    with pytest.raises(EngineBusy, match="doubler"):
        thread.submit(3, FAST).result(PATIENCE)
    assert thread.stats()["waiting"] == {"interactive": 2, "bulk": 0}
    assert thread.stats()["running"] == 1
    model.go_on.set()
    assert results(fits) == [2, 4]


def test_bulk_waits_for_room(threads: list[BatchThread[int, int]], model: Recorder) -> None:
    thread = start(threads, model, capacity=2)
    futures: list[Future[int]] = []

    def feed() -> None:
        futures.extend(thread.submit(i, BULK) for i in range(1, 7))

    feeder = threading.Thread(target=feed)
    feeder.start()
    feeder.join(0.2)
    assert feeder.is_alive()
    assert thread.stats()["waiting"]["bulk"] == 2
    model.go_on.set()
    feeder.join(PATIENCE)
    assert results(futures) == [2, 4, 6, 8, 10, 12]


def test_closing_ends_what_runs_and_fails_what_waits(
    threads: list[BatchThread[int, int]], model: Recorder
) -> None:
    thread = BatchThread("doubler", model.prepare, watchdog(), max_batch=8, capacity=1)
    running = thread.submit(0, FAST)
    assert model.running.wait(PATIENCE)
    waiting = thread.submit(1, BULK)
    late: list[Future[int]] = []
    blocked = threading.Thread(target=lambda: late.append(thread.submit(2, BULK)))
    blocked.start()
    closer = threading.Thread(target=thread.close)
    closer.start()
    with pytest.raises(EngineClosed):
        waiting.result(PATIENCE)
    blocked.join(PATIENCE)
    with pytest.raises(EngineClosed):
        late[0].result(PATIENCE)
    model.go_on.set()
    closer.join(PATIENCE)
    assert running.result(PATIENCE) == 0
    thread.close()
    with pytest.raises(EngineClosed):
        thread.submit(3, FAST).result(PATIENCE)


def test_a_worker_that_stops_drops_what_waits_in_bulk(
    threads: list[BatchThread[int, int]], model: Recorder
) -> None:
    """What is computed, or somebody waits for, isn't touched; more can come."""
    thread = BatchThread("doubler", model.prepare, watchdog(), max_batch=8)
    threads.append(thread)
    running = thread.submit(0, BULK)
    assert model.running.wait(PATIENCE)
    asked, waiting, joined = (
        thread.submit(n, lane) for n, lane in enumerate((FAST, BULK, BULK), 1)
    )
    thread.promote(joined)
    thread.drop_bulk()
    with pytest.raises(EngineClosed):
        waiting.result(PATIENCE)
    model.go_on.set()
    assert results([running, asked, joined, thread.submit(4, BULK)]) == [0, 2, 6, 8]


def test_several_workers_compute_at_once(
    threads: list[BatchThread[int, int]], model: Recorder
) -> None:
    together = threading.Barrier(3)

    def run(items: list[int]) -> Sequence[int]:
        together.wait(PATIENCE)
        return items

    thread = BatchThread("pair", lambda: (run, nullcontext()), watchdog(), max_batch=1, workers=3)
    threads.append(thread)
    assert results([thread.submit(i, BULK) for i in range(6)]) == list(range(6))
    assert thread.stats()["running"] == 0
    assert thread.stats()["done"] == {"interactive": 0, "bulk": 6}


def test_the_lane_is_chosen_when_there_are_cores(
    threads: list[BatchThread[int, int]], model: Recorder
) -> None:
    """Who comes while a batch waits for its turn goes first."""
    cores = Budget(1)
    thread = BatchThread("doubler", lambda: (model.run, cores.take(1)), watchdog(), max_batch=8)
    threads.append(thread)
    with cores.take(1):
        bulk = thread.submit(5, BULK)
        while not cores._waiting:
            pass
        fast = thread.submit(6, FAST)
    assert results([bulk, fast]) == [10, 12]
    assert model.batches == [[6], [5]]


def test_what_a_person_waits_for_too_goes_first(
    threads: list[BatchThread[int, int]], model: Recorder
) -> None:
    thread = start(threads, model, max_batch=1)
    bulk = [thread.submit(i, BULK) for i in (101, 102, 103)]
    thread.promote(bulk[2])
    assert thread.stats()["waiting"] == {"interactive": 1, "bulk": 2}
    model.go_on.set()
    assert results(bulk) == [202, 204, 206]
    assert model.batches == [[103], [101], [102]]
    thread.promote(bulk[2])  # long done
    thread.promote(Future())  # never heard of
    assert thread.stats()["waiting"] == {"interactive": 0, "bulk": 0}


class Loaded(Recorder):
    """A model that is loaded and unloaded."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.unloaded = threading.Event()
        self.is_loaded = False

    def prepare(self) -> tuple[Run[int, int], AbstractContextManager[object]]:
        if not self.is_loaded:
            self.loads += 1
            self.is_loaded = True
        return super().prepare()

    def unload(self) -> None:
        self.is_loaded = False
        self.unloaded.set()


@pytest.mark.parametrize("workers", [1, 3])
def test_an_idle_model_is_unloaded_and_comes_back(
    threads: list[BatchThread[int, int]], workers: int
) -> None:
    model = Loaded()
    thread = BatchThread(
        "doubler",
        model.prepare,
        watchdog(),
        max_batch=1,
        workers=workers,
        life=Life(0.05, model.unload),
    )
    threads.append(thread)
    for loads in (1, 2):
        assert results([thread.submit(i, BULK) for i in range(1, 4)]) == [2, 4, 6]
        assert model.unloaded.wait(PATIENCE)
        model.unloaded.clear()
        assert model.loads == loads


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_holds_an_unloaded_model(
    threads: list[BatchThread[int, int]], workers: int
) -> None:
    class Weights:
        pass

    kept: list[Weights] = []
    gone = threading.Event()

    def prepare() -> tuple[Run[int, int], AbstractContextManager[object]]:
        if not kept:
            kept.append(Weights())
            weakref.finalize(kept[0], gone.set)
        weights = kept[0]

        def run(items: list[int]) -> Sequence[int]:
            assert weights is not None
            return items

        return run, nullcontext()

    thread = BatchThread(
        "heavy", prepare, watchdog(), max_batch=1, workers=workers, life=Life(0.05, kept.clear)
    )
    threads.append(thread)
    assert results([thread.submit(i, BULK) for i in range(8)]) == list(range(8))
    assert gone.wait(PATIENCE)


def test_a_model_at_work_is_not_unloaded(threads: list[BatchThread[int, int]]) -> None:
    model = Loaded()
    thread = BatchThread(
        "doubler", model.prepare, watchdog(), max_batch=1, workers=2, life=Life(0.01, model.unload)
    )
    threads.append(thread)
    thread.submit(0, BULK)
    assert model.running.wait(PATIENCE)
    assert not model.unloaded.wait(0.1)
    model.go_on.set()
    assert model.unloaded.wait(PATIENCE)


def test_a_model_is_loaded_before_it_is_needed(
    threads: list[BatchThread[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    model = Loaded()
    thread = BatchThread("doubler", model.prepare, watchdog(), max_batch=1)
    threads.append(thread)
    model.unavailable = "put it there"
    thread.preload()
    while "doubler can't be loaded yet: put it there" not in caplog.text:
        pass
    model.unavailable = ""
    model.is_loaded = False
    thread.preload()
    while not model.is_loaded:
        pass
    assert model.batches == []
    assert thread.submit(2, FAST).result(PATIENCE) == 4
    assert model.loads == 2


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux")
def test_its_threads_give_way_and_no_others() -> None:
    def run(items: list[int]) -> list[int]:
        return [os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) for _ in items]

    before = os.getpriority(os.PRIO_PROCESS, 0)
    thread = BatchThread("one", lambda: (run, nullcontext()), watchdog(), max_batch=1, nice=7)
    try:
        assert thread.submit(1, Lane.BULK).result(30) == max(7, before)
    finally:
        thread.close()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
