"""Clocks that jump, and a database that goes back in time: Immich restores a backup."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.conftest import SETTINGS
from faults.ground import Ground
from immich.backup import restore
from pg import _host
from pg.embedded import Server

long = pytest.mark.faults
WORKING = "SELECT count(*) > %s FROM indexer_v1.clip"
FAKETIME = sorted(Path("/usr").glob("lib*/**/faketime/libfaketime.so.1"))
needs_faketime = pytest.mark.skipif(
    not FAKETIME, reason="needs libfaketime: apt-get install libfaketime"
)


class Clock:
    """What a process takes for the time of day; its monotonic clock stays right."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump("+0")

    def jump(self, offset: str) -> None:
        """As libfaketime spells it: +1y, -3h, +0."""
        self._file.write_text(f"{offset}\n")

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(FAKETIME[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that the server's user may enter."""
    path = Path(tempfile.mkdtemp(prefix="immich-indexer-faults-clock-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@long
@needs_faketime
@pytest.mark.parametrize("offset", ["+1y", "+3h", "-1y"])
def test_the_servers_clock_jumps(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: str
) -> None:
    """There and back, while workers work, one dies, and a photo rests after a failure."""
    clock = Clock(folder / "clock")
    for name, value in clock.environment.items():
        monkeypatch.setitem(_host._ENV, name, value)
    with Server(folder / "server", settings=SETTINGS) as server:
        ground = Ground(server, tmp_path)
        try:
            started = ground.ask("SELECT now()")
            with ground.load():
                ground.start()
                ground.wait_for(WORKING, 10)
                clock.jump(offset)
                assert abs((ground.ask("SELECT now()") - started).total_seconds()) > 5000
                dying = ground.start(fault="claimed:kill")
                dying.wait(120)
                before = ground.ask("SELECT count(*) FROM indexer_v1.clip")
                ground.wait_for(WORKING, before + 10)
                failing = ground.upload()[0]
                ground.misbehave(failing, "raise")
                again = "SELECT count(*) > 0 FROM indexer_v1.job WHERE next_at > now()"
                ground.wait_for(again)
                clock.jump("+0")
                before = ground.ask("SELECT count(*) FROM indexer_v1.clip")
                ground.wait_for(WORKING, before + 10)
            for wrong in (tmp_path / "wrong").iterdir():
                wrong.unlink()
            ground.db.execute("SELECT indexer_v1.requeue()")
            ground.verify()
        finally:
            ground.close()


@long
@needs_faketime
def test_a_workers_clock_jumps(ground: Ground, folder: Path) -> None:
    clock = Clock(folder / "clock")
    with ground.load():
        ground.start(**clock.environment)
        ground.start()
        for photos, offset in ((10, "+1y"), (20, "-1y"), (30, "+0")):
            ground.wait_for(WORKING, photos)
            clock.jump(offset)
    ground.verify()


@long
def test_a_backup_with_us_is_restored(ground: Ground) -> None:
    """The rows go back in time, the files don't; workers go on meanwhile."""
    kept = {"without": ("delete", "undo_edit")}  # their files are gone, in a real Immich too
    with ground.load(**kept):
        ground.start()
        ground.start()
        ground.wait_for(WORKING, 20)
        backup = ground.immich.dump()
        ground.wait_for(WORKING, 40)
    restore(ground.url, backup)
    ground.reconnect()
    with ground.load(seed=2, **kept):
        ground.wait_for(WORKING, 40)
    ground.verify()


@long
def test_a_backup_from_before_us_is_restored(ground_before_us: Ground) -> None:
    """Our triggers, foreign keys and vector columns vanish, and come back by themselves."""
    ground = ground_before_us
    ground.upload(5)
    backup = ground.immich.dump()
    ground.start()
    ground.wait_for("SELECT to_regclass('indexer_v1.clip') IS NOT NULL")
    with ground.load():
        ground.wait_for(WORKING, 20)
    restore(ground.url, backup)
    ground.reconnect()
    assert ground.ask("SELECT count(*) FROM asset") == 5
    with ground.load(seed=2):
        ground.wait_for(
            "SELECT count(*) = 1 FROM pg_attribute WHERE attname = 'embedding'"
            " AND attrelid = to_regclass('indexer_v1.clip') AND NOT attisdropped"
        )
        ground.wait_for(WORKING, 20)
    ground.verify()
