"""The commands of `immich-indexer`. Each puts parts together; the parts are elsewhere."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn
from uuid import UUID

import click
import msgspec
import psycopg
from rich.console import Console
from rich.progress import Progress

from gateway.server import StartError
from immich_indexer import doctor as doctor_module
from immich_indexer import results
from immich_indexer import status as status_module
from immich_indexer.demo import demo as run_demo
from immich_indexer.runtime import (
    SAMPLES,
    as_chosen_in_immich,
    configure_logging,
    database,
    load_settings,
    prepare,
    run,
)
from indexer import library
from indexer.models.engine import Engine
from indexer.settings import Settings, SettingsError
from indexer.status import look
from pg import reindex as reindexing
from pg.connect import UnreachableError, UrlError, connect
from pg.detach import StillRunningError
from pg.detach import detach as detach_from
from pg.embedded import ServerError
from pg.locks import TablesLockedError
from pg.migrate import MigrationError, Report, stale_rows
from pg.migrate import retokenize as retokenize_chunks

_ADVICE = (
    SettingsError,
    UrlError,
    UnreachableError,
    ServerError,
    MigrationError,
    TablesLockedError,
    StillRunningError,
    StartError,
    NotADirectoryError,
    reindexing.ReindexError,
)

console = Console()
pass_settings = click.make_pass_decorator(Settings)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="immich-indexer")
@click.pass_context
def cli(context: click.Context) -> None:
    """Chinese picture and text search for self-hosted Immich.

    Settings are environment variables; the README has them in one table. Without DB_URL (or
    Immich's DB_HOSTNAME) a folder of photos is searched, with a PostgreSQL of its own.
    """
    context.obj = load_settings()
    configure_logging(context.obj.log_level)


@cli.command()
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of photos of your own, instead of the samples.",
)
@click.option("--once", is_flag=True, help="End after the sample queries; don't serve.")
@pass_settings
def demo(settings: Settings, photos: Path | None, once: bool) -> None:
    """Index a folder of photos, answer some queries, then serve on 127.0.0.1."""
    if settings.attached:
        raise click.UsageError(
            "The demo is for a folder of photos; DB_URL (or DB_HOSTNAME) is set. For Immich: serve."
        )
    if photos is not None:
        settings = msgspec.structs.replace(settings, photos_dir=photos.expanduser().resolve())
    if "LOG_LEVEL" not in os.environ:
        logging.getLogger().setLevel(logging.WARNING)  # the bar and the tables say it better
    run_demo(settings, settings.photos_dir or SAMPLES, console, once)


@cli.command()
@click.option(
    "--attach/--no-attach",
    "attach_first",
    default=True,
    show_default=True,
    help="Bring the database up to date first (`attach`).",
)
@pass_settings
def serve(settings: Settings, attach_first: bool) -> None:
    """Run the gateway and a worker in one process. Attaches first."""
    with database(settings) as url:
        if attach_first:
            settings, _ = prepare(url, settings, choose_clip_model=True)
        run(settings, url, with_gateway=True, with_worker=True)


@cli.command()
@pass_settings
def gateway(settings: Settings) -> None:
    """Run the gateway alone: Immich's machine-learning end point and search."""
    with database(settings) as url:
        run(as_chosen_in_immich(settings, url), url, with_gateway=True, with_worker=False)


@cli.command()
@pass_settings
def worker(settings: Settings) -> None:
    """Run a worker alone; as many as you like, on as many machines."""
    with database(settings) as url:
        # A worker never moves the index to another CLIP_MODEL: two of them could fight over it.
        settings, _ = prepare(url, settings, choose_clip_model=False)
        run(settings, url, with_gateway=False, with_worker=True)


@cli.command()
@pass_settings
def attach(settings: Settings) -> None:
    """Install into Immich's database: schema, functions, triggers. Safe to repeat."""
    with database(settings) as url:
        settings, report = prepare(url, settings, choose_clip_model=True)
        _say_migrated(report, url)
    console.print(
        f"Attached, with the CLIP model {settings.clip_model}. Next: immich-indexer serve"
    )


@cli.command()
@click.option("--keep-data", is_flag=True, help="Keep the results: attaching again goes on there.")
@pass_settings
def detach(settings: Settings, keep_data: bool) -> None:
    """Remove every trace from the database, and say what was removed."""
    with database(settings) as url, connect(url) as connection:
        removed = detach_from(connection, keep_data=keep_data)
    for thing in removed:
        console.print(f"removed {thing}", highlight=False)
    console.print(
        "Nothing of immich-indexer is left." if not keep_data else "The results are kept."
    )


@cli.command()
@click.option(
    "--clip-model",
    "clip_model",
    help="Make the index one of this model; another's embeddings are made again.",
)
@pass_settings
def migrate(settings: Settings, clip_model: str | None) -> None:
    """Bring the database to this version's layout. Safe to repeat."""
    if clip_model:
        settings = msgspec.structs.replace(settings, clip_model=clip_model)
    with database(settings) as url:
        _, report = prepare(url, settings, choose_clip_model=bool(clip_model))
        _say_migrated(report, url)


def _say_migrated(report: Report, url: str) -> None:
    for name in report.applied:
        console.print(f"applied {name}", highlight=False)
    for name in report.healed:
        console.print(f"made again: {name}", highlight=False)
    if report.triggers:
        console.print(f"made {report.triggers} triggers on Immich's tables")
    console.print(f"The database is up to date; the tokenizer is {report.tokenizer}.")
    with connect(url) as connection:
        stale = stale_rows(connection)
        outdated = reindexing.is_outdated(connection)
    if stale:
        console.print(f"{stale} texts are of another: run immich-indexer retokenize")
    if outdated:
        console.print("An older version built the index of embeddings: run immich-indexer reindex")


@cli.command()
@click.option("--watch", is_flag=True, help="Show it again every two seconds.")
@pass_settings
def status(settings: Settings, watch: bool) -> None:
    """Show the index, the queue, rate and time left, workers, and failures with their reasons."""
    problem = Engine(msgspec.structs.replace(settings, clip_download="off")).clip_problem()
    with database(settings) as url, connect(url) as connection:
        while True:
            if watch:
                console.clear()
            seen = look(connection)
            gone = library.away(connection, settings.photos_dir) if settings.photos_dir else ()
            status_module.show(console, seen, problem, gone)
            if not watch:
                return
            time.sleep(2)


@cli.command()
@click.argument("asset_ids", nargs=-1, required=True, type=click.UUID)
@click.option("--task", type=click.Choice(["ocr", "clip", "all"]), default="all", show_default=True)
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Until it is done or failed."
)
@pass_settings
def reprocess(
    settings: Settings, asset_ids: tuple[UUID, ...], task: Literal["ocr", "clip", "all"], wait: bool
) -> None:
    """Redo photos: read them or embed them again, ahead of everything else."""
    with database(settings) as url, connect(url) as connection:
        rows = connection.execute(
            "INSERT INTO indexer_v1.reprocess (asset_id, task) SELECT unnest(%s::uuid[]), %s"
            " ORDER BY 1 RETURNING id",
            [list(asset_ids), task],
        ).fetchall()
        ids = [row[0] for row in rows]
        while True:
            states = connection.execute(
                "SELECT asset_id, status, finished_at FROM indexer_v1.reprocess WHERE id = ANY (%s)"
                " ORDER BY id",
                [ids],
            ).fetchall()
            if not wait or all(row[2] for row in states):
                break
            time.sleep(0.3)
    for asset_id, state, _ in states:
        console.print(f"{asset_id}  {state}", highlight=False)
    if any(state.startswith("failed") for _, state, _ in states):
        sys.exit(1)


@cli.command()
@click.argument("query")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0)
@click.option("--method", type=click.Choice(["rrf", "weighted"]), default="rrf", show_default=True)
@click.option(
    "--owner",
    "owners",
    multiple=True,
    type=click.UUID,
    help="Only photos of this Immich user; may be repeated, for others' that aren't archived. "
    "Default: everybody's.",
)
@pass_settings
def search(
    settings: Settings,
    query: str,
    limit: int,
    offset: int,
    method: str,
    owners: tuple[UUID, ...],
) -> None:
    """Search, e.g. '红色的圆', '发票 2024', '"上海 虹桥" -作废', 'ocr:RE16'."""
    scope = list(owners) or None
    if settings.photos_dir and not scope:
        scope = [library.owner_of(settings.photos_dir)]
    with database(settings) as url, connect(url) as connection:
        engine = _engine_of_index(settings, connection)
        try:
            found = results.search(
                connection, engine, query, owners=scope, limit=limit, offset=offset, method=method
            )
        finally:
            engine.close()
    console.print(results.table(query, found))


def _engine_of_index(
    settings: Settings, connection: psycopg.Connection[tuple[object, ...]]
) -> Engine:
    """An engine with the model that the index is made with, whatever CLIP_MODEL says."""
    recorded = look(connection).clip_model
    changes = {"clip_model": recorded} if recorded else {}
    engine = Engine(msgspec.structs.replace(settings, clip_download="off", **changes))
    if problem := engine.clip_problem():
        Console(stderr=True).print(f"By text alone: {problem}", style="yellow", highlight=False)
    return engine


@cli.command()
@click.option(
    "--tokenizer",
    type=click.Choice(["zhparser", "bigram"]),
    help="Change to this one first. For zhparser, CREATE EXTENSION zhparser first; a dump "
    "of such a database restores only where zhparser is installed.",
)
@pass_settings
def retokenize(settings: Settings, tokenizer: Literal["zhparser", "bigram"] | None) -> None:
    """Cut the stored texts anew after a change of tokenizer; no image is read again."""
    if tokenizer:
        settings = msgspec.structs.replace(settings, tokenizer=tokenizer)
    with database(settings) as url:
        _, report = prepare(url, settings, choose_clip_model=False)
        with connect(url) as connection:
            total = stale_rows(connection)
            done = 0
            with Progress(console=console) as progress:
                task = progress.add_task("Retokenizing", total=total)
                for chunk in retokenize_chunks(connection):
                    done += chunk
                    progress.update(task, completed=done, total=max(done, total))
    console.print(f"{done} texts retokenized with {report.tokenizer}.")


@cli.command()
@click.option(
    "--memory",
    help="For this build, e.g. 2GB; as the server has it (maintenance_work_mem) if left out.",
)
@pass_settings
def reindex(settings: Settings, memory: str | None) -> None:
    """Build the index of embeddings anew, as this version does; searches go on meanwhile."""
    with database(settings) as url:
        prepare(url, settings, choose_clip_model=False)
        with connect(url) as connection, connect(url) as watching:
            needed = reindexing.memory_needed(connection) // 1_000_000
            console.print(f"Faster with some {needed} MB: --memory {needed}MB", highlight=False)
            started = time.monotonic()
            built: Future[None] = Future()

            def build() -> None:
                try:
                    reindexing.rebuild(connection, memory)
                except BaseException as error:
                    built.set_exception(error)
                else:
                    built.set_result(None)

            builder = threading.Thread(target=build)
            with Progress(console=console) as progress:
                task = progress.add_task("Building", total=None)
                try:
                    builder.start()
                    while not built.done():
                        if at := reindexing.progress(watching):
                            progress.update(
                                task,
                                description=at.phase,
                                completed=at.done,
                                total=at.total or None,
                            )
                        time.sleep(0.5)
                except BaseException:  # Ctrl-C, SIGTERM: it would go on, for hours perhaps
                    while builder.is_alive():
                        connection.cancel_safe()
                        builder.join(2)  # between two statements nothing is cancelled: again
                    raise
                built.result()
    console.print(f"The index of embeddings is new; {time.monotonic() - started:.0f} seconds.")


@cli.command()
@click.argument("asset_ids", nargs=-1, type=click.UUID)
@pass_settings
def requeue(settings: Settings, asset_ids: tuple[UUID, ...]) -> None:
    """Try failed photos again: the given ones, or all."""
    with database(settings) as url, connect(url) as connection:
        row = connection.execute(
            "SELECT indexer_v1.requeue(%s)", [list(asset_ids) or None]
        ).fetchone()
    console.print(f"{row[0] if row else 0} jobs are waiting again.")


@cli.command()
@pass_settings
def doctor(settings: Settings) -> None:
    """Check database, extensions, tokenizer, triggers, weights, media, device. Says what to do."""
    if not doctor_module.run(settings, console):
        sys.exit(1)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Leave as after an error: whatever was started is stopped, PostgreSQL above all."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
    raise SystemExit(128 + signal.SIGTERM)


def main() -> NoReturn:
    """Run a command; what a person can mend is said in a sentence, not a traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli(standalone_mode=True)
    except _ADVICE as error:
        click.echo(f"Error: {error}", err=True)
    except psycopg.errors.InvalidSchemaName:
        click.echo("Error: no index in this database yet: run immich-indexer migrate", err=True)
    except psycopg.errors.UndefinedFunction as error:
        text = str(error).splitlines()[0]
        click.echo(f"Error: {text}: run immich-indexer migrate", err=True)
    except psycopg.Error as error:
        click.echo(f"Error: PostgreSQL: {str(error).strip()}", err=True)
    sys.exit(1)
