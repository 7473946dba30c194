"""Real worker processes, killed and stopped for real; bad pictures; a folder that goes away."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from PIL import Image

from immich.events import FakeImmich
from immich_indexer.runtime import SAMPLES, prepare
from indexer.settings import Settings
from pg.connect import connect
from pg.query import fetch_value

PATIENCE_SECONDS = 90.0
HANGING = Path(__file__).with_name("hanging_worker.py")
SMALL = "parking-small.jpg"
FOUND = "SELECT EXISTS (SELECT FROM indexer_v1.search('出口') WHERE asset_id = %s)"
IDLE = "SELECT NOT EXISTS (SELECT FROM indexer_v1.job WHERE dead_at IS NULL)"


class Farm:
    """Worker processes on one database: real ones, or quick ones, which load no models.

    What a quick one does wrong, and at which step, `faults.process` says.
    """

    def __init__(self, url: str, immich: FakeImmich) -> None:
        self.url = url
        self.immich = immich
        self.db = connect(url)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.wrong = immich.media_dir.with_name("wrong")
        self.wrong.mkdir()
        prepare(url, Settings(db_url=url, clip_model="stand-in"), choose_clip_model=True)

    def start(self, *command: str, **settings: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "DB_URL": self.url,
            "MEDIA_MAP": f"{self.immich.location}={self.immich.media_dir}",
            "CLIP_MODEL": "stand-in",
            "CLIP_DOWNLOAD": "off",
            "LEASE_SECONDS": "3",
            "POLL_SECONDS": "0.5",
            **settings,
        }
        arguments = command or (sys.executable, "-m", "immich_indexer", "worker")
        worker = subprocess.Popen(arguments, env=environment)
        self.workers.append(worker)
        return worker

    def start_quick(self, fault: str = "", **settings: str) -> subprocess.Popen[bytes]:
        settings = {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FAULT": fault,
            "FAULT_DIR": str(self.wrong),
            "OUTAGE_SECONDS": "0.5",
            "LEASE_SECONDS": "1",
            **settings,
        }
        return self.start(sys.executable, "-m", "faults.process", "worker", **settings)

    def misbehave(self, asset: UUID, how: str) -> None:
        """Whichever quick worker looks at this photo."""
        data = self.immich.preview_path(asset).read_bytes()
        (self.wrong / hashlib.sha256(data).hexdigest()).write_text(how)

    def ask(self, statement: str, *values: Any) -> Any:
        return fetch_value(self.db, statement, values)

    def wait_for(self, statement: str, *values: Any) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.ask(statement, *values):
            assert time.monotonic() < deadline, f"never came true: {statement}"
            time.sleep(0.02)

    def upload(self, count: int) -> list[UUID]:
        return [self.immich.upload(picture(n), name=f"{n}.jpg") for n in range(count)]

    def assert_complete(self, assets: list[UUID]) -> None:
        """Each has both results, of its present preview, once; nothing is left to do."""
        for asset in assets:
            assert self.ask("SELECT count(*) FROM indexer_v1.ocr WHERE asset_id = %s", asset) == 1
            assert self.ask("SELECT count(*) FROM indexer_v1.clip WHERE asset_id = %s", asset) == 1
        assert self.ask("SELECT count(*) FROM indexer_v1.job WHERE dead_at IS NULL") == 0

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.db.close()


def picture(number: int) -> bytes:
    """A small photo, each another."""
    with Image.open(SAMPLES / SMALL) as image:
        image = image.convert("RGB")
        image.putpixel((number % image.width, number // image.width), (255, number % 256, 0))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=90)
        return out.getvalue()


@pytest.fixture
def farm(database: str, immich: FakeImmich) -> Iterator[Farm]:
    made = Farm(database, immich)
    yield made
    made.close()


def test_a_committed_preview_is_found_without_any_other_action(farm: Farm) -> None:
    """Whether it comes while no worker runs, or later."""
    earlier = farm.immich.upload(SAMPLES / "shape-red-circle-exit.jpg")
    farm.start()
    farm.wait_for(FOUND, earlier)
    later = farm.immich.upload(SAMPLES / "shape-red-circle-exit.jpg")
    farm.wait_for(FOUND, later)


def test_a_row_in_reprocess_redoes_exactly_that_asset(farm: Farm) -> None:
    one, other = farm.upload(2)
    farm.start_quick()
    farm.wait_for(IDLE)
    before = farm.ask("SELECT updated_at FROM indexer_v1.ocr WHERE asset_id = %s", one)
    untouched = farm.ask("SELECT updated_at FROM indexer_v1.ocr WHERE asset_id = %s", other)
    farm.db.execute("INSERT INTO indexer_v1.reprocess (asset_id, task) VALUES (%s, 'ocr')", [one])
    farm.wait_for("SELECT status = 'done' FROM indexer_v1.reprocess WHERE asset_id = %s", one)
    assert farm.ask("SELECT updated_at FROM indexer_v1.ocr WHERE asset_id = %s", one) > before
    after = farm.ask("SELECT updated_at FROM indexer_v1.ocr WHERE asset_id = %s", other)
    assert after == untouched


def test_killed_in_mid_batch_another_finishes(farm: Farm) -> None:
    assets = farm.upload(12)
    assert farm.start_quick("inferred:kill").wait(PATIENCE_SECONDS) == -signal.SIGKILL
    left = farm.ask("SELECT count(*) FROM indexer_v1.job WHERE lease_token IS NOT NULL")
    assert left > 0
    counted = farm.ask("SELECT min(attempts) FROM indexer_v1.job WHERE lease_token IS NOT NULL")
    assert counted == 1  # a crash counts
    farm.start_quick()
    farm.wait_for(IDLE)
    farm.assert_complete(assets)
    assert farm.ask("SELECT count(*) FROM indexer_v1.job") == 0


def test_a_poisonous_picture_dies_and_takes_no_neighbour_along(farm: Farm) -> None:
    """A segmentation fault in the decoder: three processes die of it, one after the other."""
    assets = farm.upload(4)
    poison = farm.immich.upload(picture(99), name="poison.jpg")
    farm.misbehave(poison, "crash")
    deaths = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not farm.ask(IDLE):
        worker = farm.start_quick()
        while worker.poll() is None and not farm.ask(IDLE):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        deaths.append(worker.poll())
    assert deaths == [-signal.SIGSEGV] * 3 + [None]
    farm.assert_complete(assets)
    dead = farm.db.execute(
        "SELECT asset_id, task, attempts, last_error FROM indexer_v1.job ORDER BY task"
    ).fetchall()
    assert [(row[0], row[1], row[2]) for row in dead] == [(poison, "clip", 3), (poison, "ocr", 3)]
    assert all("worker ended 3 times" in row[3] for row in dead)


def test_a_photo_that_hangs_is_charged_and_the_worker_goes_on_anew(farm: Farm) -> None:
    hanging = farm.immich.upload(saved(Image.new("RGB", (77, 60), "red"), "JPEG"), name="hangs")
    assets = farm.upload(4)
    worker = farm.start(
        *(sys.executable, str(HANGING)),
        PYTHONPATH=os.pathsep.join(sys.path),
        HANG="ocr",
        MAX_IMAGE_SECONDS="4",
        MAX_ATTEMPTS="1",
    )
    farm.wait_for(IDLE)
    assert worker.poll() is None  # the same process, started anew
    for asset in assets:
        assert farm.ask("SELECT count(*) FROM indexer_v1.ocr WHERE asset_id = %s", asset) == 1
        assert farm.ask("SELECT count(*) FROM indexer_v1.clip WHERE asset_id = %s", asset) == 1
    dead = farm.db.execute("SELECT asset_id, task, last_error FROM indexer_v1.job").fetchall()
    assert dead == [(hanging, "ocr", "ocr inference took longer than 4 s (MAX_IMAGE_SECONDS)")]


def test_two_workers_share_the_work_and_sigterm_gives_back(farm: Farm) -> None:
    """What they had claimed is charged to nobody."""
    assets = farm.upload(16)
    for asset in assets:
        farm.misbehave(asset, "dawdle")
    ending = [farm.start_quick(BATCH_SIZE="3") for _ in range(2)]
    farm.wait_for(
        "SELECT count(DISTINCT lease_token) > 2 FROM indexer_v1.job WHERE lease_token IS NOT NULL"
    )
    for worker in ending:
        worker.send_signal(signal.SIGTERM)
    assert [worker.wait(PATIENCE_SECONDS) for worker in ending] == [0, 0]
    assert farm.ask("SELECT count(*) FROM indexer_v1.job WHERE lease_token IS NOT NULL") == 0
    assert farm.ask("SELECT count(*) > 0 AND max(attempts) = 0 FROM indexer_v1.job")
    assert farm.ask("SELECT count(*) FROM indexer_v1.worker") == 0
    farm.start_quick()
    farm.wait_for(IDLE)
    farm.assert_complete(assets)


def test_the_media_folder_away_is_an_outage_a_missing_file_is_not(farm: Farm) -> None:
    assets = farm.upload(2)
    media = Path(farm.immich.media_dir)
    away = media.with_name("away")
    media.rename(away)
    queued = farm.ask("SELECT max(next_at) FROM indexer_v1.job")
    farm.start_quick(MAX_ATTEMPTS="1")
    # Given back, to wait, and not charged for it. OCR and CLIP take their turns.
    farm.wait_for("SELECT min(next_at) > %s AND max(attempts) = 0 FROM indexer_v1.job", queued)
    away.rename(media)
    farm.wait_for(IDLE)
    farm.assert_complete(assets)
    lost = farm.immich.upload(picture(50))
    farm.wait_for(IDLE)
    farm.immich.preview_path(lost).unlink()
    farm.db.execute("INSERT INTO indexer_v1.reprocess (asset_id) VALUES (%s)", [lost])
    farm.wait_for(
        "SELECT status LIKE 'failed: %%No such file%%' FROM indexer_v1.reprocess"
        " WHERE asset_id = %s",
        lost,
    )


def png(width: int, height: int) -> bytes:
    """A PNG whose header says so, and little more."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def test_bad_input_fails_with_a_reason_and_odd_input_is_indexed(farm: Farm) -> None:
    good = picture(1)
    with Image.open(SAMPLES / SMALL) as opened:
        image = opened.convert("RGB")
    upright = image.getexif()
    upright[0x0112] = 6
    grey16 = Image.new("I;16", (200, 100), 30000)
    bad = {
        "empty": (b"", "empty"),
        "truncated": (good[: len(good) // 2], "truncated"),
        "no image": (b"this is a text, not an image", "image"),
        "bomb": (png(20_000, 20_000), "20000"),
    }
    odd = {
        "animated": saved(
            image, "GIF", save_all=True, append_images=[Image.new("RGB", image.size)]
        ),
        "cmyk": saved(image.convert("CMYK"), "JPEG"),
        "16 bit": saved(grey16, "PNG"),
        "turned": saved(image.rotate(90, expand=True), "JPEG", exif=upright),
    }
    ids: dict[str, UUID] = {}
    for name, data in [*((n, d) for n, (d, _) in bad.items()), *odd.items()]:
        ids[name] = farm.immich.upload(picture(len(ids) + 10), name=name)
        farm.immich.preview_path(ids[name]).write_bytes(data)
    farm.start()
    farm.wait_for(IDLE)
    for name, (_, reason) in bad.items():
        errors = farm.ask(
            "SELECT array_agg(DISTINCT last_error) FROM indexer_v1.job"
            " WHERE asset_id = %s AND dead_at IS NOT NULL",
            ids[name],
        )
        assert errors, name
        assert reason in errors[0], name
    for name in odd:
        assert farm.ask("SELECT count(*) FROM indexer_v1.clip WHERE asset_id = %s", ids[name]) == 1
    for name in ("animated", "cmyk", "turned"):
        text = farm.ask("SELECT text FROM indexer_v1.ocr WHERE asset_id = %s", ids[name])
        assert "RE168" in text, name
