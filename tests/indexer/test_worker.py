"""The worker: what it does with its batches when the database, a model or a photo lets it down.

Inference is a stand-in wherever a test has to say when it ends; test_faults.py has real processes
and real models.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from inferences import LINE, Inferences
from PIL import Image

from faults.proxy import Proxy
from immich.base import load_schema
from immich.events import FakeImmich
from indexer import queue, results, worker
from indexer.models import images
from indexer.models.images import Photo
from indexer.models.types import ModelUnavailable
from indexer.queue import Outcome
from indexer.settings import Settings
from indexer.shared import SharedEngine
from indexer.worker import Worker
from pg.connect import Connection, connect
from pg.embedded import Server
from pg.migrate import migrate
from pg.query import fetch_one, fetch_value

PATIENCE_SECONDS = 60.0
IDLE = "SELECT NOT EXISTS (SELECT FROM indexer_v1.job WHERE dead_at IS NULL)"
LEASED = "SELECT count(*) FROM indexer_v1.job WHERE lease_token IS NOT NULL"


class Gate:
    """Holds inferences back until it is opened."""

    def __init__(self, engine: Inferences) -> None:
        self._engine = engine
        self._open = threading.Event()
        self._waiting = threading.Semaphore(0)

    def __call__(self, task: str, photo: Photo) -> Any:
        self._waiting.release()
        assert self._open.wait(PATIENCE_SECONDS)
        return self._engine.result(task, photo)

    def wait_until_somebody_waits(self, inferences: int = 1) -> None:
        for _ in range(inferences):
            assert self._waiting.acquire(timeout=PATIENCE_SECONDS)

    def open(self) -> None:
        self._open.set()


class Desk:
    """A database with photos, and workers on it."""

    def __init__(self, immich: FakeImmich, stack: ExitStack) -> None:
        self.immich = immich
        self.stack = stack
        self.db: Connection = stack.enter_context(connect(immich.url))
        results.use_clip_model(self.db, "stand-in", 64)
        self.settings = Settings(
            db_url=immich.url,
            media_map=f"{immich.location}={immich.media_dir}",
            clip_model="stand-in",
            clip_download="off",
            poll_seconds=0.2,
            lease_seconds=3,  # the heart beats every second
            batch_size=4,
        )
        self.outcomes: list[Outcome] = []

    def upload(self, count: int = 1) -> list[UUID]:
        return [self.immich.upload(picture()) for _ in range(count)]

    def start(self, engine: Any, url: str | None = None, **settings: Any) -> Worker:
        made = Worker(
            msgspec.structs.replace(self.settings, **settings),
            url or self.immich.url,
            engine,
            self.outcomes.append,
        )
        made.start()
        self.stack.callback(made.stop)
        return made

    def wait_for(self, condition: str | Callable[[], object], *values: Any) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (
            fetch_value(self.db, condition, values) if isinstance(condition, str) else condition()
        ):
            assert time.monotonic() < deadline, f"never came true: {condition}"
            time.sleep(0.02)

    def ask(self, statement: str, *values: Any) -> Any:
        return fetch_value(self.db, statement, values)


SIZES = itertools.count(40)


def picture() -> bytes:
    """Each another one."""
    out = BytesIO()
    Image.new("RGB", (next(SIZES), 32), "orange").save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def desk(indexed_immich: FakeImmich, stack: ExitStack) -> Desk:
    return Desk(indexed_immich, stack)


@pytest.fixture
def engine() -> Inferences:
    return Inferences()


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses after outages are short."""
    monkeypatch.setattr(worker, "_OUTAGE_SECONDS", 0.2)


# The ordinary day


def test_everything_is_done_once(desk: Desk, engine: Inferences) -> None:
    desk.upload(10)
    desk.start(engine)
    desk.wait_for(IDLE)
    desk.wait_for(lambda: len(desk.outcomes) == 20)  # told of after the commit
    assert len(engine.asked) == len(set(engine.hashes)) == 20
    assert desk.ask("SELECT count(*) FROM indexer_v1.ocr WHERE text = %s", LINE.text) == 10
    assert desk.ask("SELECT count(*) FROM indexer_v1.clip WHERE model = 'stand-in'") == 10


def test_two_workers_share_and_do_nothing_twice(desk: Desk) -> None:
    """Their inferences are counted: no photo is in both, none is missing."""
    assets = desk.upload(40)
    engines = [Inferences(), Inferences()]
    gates = [Gate(engine) for engine in engines]
    for engine, gate in zip(engines, gates, strict=True):
        engine.answer = gate
        desk.start(engine)
    for gate in gates:
        gate.wait_until_somebody_waits()  # both have something
        gate.open()
    desk.wait_for(IDLE)
    counted = Counter(engines[0].hashes) + Counter(engines[1].hashes)
    assert len(counted) == 2 * len(assets)
    assert set(counted.values()) == {1}
    assert all(engine.hashes for engine in engines)
    desk.wait_for("SELECT sum(done) = 80 FROM indexer_v1.worker")


def test_a_photo_is_read_once_for_both_tasks(
    desk: Desk, engine: Inferences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though two lanes hear of it at the same time."""
    read: list[Path] = []
    original = images.read

    def counted(path: Path, **limits: Any) -> bytes:
        read.append(path)
        return original(path, **limits)

    monkeypatch.setattr(images, "read", counted)
    assets = desk.upload(20)
    desk.db.execute("DELETE FROM indexer_v1.job")
    desk.start(engine)
    desk.wait_for("SELECT EXISTS (SELECT FROM indexer_v1.worker)")
    for asset in assets:
        desk.db.execute("SELECT indexer_v1.enqueue(%s)", [[asset]])
        desk.wait_for(IDLE)
    assert len(engine.asked) == 40
    assert len(read) == 20


def test_notify_wakes_it(desk: Desk, engine: Inferences) -> None:
    """Without it, the next look would be in an hour."""
    desk.start(engine, poll_seconds=3600)
    desk.wait_for("SELECT EXISTS (SELECT FROM indexer_v1.worker)")
    for number in range(3):
        desk.upload()
        desk.wait_for("SELECT count(*) = %s FROM indexer_v1.clip", number + 1)


def test_a_preview_row_in_plain_sql_is_all_it_takes(desk: Desk) -> None:
    """Trigger → job → read, embedded → found, with the real models."""
    desk.start(desk.stack.enter_context(closing_engine(desk)))
    path = desk.immich.media_dir / "by-hand.jpg"
    out = BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, "PNG")
    path.parent.mkdir()
    path.write_bytes(out.getvalue())
    owner = desk.immich.owner
    with desk.immich.db.transaction():
        asset = fetch_value(
            desk.immich.db,
            'INSERT INTO asset ("ownerId", type, "originalPath", "originalFileName", checksum,'
            ' "checksumAlgorithm", "fileCreatedAt", "fileModifiedAt", "localDateTime")'
            " VALUES (%s, 'IMAGE', '/x.jpg', 'x.jpg', 'x', 'sha1', now(), now(), now())"
            " RETURNING id",
            [owner],
        )
        desk.immich.db.execute(
            "INSERT INTO asset_file (\"assetId\", type, path) VALUES (%s, 'preview', %s)",
            [asset, str(desk.immich.location / "by-hand.jpg")],
        )
    desk.wait_for(
        "SELECT EXISTS (SELECT FROM indexer_v1.search(NULL, (SELECT embedding::vector"
        " FROM indexer_v1.clip)) WHERE asset_id = %s)",
        asset,
    )
    desk.wait_for(IDLE)
    assert desk.ask("SELECT text FROM indexer_v1.ocr") == ""


def closing_engine(desk: Desk) -> Any:
    class Closing(SharedEngine):
        def __enter__(self) -> SharedEngine:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

    return Closing(desk.settings, desk.immich.url)


def test_it_says_what_it_is(desk: Desk, engine: Inferences) -> None:
    engine.problem = "put the file there"
    made = desk.start(engine)
    desk.upload(3)
    desk.wait_for("SELECT coalesce(sum(done), 0) >= 3 FROM indexer_v1.worker")
    device, note, rate = fetch_one(desk.db, "SELECT device, note, rate FROM indexer_v1.worker")
    assert (device, note) == ("cpu", "CLIP waits: put the file there")
    assert rate > 0
    made.stop()
    assert desk.ask("SELECT count(*) FROM indexer_v1.worker") == 0


# CLIP that isn't there


def test_without_clip_texts_are_read_and_clip_waits(desk: Desk, engine: Inferences) -> None:
    engine.problem = "put the file there"
    desk.upload(5)
    desk.start(engine)
    desk.wait_for("SELECT count(*) = 5 FROM indexer_v1.ocr")
    desk.wait_for("SELECT NOT EXISTS (SELECT FROM indexer_v1.job WHERE task = 'ocr')")
    waiting = "SELECT count(*), max(attempts), max(last_error) FROM indexer_v1.job"
    assert fetch_one(desk.db, waiting) == (5, 0, None)
    engine.problem = None  # somebody has put it there
    desk.wait_for(IDLE)
    assert desk.ask("SELECT count(*) FROM indexer_v1.clip") == 5


def test_weights_that_are_missing_for_real(desk: Desk, tmp_path: Path) -> None:
    results.use_clip_model(desk.db, "ViT-B-16", 512)
    desk.settings = msgspec.structs.replace(
        desk.settings, clip_model="ViT-B-16", clip_download_root=tmp_path / "clip"
    )
    desk.upload(2)
    desk.start(desk.stack.enter_context(closing_engine(desk)))
    desk.wait_for("SELECT count(*) = 2 FROM indexer_v1.ocr")
    desk.wait_for("SELECT note LIKE '%%put clip_cn_vit-b-16.pt into%%' FROM indexer_v1.worker")
    assert desk.ask("SELECT array_agg(attempts) FROM indexer_v1.job") == [0, 0]


def test_another_clip_model_than_the_index(desk: Desk, engine: Inferences) -> None:
    results.use_clip_model(desk.db, "RN50", 1024)
    desk.upload(2)
    desk.start(engine)
    desk.wait_for("SELECT count(*) = 2 FROM indexer_v1.ocr")
    desk.wait_for(
        "SELECT note LIKE '%%made with the CLIP model RN50, this worker has stand-in%%'"
        " FROM indexer_v1.worker"
    )
    assert not any(task == "clip" for task, _ in engine.hashes)


def test_the_index_moves_to_another_clip_model_in_mid_batch(desk: Desk, engine: Inferences) -> None:
    gate = Gate(engine)
    engine.answer = gate
    desk.upload(6)
    desk.start(engine, lease_seconds=3600)
    gate.wait_until_somebody_waits()
    results.use_clip_model(desk.db, "RN50", 1024)
    gate.open()
    desk.wait_for("SELECT count(*) = 6 FROM indexer_v1.ocr")
    desk.wait_for("SELECT count(*) = 6 AND max(attempts) = 0 FROM indexer_v1.job")
    assert desk.ask("SELECT count(*) FROM indexer_v1.clip") == 0


@pytest.mark.usefixtures("brisk")
def test_a_model_that_fails_to_load_charges_nobody(desk: Desk, engine: Inferences) -> None:
    broken = threading.Event()
    broken.set()

    def answer(task: str, photo: Photo) -> Any:
        if broken.is_set():
            raise ModelUnavailable("no memory")
        return engine.result(task, photo)

    engine.answer = answer
    desk.upload(5)
    desk.start(engine)
    desk.wait_for(lambda: len(engine.asked) > 40)  # far more often than attempts are allowed
    broken.clear()
    desk.wait_for(IDLE)
    assert desk.ask("SELECT count(*) FROM indexer_v1.clip") == 5


# The database lets it down


def test_a_lost_connection_charges_nobody(desk: Desk, engine: Inferences) -> None:
    """As often as it likes: what was claimed is given back when the database is there again."""
    proxy = Proxy(desk.immich.url)
    desk.stack.callback(proxy.close)
    desk.upload()
    engine.answer = gate = Gate(engine)
    made = desk.start(engine, proxy.url, lease_seconds=3600, max_attempts=2)
    for _ in range(3):
        gate.wait_until_somebody_waits(2)
        engine.answer = following = Gate(engine)
        with proxy.away():
            gate.open()
            desk.wait_for(lambda: made._owed)  # it couldn't write what came out
        gate = following
    gate.open()
    desk.wait_for(IDLE)
    desk.wait_for(lambda: len(desk.outcomes) == 2)
    assert [(outcome.job.attempts, outcome.job.suspect) for outcome in desk.outcomes] == [
        (1, False)
    ] * 2
    assert desk.ask("SELECT count(*) FROM indexer_v1.job") == 0  # no dead letters


def test_postgresql_is_restarted_under_it(tmp_path: Path, stack: ExitStack) -> None:
    server = Server(tmp_path / "pg", settings={"fsync": "off"})
    stack.callback(server.stop)
    url = server.start()
    with connect(url) as connection:
        load_schema(connection)
        migrate(connection)
    immich = FakeImmich(url, tmp_path / "media")
    desk = Desk(immich, stack)
    engine = Inferences()
    gate = Gate(engine)
    engine.answer = gate
    desk.upload(8)
    desk.start(engine, lease_seconds=3600)
    gate.wait_until_somebody_waits()
    immich.close()
    desk.db.close()
    server.stop()
    gate.open()
    assert server.start() == url
    desk.db = stack.enter_context(connect(url))
    desk.wait_for(IDLE)
    assert desk.ask("SELECT count(*) FROM indexer_v1.job") == 0
    immich.db = immich._connect()
    stack.callback(immich.close)
    desk.upload(2)  # and it listens again
    desk.wait_for("SELECT count(*) = 10 FROM indexer_v1.clip")
    desk.wait_for("SELECT EXISTS (SELECT FROM indexer_v1.worker)")


def test_leases_last_as_long_as_the_work(desk: Desk, engine: Inferences) -> None:
    """Longer than LEASE_SECONDS: nobody else gets the jobs."""
    gate = Gate(engine)
    engine.answer = gate
    desk.upload(2)
    desk.start(engine)
    gate.wait_until_somebody_waits()
    desk.wait_for(lambda: desk.ask(LEASED) == 4)
    first = desk.ask("SELECT min(lease_until) FROM indexer_v1.job")
    while desk.ask("SELECT now() < %s + interval '2 seconds'", first):
        assert queue.claim(desk.db, uuid4(), ["ocr", "clip"], 10, 60, 3, True) == []
        time.sleep(0.05)
    gate.open()
    desk.wait_for(lambda: len(desk.outcomes) == 4)  # told of after the commit
    assert {outcome.job.attempts for outcome in desk.outcomes} == {1}


def test_somebodys_open_transaction_stops_one_photo_only(
    desk: Desk, engine: Inferences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "_HOLD_TRIES", 3)
    held, *others = desk.upload(9)
    gate = Gate(engine)
    engine.answer = gate
    desk.start(engine, lease_seconds=2)
    gate.wait_until_somebody_waits()
    person = desk.stack.enter_context(connect(desk.immich.url))
    with person.transaction():
        person.execute("INSERT INTO indexer_v1.reprocess (asset_id) VALUES (%s)", [held])
        gate.open()
        desk.wait_for("SELECT count(*) = 8 FROM indexer_v1.clip WHERE asset_id <> %s", held)
        desk.upload(3)
        desk.wait_for("SELECT count(*) = 11 FROM indexer_v1.clip WHERE asset_id <> %s", held)
    desk.wait_for("SELECT status = 'done' FROM indexer_v1.reprocess")
    desk.wait_for(IDLE)
    assert len(others) == 8


# Photos let it down


def test_a_suspect_runs_alone(desk: Desk, engine: Inferences) -> None:
    """A worker died of one of two: while each is tried, nothing else is at work."""
    suspects = desk.upload(2)
    desk.db.execute("UPDATE indexer_v1.job SET attempts = 1")
    desk.upload(20)
    names = {content(desk, asset): asset for asset in suspects}
    running: Counter[UUID | None] = Counter()
    beside: list[Counter[UUID | None]] = []
    lock = threading.Lock()

    def answer(task: str, photo: Photo) -> Any:
        who = names.get(photo.sha256)
        with lock:
            running[who] += 1
        time.sleep(0.02)
        with lock:
            if who is not None:
                beside.append(Counter({k: n for k, n in running.items() if n and k != who}))
            running[who] -= 1
        return engine.result(task, photo)

    engine.answer = answer
    desk.start(engine)
    desk.wait_for(IDLE)
    assert len(beside) == 4
    assert not any(beside)


def content(desk: Desk, asset: UUID) -> bytes:
    return hashlib.sha256(desk.immich.preview_path(asset).read_bytes()).digest()


@pytest.mark.usefixtures("brisk")
def test_an_error_that_nobody_thought_of(desk: Desk, engine: Inferences) -> None:
    """A fault in our own code at one photo: it ends dead, its neighbours are indexed."""
    poison, *others = desk.upload(5)
    bad = content(desk, poison)
    submit = engine._submit

    def broken(task: str, photo: Photo, force: bool) -> Any:
        if photo.sha256 == bad:
            raise TypeError("nobody thought of it")
        return submit(task, photo, force)

    engine._submit = broken  # type: ignore[method-assign]
    desk.start(engine, lease_seconds=1)
    desk.wait_for(IDLE)
    dead = desk.db.execute(
        "SELECT DISTINCT asset_id, attempts, last_error FROM indexer_v1.job"
    ).fetchall()
    assert [(row[0], row[1]) for row in dead] == [(poison, 3)]
    assert desk.ask("SELECT count(*) FROM indexer_v1.clip") == len(others)


def test_the_media_folder_is_away_in_folder_mode(
    desk: Desk, engine: Inferences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's photos are its previews: nobody's fault if the whole folder is away."""
    monkeypatch.setattr(worker, "_OUTAGE_SECONDS", 0.1)
    desk.upload(3)
    folder = desk.immich.media_dir
    folder.rename(folder.with_name("away"))
    desk.start(engine, db_url="", media_map="", photos_dir=folder, max_attempts=1)
    desk.wait_for("SELECT bool_and(next_at > created_at AND attempts = 0) FROM indexer_v1.job")
    folder.with_name("away").rename(folder)
    desk.wait_for(IDLE)
    assert desk.ask("SELECT count(*) FROM indexer_v1.clip") == 3


def test_a_missing_file_fails_after_its_attempts(desk: Desk, engine: Inferences) -> None:
    gone, kept = desk.upload(2)
    desk.immich.preview_path(gone).unlink()
    desk.db.execute("INSERT INTO indexer_v1.reprocess (asset_id) VALUES (%s)", [gone])
    desk.start(engine, max_attempts=2)
    desk.wait_for("SELECT count(*) = 2 FROM indexer_v1.job WHERE attempts = 1")
    desk.db.execute("UPDATE indexer_v1.job SET next_at = now()")  # the pause is over
    desk.wait_for("SELECT finished_at IS NOT NULL FROM indexer_v1.reprocess")
    status = desk.ask("SELECT status FROM indexer_v1.reprocess")
    assert status.count("No such file or directory") == 2
    assert desk.ask("SELECT array_agg(DISTINCT attempts) FROM indexer_v1.job") == [2]
    assert desk.ask("SELECT array_agg(asset_id) FROM indexer_v1.clip") == [kept]


# Stopping


def test_stopping_finishes_what_is_begun_and_gives_the_rest_back(
    desk: Desk, engine: Inferences
) -> None:
    desk.upload(30)
    gate = Gate(engine)
    engine.answer = gate
    made = desk.start(engine, batch_size=15)
    gate.wait_until_somebody_waits()
    desk.wait_for(lambda: desk.ask(LEASED) > 20)
    stopping = threading.Thread(target=made.stop)
    stopping.start()
    desk.wait_for(made.wait)
    gate.open()
    stopping.join(PATIENCE_SECONDS)
    assert not stopping.is_alive()
    assert desk.ask(LEASED) == 0
    assert desk.ask("SELECT max(attempts) FROM indexer_v1.job") == 0
    assert len(desk.outcomes) == len(engine.asked)
    assert 0 < len(desk.outcomes) < 60
    left = desk.ask("SELECT count(*) FROM indexer_v1.job")
    assert left + len(desk.outcomes) == 60
    made.stop()


def test_stopping_while_the_database_is_away(desk: Desk, engine: Inferences) -> None:
    proxy = Proxy(desk.immich.url)
    desk.stack.callback(proxy.close)
    made = desk.start(engine, proxy.url)
    with proxy.away():
        desk.wait_for(lambda: made._listener.reconnects > 0)
        stopping = threading.Thread(target=made.stop)
        stopping.start()
        stopping.join(PATIENCE_SECONDS)
        assert not stopping.is_alive()


def test_stopping_what_idles(desk: Desk, engine: Inferences) -> None:
    made = desk.start(engine, poll_seconds=3600)
    desk.wait_for("SELECT EXISTS (SELECT FROM indexer_v1.worker)")
    made.stop()
    assert desk.ask("SELECT count(*) FROM indexer_v1.worker") == 0


def test_what_a_frozen_worker_holds_is_let_go_of(indexed_database: str, engine: Inferences) -> None:
    """By PostgreSQL; Immich may be waiting for it. Frozen for real: tests/faults."""
    idle = Worker(Settings(), indexed_database, engine)
    with idle._connect() as connection:
        show = "SELECT current_setting(%s, true)"
        assert fetch_value(connection, show, ["idle_in_transaction_session_timeout"]) == "30s"
        whole = fetch_value(connection, show, ["transaction_timeout"])  # PostgreSQL 17 and later
        assert whole == ("2min" if connection.info.server_version >= 170_000 else None)
