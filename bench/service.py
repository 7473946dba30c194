"""The product as `immich-indexer serve` runs it in folder mode: gateway, worker and engine.

Runs in a process of its own (`Contender`). Where nothing else is said, methods return seconds.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench.material import stamped
from bench.measure import Clock
from bench.product import PATIENCE_SECONDS, Product
from gateway.app import create_app
from gateway.database import Database
from gateway.server import running
from immich_indexer.runtime import configure_logging, prepare
from indexer import library
from indexer.models.types import Lane
from indexer.queue import Failure, Outcome
from indexer.settings import Settings
from indexer.shared import SharedEngine
from indexer.worker import Worker
from pg.connect import connect


class Service(Product):
    """One process with all of it; what `Product` does is bare inference on the same engine.

    Args:
        settings: the settings in force.
        url: of a database with the tables of folder mode.
        folder: an empty one, for photos that arrive.
        photos: files to work on.
        clock: what seconds are measured by; the processor's are of this process alone, without
            PostgreSQL's.
    """

    def __init__(
        self, settings: Settings, url: str, folder: Path, photos: Sequence[Path], clock: Clock
    ) -> None:
        configure_logging("warning")
        settings = msgspec.structs.replace(settings, photos_dir=folder)
        prepare(url, settings, choose_clip_model=True)
        engine = SharedEngine(settings, url)
        super().__init__(settings, photos, clock, engine)
        self._folder = folder
        self._stack = ExitStack()
        self._database = self._stack.enter_context(connect(url))
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._worker = Worker(settings, url, engine, self._outcomes.put)
        self._worker.start()
        self._stack.callback(self._worker.stop)
        app = create_app(settings, engine, Database(url))
        self.url = self._stack.enter_context(running(app, settings))

    def address(self) -> str:
        """URL of the gateway."""
        return self.url

    def index(self, photos: Sequence[int]) -> float:
        """New photos, through the worker: from the commit of their rows to the last result's."""
        committed = self._add(photos)
        self._wait_for(len(photos))
        return self._clock() - committed

    def searchable(self, number: int, text: str) -> float:
        """One new photo: from the commit of its row until a search for its text finds it."""
        committed = self._add([number])
        asset_id = self._wait_for(1)
        found = self._database.execute(
            "SELECT asset_id FROM indexer_v1.search('ocr:' || %s, max_results => 1000)", [text]
        ).fetchall()
        seconds = self._clock() - committed
        if (asset_id,) not in found:
            raise RuntimeError(f"a search for {text!r} doesn't find photo {number}")
        return seconds

    def query(self, text: str) -> float:
        """Embed a text that somebody searches for, which is new."""
        started = self._clock()
        self.engine.embed_text(text, Lane.INTERACTIVE).result(PATIENCE_SECONDS)
        return self._clock() - started

    def start_backfill(self, photos: Sequence[int]) -> None:
        """Give the worker plenty to do, and wait until it is well under way."""
        self._add(photos)
        self._wait_for(2)

    def waiting(self) -> int:
        """How many jobs wait or run."""
        row = self._database.execute("SELECT count(*) FROM indexer_v1.job").fetchone()
        return int(row[0]) if row else 0

    def end_backfill(self) -> None:
        """Take the rest of the work away again, and wait until what runs has ended."""
        self._database.execute("DELETE FROM indexer_v1.job")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._busy() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        while not self._outcomes.empty():
            self._outcomes.get()

    def close(self) -> None:
        """Stop the gateway and the worker, then the engine."""
        self._stack.close()
        super().close()

    def _add(self, photos: Sequence[int]) -> float:
        """Put copies into the folder and their rows into the database; when that was committed."""
        for number in photos:
            count = next(self._numbers)
            (self._folder / f"{count:06}.jpg").write_bytes(stamped(self._photos[number], count))
        library.scan(self._database, self._folder)
        return self._clock()

    def _wait_for(self, photos: int) -> Any:
        """Wait for both results of each; the id of the last photo."""
        outcome = None
        for _ in range(2 * photos):
            outcome = self._outcomes.get(timeout=PATIENCE_SECONDS)
            if isinstance(outcome.result, Failure):
                raise RuntimeError(outcome.result.reason)
        return outcome.job.asset_id if outcome else None

    def _busy(self) -> bool:
        stats = self.engine.stats()
        return any(
            stats[model]["running"] or any(stats[model]["waiting"].values())
            for model in ("ocr", "clip_image")
        )
