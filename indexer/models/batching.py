"""Threads per model, two lanes of waiting work, batches formed from what is waiting."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Generic, TypedDict, TypeVar

from indexer.models.types import Lane, ModelUnavailable, TimeLimitError
from indexer.models.watchdog import Watchdog

Item = TypeVar("Item")
Result = TypeVar("Result")
Run = Callable[[list[Item]], Sequence[Result]]
Observe = Callable[[str, str, int, float], None]
"""Told of every batch: name, lane, items, seconds."""

# Bulk never starves: where both lanes wait, it has every fifth batch.
INTERACTIVE_IN_A_ROW = 4

# A person waits for at most the batch that is running, so batches are kept about this short.
BATCH_SECONDS = 0.25

log = logging.getLogger(__name__)


class EngineBusy(Exception):  # noqa: N818 - a state, not a fault of the caller
    """As much interactive work is waiting as is allowed to; ask again in a moment."""


class EngineClosed(Exception):  # noqa: N818 - a state, not a fault of the caller
    """The engine was closed before this was done; nothing was computed."""


class ThreadStats(TypedDict):
    """What one `BatchThread` has waiting and has done. Counted in items but for `batches`."""

    waiting: dict[str, int]
    capacity: int
    running: int
    done: dict[str, int]
    failed: int
    batches: int


@dataclass(frozen=True, slots=True)
class Life:
    """When a model comes and goes.

    Attributes:
        idle_seconds: it is unloaded after this long without work; 0: never.
        unload: forgets it; the next `prepare` loads it again.
    """

    idle_seconds: float = 0.0
    unload: Callable[[], None] = lambda: None


class BatchThread(Generic[Item, Result]):
    """Runs a model for whoever asks, a batch at a time, in a thread or several.

    The interactive lane goes first, except that bulk work has every fifth batch. A batch never
    mixes lanes. It holds what is waiting when a thread is about to compute, up to `max_batch` and
    to what the last batches say fits in `BATCH_SECONDS`.

    Args:
        name: of the threads, for logs and stats.
        prepare: called before each batch: returns how to run one, and what to hold meanwhile.
            Loads the model if need be; raises ModelUnavailable if it can't.
        watchdog: how long a batch may take.
        max_batch: most items in a batch.
        capacity: most items waiting in a lane.
        workers: how many batches at once.
        life: when the model is unloaded.
        observe: told of every batch.
        nice: how much its threads give way to others (Linux; elsewhere they don't).
    """

    def __init__(
        self,
        name: str,
        prepare: Callable[[], tuple[Run[Item, Result], AbstractContextManager[object]]],
        watchdog: Watchdog,
        *,
        max_batch: int,
        capacity: int = 256,
        workers: int = 1,
        life: Life | None = None,
        observe: Observe = lambda *_: None,
        nice: int = 0,
    ) -> None:
        self.name = name
        self._nice = nice
        self._prepare = prepare
        self._watchdog = watchdog
        self._max_batch = max_batch
        self._capacity = capacity
        self._workers = workers
        self._life = life or Life()
        self._observe = observe
        self._lanes: dict[Lane, deque[tuple[Item, Future[Result]]]] = {
            lane: deque() for lane in Lane
        }
        self._changed = threading.Condition()
        self._closed = False
        self._abandoned: str | None = None
        self._threads: list[threading.Thread] = []
        self._busy = 0  # threads that have the model in hand
        self._batches_now: list[list[tuple[Item, Future[Result]]]] = []
        self._preload = False
        self._used: float | None = None  # when the model was in hand last; None: not loaded
        self._interactive_in_a_row = 0
        self._seconds_each: float | None = None
        self._done = dict.fromkeys(Lane, 0)
        self._failed = 0
        self._batches = 0

    def submit(self, item: Item, lane: Lane) -> Future[Result]:
        """Queue one item. Where its lane is full, bulk waits for room: never from an event loop.

        The future fails with EngineBusy (the interactive lane is full), EngineClosed,
        ModelUnavailable, TimeLimitError, or what the model raised for this item.
        """
        future: Future[Result] = Future()
        with self._changed:
            queue = self._lanes[lane]
            if lane is Lane.BULK:
                self._changed.wait_for(lambda: len(queue) < self._capacity or self._closed)
            if self._abandoned is not None:
                future.set_exception(ModelUnavailable(self._abandoned))
            elif self._closed:
                future.set_exception(EngineClosed(f"the {self.name} engine is closed"))
            elif len(queue) >= self._capacity:
                future.set_exception(
                    EngineBusy(f"{len(queue)} requests are waiting for {self.name}; try again soon")
                )
            else:
                queue.append((item, future))
                self._start()
        return future

    def promote(self, future: Future[Result]) -> None:
        """Move what waits in the bulk lane to the interactive one: a person waits for it now."""
        with self._changed:
            bulk = self._lanes[Lane.BULK]
            for waiting in bulk:
                if waiting[1] is future:
                    bulk.remove(waiting)
                    self._lanes[Lane.INTERACTIVE].append(waiting)
                    self._changed.notify_all()
                    return

    def preload(self) -> None:
        """Have the model loaded, in a thread of its own. A failure is logged."""
        with self._changed:
            if not self._closed:
                self._preload = True
                self._start()

    def stats(self) -> ThreadStats:
        """Return the state of the lanes and what has been done so far."""
        with self._changed:
            return {
                "waiting": {lane.name.lower(): len(self._lanes[lane]) for lane in Lane},
                "capacity": self._capacity,
                "running": sum(map(len, self._batches_now)),
                "done": {lane.name.lower(): self._done[lane] for lane in Lane},
                "failed": self._failed,
                "batches": self._batches,
            }

    def close(self) -> None:
        """Let the running batch end; fail what is waiting with EngineClosed."""
        self._refuse(self._close())
        for thread in self._threads:
            if self._abandoned is None and thread is not threading.current_thread():
                thread.join()

    def drop_bulk(self) -> None:
        """Fail what waits in the bulk lane with EngineClosed: the worker gives it back."""
        with self._changed:
            dropped = [future for _, future in self._lanes[Lane.BULK]]
            self._lanes[Lane.BULK].clear()
            self._changed.notify_all()
        self._refuse(dropped)

    def abandon(self, reason: str) -> None:
        """Fail what runs, waits or comes with ModelUnavailable: a thread won't come back."""
        self._abandoned = reason
        waiting = self._close()
        with self._changed:
            running = [future for batch in self._batches_now for _, future in batch]
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(ModelUnavailable(reason))
        for future in running:
            _settle(future, ModelUnavailable(reason))

    def _refuse(self, waiting: list[Future[Result]]) -> None:
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(EngineClosed(f"the {self.name} engine was closed"))

    def _close(self) -> list[Future[Result]]:
        """Take no more; returns what was waiting."""
        with self._changed:
            self._closed = True
            waiting = [future for queue in self._lanes.values() for _, future in queue]
            for queue in self._lanes.values():
                queue.clear()
            self._changed.notify_all()
        return waiting

    def _start(self) -> None:
        while len(self._threads) < self._workers:
            thread = threading.Thread(target=self._work, name=self.name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        if self._nice and sys.platform == "linux":  # elsewhere it would be the whole process's
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        while self._await_work():
            self._serve()
            with self._changed:
                self._busy -= 1
                self._used = time.monotonic()

    def _serve(self) -> None:
        # A method of its own: what holds the model must not outlive it while the thread waits.
        try:
            run, hold = self._prepare()
        except Exception as error:
            self._unprepared(error)
        else:
            # Who goes first is decided when there are cores to go on.
            with hold:
                self._run_next(run)

    def _await_work(self) -> bool:
        """Wait for a reason to have the model in hand, unloading it meanwhile; False: closed."""
        with self._changed:
            while not self._closed and not self._preload and not any(self._lanes.values()):
                patience = None
                if self._life.idle_seconds and self._used is not None and not self._busy:
                    patience = self._used + self._life.idle_seconds - time.monotonic()
                    if patience <= 0:
                        self._used = None
                        log.info("%s: unloaded, it was idle", self.name)
                        self._life.unload()
                        continue
                self._changed.wait(patience)
            self._preload = False
            self._busy += 1
            return not self._closed

    def _unprepared(self, error: Exception) -> None:
        with self._changed:
            batch = self._take(self._choose_lane())
            self._changed.notify_all()
        if not batch:
            log.warning("%s can't be loaded yet: %s", self.name, error)
        self._fail(batch, error)

    def _run_next(self, run: Run[Item, Result]) -> None:
        with self._changed:
            lane = self._choose_lane()
            batch = self._take(lane)
            self._batches_now.append(batch)
            self._changed.notify_all()
        started = time.perf_counter()
        if batch:
            self._run(run, batch, lane)
        seconds = time.perf_counter() - started
        with self._changed:
            self._batches_now.remove(batch)
            if batch:
                self._learn(seconds / len(batch))
        if batch:
            self._observe(self.name, lane.name.lower(), len(batch), seconds)

    def _choose_lane(self) -> Lane:
        bulk_is_due = self._interactive_in_a_row >= INTERACTIVE_IN_A_ROW
        if self._lanes[Lane.INTERACTIVE] and not (self._lanes[Lane.BULK] and bulk_is_due):
            self._interactive_in_a_row += 1
            return Lane.INTERACTIVE
        self._interactive_in_a_row = 0
        return Lane.BULK

    def _take(self, lane: Lane) -> list[tuple[Item, Future[Result]]]:
        fits = int(BATCH_SECONDS / self._seconds_each) if self._seconds_each else 1
        batch: list[tuple[Item, Future[Result]]] = []
        queue = self._lanes[lane]
        while queue and len(batch) < max(1, min(fits, self._max_batch)):
            item, future = queue.popleft()
            if future.set_running_or_notify_cancel():
                batch.append((item, future))
        return batch

    def _learn(self, seconds: float) -> None:
        # Half of what is known is the last batch: the first one's warm-up is soon forgotten.
        known = seconds if self._seconds_each is None else self._seconds_each
        self._seconds_each = max(1e-6, (known + seconds) / 2)

    def _run(
        self, run: Run[Item, Result], batch: list[tuple[Item, Future[Result]]], lane: Lane
    ) -> None:
        try:
            with self._watchdog.watch(
                f"{self.name} inference", len(batch), lambda late: self._fail(batch, late)
            ):
                results = run([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except Exception as error:
            if len(batch) == 1 or isinstance(error, ModelUnavailable):
                self._fail(batch, error)
                return
            log.warning("%s failed for a batch of %d, trying singly", self.name, len(batch))
            for one in batch:
                self._run(run, [one], lane)
            return
        with self._changed:
            self._batches += 1
            self._done[lane] += len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            with suppress(InvalidStateError):  # it was given up meanwhile
                future.set_result(result)

    def _fail(self, batch: list[tuple[Item, Future[Result]]], error: Exception) -> None:
        with self._changed:
            self._failed += len(batch)
        for _, future in batch:
            # An exception for each: the tracebacks of those who raise it must not mingle.
            if isinstance(error, ModelUnavailable):
                _settle(future, ModelUnavailable(*error.args))
            elif isinstance(error, TimeLimitError):
                _settle(future, TimeLimitError(*error.args, alone=error.alone))
            else:
                _settle(future, error)


def _settle(future: Future[Result], error: Exception) -> None:
    with suppress(InvalidStateError):
        future.set_exception(error)
