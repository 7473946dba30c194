"""What was missed is found: by one process at a time, again and again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from PIL import Image

from immich.events import FakeImmich
from indexer import reconcile as module
from indexer import results
from indexer.media import Media
from indexer.models.types import OcrOptions
from indexer.reconcile import Reconciler, Repairs, find_changed_files, reconcile
from indexer.results import FileStamp
from indexer.settings import Settings
from pg.connect import Connection, connect
from pg.migrate import MigrationError, create_library_tables, migrate
from pg.query import fetch_value

PATIENCE_SECONDS = 60.0
SETTINGS = Settings(db_url="postgresql://x/y", clip_model="stand-in")


def reader(options: OcrOptions) -> str:
    return "reader"


def picture(size: int = 40) -> bytes:
    out = BytesIO()
    Image.new("RGB", (size, 30), "red").save(out, "PNG")
    return out.getvalue()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.01)


@pytest.fixture
def db(indexed_database: str) -> Iterator[Connection]:
    with connect(indexed_database) as connection:
        yield connection


def add_text(db: Connection, asset: UUID, path: Path | None = None) -> None:
    """The result of having read it."""
    stamp = FileStamp.of(path) if path else None
    db.execute(
        "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash,"
        " file_size, file_modified) VALUES (%s, '', '[]', '', 't', 'reader', sha256(''), %s, %s)",
        [asset, stamp and stamp.size, stamp and stamp.modified],
    )
    db.execute("DELETE FROM indexer_v1.job WHERE asset_id = %s", [asset])


def test_nothing_was_missed(db: Connection) -> None:
    assert reconcile(db, SETTINGS, reader) == Repairs()


def test_everything_was_missed(db: Connection, indexed_immich: FakeImmich) -> None:
    db.execute("DROP TRIGGER immich_indexer_insert ON asset_file")
    db.execute("DROP TRIGGER immich_indexer_insert ON tag_asset")
    db.execute("ALTER TABLE asset DISABLE TRIGGER immich_indexer_update")
    asset = indexed_immich.upload(picture())
    indexed_immich.tag(asset, "reprocess/ocr")
    db.execute("INSERT INTO indexer_v1.reprocess (asset_id) VALUES (%s)", [asset])
    db.execute("DELETE FROM indexer_v1.job")
    gone = indexed_immich.upload(picture(50))
    db.execute("INSERT INTO indexer_v1.reprocess (asset_id) VALUES (%s)", [gone])
    indexed_immich.delete(gone)
    repairs = reconcile(db, SETTINGS, reader)
    assert repairs == Repairs(jobs=2, triggers=3, requests=1, tags=1)
    assert reconcile(db, SETTINGS, reader) == Repairs()


def test_one_process_at_a_time(db: Connection, indexed_database: str) -> None:
    with connect(indexed_database) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [module._ADVISORY_LOCK])
        assert reconcile(db, SETTINGS, reader) is None
    wait_for(lambda: reconcile(db, SETTINGS, reader) is not None)


def test_in_the_middle_of_a_restore(db: Connection, indexed_database: str) -> None:
    """Nothing is done, nothing stays locked."""
    db.execute("ALTER TABLE asset RENAME TO elsewhere")
    with pytest.raises(MigrationError, match="holds no Immich"):
        reconcile(db, SETTINGS, reader)
    db.execute("ALTER TABLE elsewhere RENAME TO asset")
    with connect(indexed_database) as other:
        assert reconcile(other, SETTINGS, reader) == Repairs()


def test_another_reader_reads_everything_again(db: Connection, indexed_immich: FakeImmich) -> None:
    assert reconcile(db, SETTINGS, reader) == Repairs()
    add_text(db, indexed_immich.upload(picture()))
    db.execute("DELETE FROM indexer_v1.job")
    reconcile(db, SETTINGS, reader)
    tasks = "SELECT array_agg(task ORDER BY task) FROM indexer_v1.job"
    assert fetch_value(db, tasks) == ["clip"]
    reconcile(db, SETTINGS, lambda options: "better reader")
    assert fetch_value(db, tasks) == ["clip", "ocr"]


# Files that change under the same path


@pytest.fixture
def media(indexed_immich: FakeImmich) -> Media:
    return Media.parse(f"{indexed_immich.location}={indexed_immich.media_dir}")


def test_changed_files(
    db: Connection, indexed_immich: FakeImmich, media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FILES_CHUNK", 3)
    monkeypatch.setattr(module, "_FILES_PAUSE_SECONDS", 0)
    assets = [indexed_immich.upload(picture(40 + number)) for number in range(8)]
    for asset in assets:
        add_text(db, asset, indexed_immich.preview_path(asset))
    assert find_changed_files(db, media) == 0
    larger, newer, gone, *_ = assets
    indexed_immich.change_on_disk(larger, picture(100))
    os.utime(indexed_immich.preview_path(newer), (1, 1))
    indexed_immich.preview_path(gone).unlink()  # left to be
    assert find_changed_files(db, media) == 2
    found = fetch_value(db, "SELECT array_agg(DISTINCT asset_id) FROM indexer_v1.job")
    assert set(found) == {larger, newer}


def test_the_sweep_can_be_stopped(db: Connection, media: Media) -> None:
    stop = threading.Event()
    stop.set()
    assert find_changed_files(db, media, stop) == 0


def test_the_media_folder_away_is_no_change(
    db: Connection, indexed_immich: FakeImmich, media: Media
) -> None:
    asset = indexed_immich.upload(picture())
    add_text(db, asset, indexed_immich.preview_path(asset))
    indexed_immich.media_dir.rename(indexed_immich.media_dir.with_name("away"))
    assert find_changed_files(db, media) == 0


# The thread


@pytest.fixture
def running() -> Iterator[Callable[[Reconciler], Reconciler]]:
    started: list[Reconciler] = []

    def start(reconciler: Reconciler) -> Reconciler:
        reconciler.start()
        started.append(reconciler)
        return reconciler

    yield start
    for reconciler in started:
        reconciler.stop()


def test_it_looks_at_every_start(
    db: Connection,
    indexed_immich: FakeImmich,
    running: Callable[[Reconciler], Reconciler],
) -> None:
    indexed_immich.upload(picture())
    db.execute("DELETE FROM indexer_v1.job")
    running(Reconciler(SETTINGS, indexed_immich.url, reader))
    wait_for(lambda: fetch_value(db, "SELECT count(*) = 2 FROM indexer_v1.job"))


@pytest.mark.parametrize("error", [OSError("away"), LookupError("unheard of")])
def test_it_goes_on_after_an_error(
    db: Connection,
    indexed_immich: FakeImmich,
    running: Callable[[Reconciler], Reconciler],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    monkeypatch.setattr(module, "INTERVAL_SECONDS", 0.05)
    asked: list[OcrOptions] = []

    def failing(options: OcrOptions) -> str:
        asked.append(options)
        if len(asked) < 4:
            raise error
        return "reader"

    indexed_immich.upload(picture())
    db.execute("DELETE FROM indexer_v1.job")
    running(Reconciler(SETTINGS, indexed_immich.url, failing))
    wait_for(lambda: fetch_value(db, "SELECT count(*) = 2 FROM indexer_v1.job"))
    assert len(asked) >= 4


def test_it_follows_a_folder(
    databases: Any,
    tmp_path: Path,
    running: Callable[[Reconciler], Reconciler],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(connection: Connection) -> None:
        create_library_tables(connection)
        migrate(connection)

    monkeypatch.setattr(module, "_FOLDER_INTERVAL_SECONDS", 0.05)
    url = databases.fresh("library", build)
    with connect(url) as connection:
        reconciler = running(Reconciler(Settings(), url, reader, tmp_path))
        (tmp_path / "a.jpg").write_bytes(b"x")
        wait_for(lambda: fetch_value(connection, "SELECT count(*) = 2 FROM indexer_v1.job"))
        (tmp_path / "note.txt").write_text("mounted, and no photos in it")
        (tmp_path / "a.jpg").unlink()
        wait_for(lambda: fetch_value(connection, "SELECT count(*) = 0 FROM indexer_v1.job"))
        reconciler.stop()
    databases.drop(url)


def test_it_says_when_immich_has_another_clip_model(
    indexed_immich: FakeImmich, running: Callable[[Reconciler], Reconciler]
) -> None:
    heard: list[str] = []
    indexed_immich.change_clip_model("cn-clip/RN50__openai", 1024)
    running(Reconciler(SETTINGS, indexed_immich.url, reader, on_clip_model=heard.append))
    wait_for(lambda: heard == ["RN50"])


def test_it_says_when_the_database_has_forgotten_the_clip_model(
    indexed_immich: FakeImmich,
    running: Callable[[Reconciler], Reconciler],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a fail-over to a copy from before us: who starts anew records one."""
    monkeypatch.setattr(module, "INTERVAL_SECONDS", 0.05)
    heard: list[str] = []
    with connect(indexed_immich.url) as connection:
        results.use_clip_model(connection, "stand-in", 64)
        reconciler = Reconciler(SETTINGS, indexed_immich.url, reader, on_clip_model=heard.append)
        running(reconciler)
        wait_for(lambda: reconciler._recorded)
        connection.execute("DELETE FROM indexer_v1.setting WHERE name = 'clip_model'")
        wait_for(lambda: heard == ["stand-in"])


def test_stopping_what_never_began() -> None:
    Reconciler(SETTINGS, f"postgresql://127.0.0.1/{uuid4()}", reader).stop()
