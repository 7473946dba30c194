"""What was missed becomes jobs: at every start, and then every few minutes.

Events are the fast way; this is the sure one. One process at a time does it (advisory lock).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from indexer import library, queue, results
from indexer.immich import ocr_options, read_config, same_embeddings, wanted_clip_model
from indexer.media import Media
from indexer.models.types import OcrOptions
from indexer.results import FileStamp
from indexer.rounds import Rounds
from indexer.settings import Settings
from pg.connect import Connection
from pg.migrate import migrate
from pg.query import fetch_value

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 300.0
_FOLDER_INTERVAL_SECONDS = 30.0  # nobody tells us when a file appears in a folder
_FILES_INTERVAL_SECONDS = 6 * 3600.0  # looking at every file of a NAS is not for every minute
_FILES_CHUNK = 500
_FILES_PAUSE_SECONDS = 0.05
_ADVISORY_LOCK = 4664_2447
# Another one after a restore or a fail-over: the database went back in time, the files didn't.
_HISTORY = "SELECT 'public.asset'::regclass::oid || left(pg_walfile_name(pg_current_wal_lsn()), 8)"


@dataclass(frozen=True, slots=True)
class Repairs:
    """What was found missing and has been made good.

    Attributes:
        jobs: made for photos without a result by the models in use, and without a job.
        triggers: on Immich's tables, made again.
        healed: parts of our own tables that a restore of Immich had taken, made again.
        requests: rows in `reprocess` whose photo is gone, closed.
        tags: that ask for a photo to be redone and had not been seen.
        mendable: stock defects in Immich's search tables, waiting to be mended.
        late: jobs that waited for a time which a wrong clock had set.
    """

    jobs: int = 0
    triggers: int = 0
    healed: int = 0
    requests: int = 0
    tags: int = 0
    mendable: int = 0
    late: int = 0


def reconcile(
    connection: Connection, settings: Settings, ocr_model: Callable[[OcrOptions], str]
) -> Repairs | None:
    """Look at everything in the database once. None where another process is at it.

    Args:
        connection: of the owner of Immich's tables; no transaction open.
        settings: see the table in the README; Immich's own choices go before them.
        ocr_model: names what texts are read with, options included (`Engine.ocr_model`).

    Raises:
        MigrationError: the database isn't one to live in, e.g. in the middle of a restore.
    """
    if not fetch_value(connection, "SELECT pg_try_advisory_lock(%s)", [_ADVISORY_LOCK]):
        return None
    try:
        report = migrate(connection, settings.tokenizer)
        config = read_config(connection)
        model = ocr_model(ocr_options(settings, config))
        if results.use_ocr_model(connection, model):
            log.info("texts are read with %s from now on", model)
        mendable = 0
        if settings.mend == "on":
            mendable = fetch_value(
                connection,
                "SELECT indexer_v1.find_mendable(%s)",
                [same_embeddings(settings, config)],
            )
        repairs = Repairs(
            jobs=queue.backfill(connection),
            triggers=report.triggers,
            healed=len(report.healed),
            requests=fetch_value(connection, "SELECT indexer_v1.close_orphaned_requests()"),
            tags=fetch_value(connection, "SELECT indexer_v1.find_tags()"),
            mendable=mendable,
            late=fetch_value(
                connection,
                "SELECT indexer_v1.undo_clock_jump(make_interval(secs => %s))",
                [settings.lease_seconds],
            ),
        )
        connection.execute("SELECT indexer_v1.purge_results()")
        if mendable:
            connection.execute("SELECT pg_notify('indexer_v1', '')")
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", [_ADVISORY_LOCK])
    if repairs != Repairs():
        log.info("reconciled: %s", repairs)
    return repairs


def find_changed_files(
    connection: Connection, media: Media, stop: threading.Event | None = None
) -> int:
    """Enqueue photos whose file has changed at the same path: that is no event in the database.

    Looks at every file once, in chunks with pauses. A file that is away is left to be.

    Returns:
        How many were found.
    """
    after: UUID | None = None
    found = 0
    while not (stop and stop.is_set()):
        rows = connection.execute(
            "SELECT asset_id, indexer_v1.preview_path(asset_id), file_size, file_modified"
            " FROM indexer_v1.ocr WHERE %(after)s::uuid IS NULL OR asset_id > %(after)s"
            " ORDER BY asset_id LIMIT %(chunk)s",
            {"after": after, "chunk": _FILES_CHUNK},
        ).fetchall()
        if not rows:
            break
        after = rows[-1][0]
        changed = []
        for asset_id, path, size, modified in rows:
            try:
                if path and FileStamp.of(media.locate(path)) != FileStamp(size, modified):
                    changed.append(asset_id)
            except OSError:
                continue
        if changed:
            connection.execute("SELECT indexer_v1.enqueue(%s)", [changed])
            found += len(changed)
        time.sleep(_FILES_PAUSE_SECONDS)
    return found


class Reconciler(Rounds):
    """Does it in a thread of its own, on start and periodically.

    Args:
        settings: see the table in the README.
        url: of the database.
        ocr_model: see `reconcile`.
        folder: folder mode: the photos, scanned as well.
        on_clip_model: called when Immich's administrator has chosen another CLIP model than
            settings.clip_model, or the database has forgotten the index's; the process then has to
            start anew with it.
    """

    def __init__(
        self,
        settings: Settings,
        url: str,
        ocr_model: Callable[[OcrOptions], str],
        folder: Path | None = None,
        on_clip_model: Callable[[str], None] | None = None,
    ) -> None:
        seconds = _FOLDER_INTERVAL_SECONDS if folder else INTERVAL_SECONDS
        super().__init__("reconcile", url, self._reconcile, seconds)
        self._settings = settings
        self._ocr_model = ocr_model
        self._folder = folder
        self._on_clip_model = on_clip_model
        self._media = Media.parse(settings.media_map)
        # Folders are scanned; what is fetched is looked at by those who have the files.
        self._has_files = not (folder or settings.previews_url)
        self._next_files = 0.0
        self._history = ""
        self._recorded: str | None = None

    def _reconcile(self, connection: Connection) -> None:
        if self._folder:
            library.scan(connection, self._folder)
        reconcile(connection, self._settings, self._ocr_model)
        if (history := fetch_value(connection, _HISTORY)) != self._history:
            self._history = history
            self._next_files = 0.0
        config = read_config(connection)
        wanted = wanted_clip_model(self._settings, config)
        # Gone, after a fail-over to a copy from before us: whoever starts anew records it again.
        before, self._recorded = self._recorded, results.recorded_clip_model(connection)
        forgotten = before is not None and self._recorded is None
        if self._on_clip_model and (forgotten or wanted != self._settings.clip_model):
            self._on_clip_model(wanted)
        elif self._has_files and time.monotonic() >= self._next_files:
            self._next_files = time.monotonic() + _FILES_INTERVAL_SECONDS
            if changed := find_changed_files(connection, self._media, self.stopping):
                log.info("%d files had changed at the same path", changed)
