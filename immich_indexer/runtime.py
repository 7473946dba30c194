"""Puts the parts together: a database that is ready, an engine, a worker, a gateway."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec
from prometheus_client import start_http_server

from gateway.app import create_app
from gateway.database import Database
from gateway.server import BindError
from gateway.server import serve as serve_app
from indexer import library, results
from indexer.immich import ClipModelWatch, adopt, read_config
from indexer.metrics import Metrics
from indexer.models.engine import Engine
from indexer.models.watchdog import supervised
from indexer.reconcile import Reconciler
from indexer.rounds import Rounds
from indexer.settings import Settings
from indexer.shared import SharedEngine
from indexer.worker import Worker
from pg.connect import address, connect, wait_until_reachable
from pg.embedded import Server
from pg.migrate import Report, create_library_tables, migrate, refuse_newer

log = logging.getLogger(__name__)

SAMPLES = Path(__file__).parent / "samples"

# To answer and to give back what can be, when a thread hangs; a request may take uvicorn's 30 s.
_LAST_SECONDS = 45.0

# So many times MAX_IMAGE_SECONDS without a sign of life, and the process is ended: converting a
# model holds the interpreter's lock, too.
_SILENCES = 5


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


def prepare(url: str, settings: Settings, *, choose_clip_model: bool) -> tuple[Settings, Report]:
    """Migrate, take over what was chosen in Immich, and record the models. Safe to repeat.

    Args:
        choose_clip_model: may move the index to CLIP_MODEL, throwing another model's embeddings
            away. What was chosen in Immich goes before CLIP_MODEL, and may always; so may
            whatever comes to an index that is made with none yet.

    Returns:
        The settings in force, and what was migrated.
    """
    with connect(url) as connection:
        report = migrate(connection, settings.tokenizer)
        config = read_config(connection)
        chosen = adopt(settings, config)
        unmade = results.recorded_clip_model(connection) is None
        if choose_clip_model or unmade or (config and config.clip_model):
            info = Engine(chosen).clip_info
            if info.dim and results.use_clip_model(connection, info.name, info.dim):
                log.info("the index is made with the CLIP model %s from now on", info.name)
        if chosen.photos_dir:
            library.scan(connection, chosen.photos_dir)
    return chosen, report


def as_chosen_in_immich(settings: Settings, url: str) -> Settings:
    """Settings with Immich's own choices before ours; nothing is written.

    Raises:
        MigrationError: the database was made by a newer version.
    """
    with connect(url) as connection:
        refuse_newer(connection)
        return adopt(settings, read_config(connection))


def run(settings: Settings, url: str, *, with_gateway: bool, with_worker: bool) -> None:
    """Run what is asked for until SIGTERM or SIGINT; finishes or gives back what is claimed.

    When the administrator chooses another CLIP model in Immich, everything starts anew with it.
    """
    if settings.search_db_url:
        address(settings.search_db_url, "SEARCH_DB_URL")  # rather now than at the first search
    with (
        closing(Metrics(url)) as metrics,
        nullcontext() if with_gateway else serve_metrics(settings, metrics),
        supervised(_SILENCES * settings.max_image_seconds),
    ):
        while _run_once(settings, url, metrics, with_gateway=with_gateway, with_worker=with_worker):
            if with_worker:
                settings, _ = prepare(url, settings, choose_clip_model=False)
            else:
                settings = as_chosen_in_immich(settings, url)


@contextmanager
def serve_metrics(settings: Settings, metrics: Metrics) -> Iterator[None]:
    """`/metrics` of a process without a gateway, where METRICS_PORT says so."""
    if not settings.metrics_port:
        yield
        return
    try:
        server, thread = start_http_server(
            settings.metrics_port, addr=settings.host, registry=metrics.registry
        )
    except OSError as error:
        raise BindError(
            f"Can't serve metrics on {settings.host} port {settings.metrics_port}: "
            f"{error.strerror or error}. Set HOST or METRICS_PORT to change it."
        ) from None
    log.info("metrics host=%s port=%d", settings.host, settings.metrics_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _run_once(
    settings: Settings, url: str, metrics: Metrics, *, with_gateway: bool, with_worker: bool
) -> bool:
    """One life; True where another is to follow."""
    stopped = threading.Event()
    again = threading.Event()
    stuck = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    def start_anew(model: str) -> None:
        log.warning("the CLIP model is %s now: starting anew with it", model)
        again.set()
        os.kill(os.getpid(), signal.SIGTERM)

    def leave() -> None:
        stuck.set()
        last = threading.Timer(_LAST_SECONDS, restart)  # what hangs may hold up the way out
        last.daemon = True
        last.start()
        os.kill(os.getpid(), signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    engine = SharedEngine(settings, url, metrics, leave)
    worker = Worker(settings, url, engine, metrics=metrics) if with_worker else None
    watcher: Rounds
    if worker:
        watcher = Reconciler(settings, url, engine.ocr_model, settings.photos_dir, start_anew)
    else:
        watcher = ClipModelWatch(settings, url, start_anew)
    try:
        engine.preload()
        if worker:
            worker.start()
        watcher.start()
        if with_gateway:
            app = create_app(settings, engine, Database(url), metrics)
            serve_app(app, settings, stopped)
        else:
            while not stopped.wait(1.0):  # signals are handled between the waits
                pass
    finally:
        watcher.stop()
        if worker:
            log.info("stopping: finishing what is begun, giving back the rest")
            worker.stop()
        engine.close()
        if stuck.is_set():
            restart()
        for number, handler in before.items():
            signal.signal(number, handler)
    return again.is_set()


def restart() -> NoReturn:
    """Start this process anew, with the same command, id and environment.

    All its threads end, those that hang too; that is what it is for.
    """
    log.error("starting anew, because a thread hangs")
    logging.shutdown()
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - our own command
