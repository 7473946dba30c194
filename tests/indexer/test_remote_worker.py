"""A worker without the media folder, and a gateway that has it."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from inferences import Inferences
from PIL import Image

from gateway.app import create_app
from gateway.database import Database
from gateway.server import running
from immich.events import FakeImmich
from indexer import results, worker
from indexer.settings import Settings
from indexer.worker import Worker
from pg.connect import Connection, connect

KEY = "a-key-of-16-signs-or-more"
PATIENCE_SECONDS = 60.0


def picture(width: int) -> bytes:
    out = BytesIO()
    Image.new("RGB", (width, 32), "orange").save(out, "PNG")
    return out.getvalue()


def wait_for(db: Connection, condition: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while db.execute(condition.encode()).fetchone() != (True,):
        assert time.monotonic() < deadline, f"never came true: {condition}"
        time.sleep(0.02)


def test_it_fetches_and_an_outage_is_charged_to_no_photo(
    indexed_immich: FakeImmich, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_OUTAGE_SECONDS", 0.2)
    good, missing = (indexed_immich.upload(picture(width)) for width in (40, 41))
    indexed_immich.preview_path(missing).unlink()
    there = Settings(
        db_url=indexed_immich.url,
        media_map=f"{indexed_immich.location}={indexed_immich.media_dir}",
        previews_key=KEY,
        port=0,
    )
    engine: Any = Inferences()

    def start(url: str) -> Callable[[], None]:
        here = Settings(
            db_url=indexed_immich.url,
            clip_model="stand-in",
            clip_download="off",
            poll_seconds=0.2,
            max_attempts=1,
            previews_url=url,
            previews_key=KEY,
        )
        made = Worker(here, indexed_immich.url, engine)
        made.start()
        return made.stop

    with connect(indexed_immich.url) as db:
        results.use_clip_model(db, "stand-in", 64)
        with running(create_app(there, engine, Database(there.db_url)), there) as url:
            pass
        stop = start(url)  # nobody listens there any more
        wait_for(db, "SELECT bool_and(next_at > created_at) FROM indexer_v1.job")
        stop()
        jobs = db.execute("SELECT attempts, last_error, dead_at FROM indexer_v1.job").fetchall()
        assert jobs == [(0, None, None)] * 4

        with running(create_app(there, engine, Database(there.db_url)), there) as url:
            stop = start(url)
            wait_for(
                db,
                "SELECT count(*) = 2 AND count(dead_at) = 2"
                " AND (SELECT count(*) = 1 FROM indexer_v1.clip) FROM indexer_v1.job",
            )
            stop()
        size = indexed_immich.preview_path(good).stat().st_size
        texts = db.execute("SELECT asset_id, file_size FROM indexer_v1.ocr").fetchall()
        assert texts == [(good, size)]
        failed = db.execute("SELECT DISTINCT asset_id, last_error FROM indexer_v1.job").fetchall()
    ((asset, reason),) = failed
    assert asset == missing
    assert "the gateway has no such file" in reason
