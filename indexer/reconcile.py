"""What was missed becomes jobs: at every start, and then every few minutes.

Events are the fast way; this is the sure one. One process at a time does it (advisory lock).
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import psycopg

from indexer import library, queue
from pg.connect import Connection, connect
from pg.query import fetch_value

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 300.0
_FOLDER_INTERVAL_SECONDS = 30.0  # nobody tells us when a file appears in a folder
_ADVISORY_LOCK = 4664_2447


@dataclass(frozen=True, slots=True)
class Repairs:
    """What was found missing and has been made good.

    Attributes:
        jobs: made for photos without result and job.
        triggers: on Immich's tables, made again.
        requests: rows in `reprocess` whose photo is gone, closed.
    """

    jobs: int
    triggers: int
    requests: int


def reconcile(connection: Connection) -> Repairs | None:
    """Look at everything once. None where another process is at it."""
    if not fetch_value(connection, "SELECT pg_try_advisory_lock(%s)", [_ADVISORY_LOCK]):
        return None
    try:
        triggers = fetch_value(connection, "SELECT indexer_v1.ensure_triggers()")
        jobs = queue.backfill(connection)
        requests = fetch_value(connection, "SELECT indexer_v1.close_orphaned_requests()")
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", [_ADVISORY_LOCK])
    repairs = Repairs(jobs, triggers, requests)
    if repairs != Repairs(0, 0, 0):
        log.info("reconciled: %s", repairs)
    return repairs


class Reconciler:
    """Does it in a thread of its own, on start and periodically.

    Args:
        url: of the database.
        folder: folder mode: the photos, scanned as well.
    """

    def __init__(self, url: str, folder: Path | None = None) -> None:
        self._url = url
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin with the first look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait for the look that is under way. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        interval = _FOLDER_INTERVAL_SECONDS if self._folder else INTERVAL_SECONDS
        while not self._stop.is_set():
            try:
                with connect(self._url) as connection:
                    if self._folder:
                        library.scan(connection, self._folder)
                    reconcile(connection)
            except (psycopg.Error, OSError) as error:
                log.warning("reconcile: %s", str(error).strip())
            self._stop.wait(interval)
