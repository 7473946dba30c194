"""Puts the parts together: a database that is ready, an engine, a worker, a gateway."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from gateway.app import create_app
from gateway.database import Database
from gateway.server import serve as serve_app
from indexer import library, queue
from indexer.models.engine import Engine
from indexer.reconcile import Reconciler
from indexer.settings import Settings
from indexer.worker import Worker
from pg.connect import connect, wait_until_reachable
from pg.embedded import Server
from pg.migrate import Report, create_library_tables, migrate

log = logging.getLogger(__name__)

SAMPLES = Path(__file__).parent / "samples"


def load_settings() -> Settings:
    """Settings from the environment; in folder mode with the folder filled in.

    Raises:
        SettingsError: a variable's value has the wrong form.
    """
    settings = Settings.from_env(os.environ)
    photos = None if settings.attached else (settings.photos_dir or SAMPLES).expanduser().resolve()
    return msgspec.structs.replace(settings, photos_dir=photos)


def configure_logging(level: str) -> None:
    """One line an event, to standard error."""
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    for chatty in ("httpx", "httpcore", "PIL", "RapidOCR"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """URL of a database that answers: the named one, or the embedded server, started for us.

    Raises:
        UnreachableError, UrlError, ServerError: with what to do.
    """
    if settings.attached:
        wait_until_reachable(settings.database_url)
        yield settings.database_url
        return
    with Server(settings.data_dir.expanduser(), bin_dir=settings.pg_bin) as server:
        url = server.start()
        with connect(url) as connection:
            create_library_tables(connection)
        yield url


def prepare(url: str, settings: Settings, clip_model: bool = True) -> Report:
    """Migrate, and make the index one of the configured CLIP model. Safe to repeat."""
    with connect(url) as connection:
        report = migrate(connection, settings.tokenizer)
        if clip_model:
            info = Engine(settings).clip_info
            if queue.use_clip_model(connection, info.name, info.dim):
                log.info("the index is made with the CLIP model %s from now on", info.name)
        if settings.photos_dir:
            library.scan(connection, settings.photos_dir)
        return report


def run(
    settings: Settings, url: str, engine: Engine, *, with_gateway: bool, with_worker: bool
) -> None:
    """Run what is asked for until SIGTERM or SIGINT; finishes or gives back what is claimed."""
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    # Also with a gateway: uvicorn handles the signal first, then raises it once more for us, and
    # the default would end the process before the worker has finished.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    worker = Worker(settings, url, engine) if with_worker else None
    reconciler = Reconciler(url, settings.photos_dir) if with_worker else None
    try:
        if worker and reconciler:
            worker.start()
            reconciler.start()
        if with_gateway:
            serve_app(create_app(settings, engine, Database(url)), settings)
        else:
            while not stopped.wait(1.0):  # signals are handled between the waits
                pass
    finally:
        if worker and reconciler:
            log.info("stopping: finishing what is begun, giving back the rest")
            reconciler.stop()
            worker.stop()
        engine.close()
