"""`immich-indexer demo`: the whole product on a folder of photos, in one command."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from immich_indexer import results, status
from immich_indexer.runtime import SAMPLES, database, prepare, restart, run
from indexer import library
from indexer.models.engine import Engine
from indexer.reconcile import reconcile
from indexer.settings import Settings
from indexer.shared import SharedEngine
from indexer.status import look
from indexer.worker import Worker
from pg.connect import Connection, connect
from pg.query import fetch_value

SAMPLE_QUERIES = ("发票", "牛肉面", "ocr:南京 -高速", "RE16", "红色的圆", "红色的圆 出口")
_STAND_IN = "stand-in"


def demo(settings: Settings, folder: Path, console: Console, once: bool) -> None:
    """Index, ask, and (unless `once`) serve."""
    settings = _choose_clip_model(settings, folder, console)
    with database(settings) as url:
        prepare(url, settings, choose_clip_model=True)
        engine = SharedEngine(settings, url, on_stuck=restart)
        try:
            _index(settings, url, engine, console)
            with connect(url) as connection:
                _ask(connection, engine, folder, console)
            if once:
                return
            _say_what_next(f"http://{settings.host}:{settings.port}", url, folder, console)
        finally:
            engine.close()
        run(settings, url, with_gateway=True, with_worker=True)


def _say_what_next(gateway: str, url: str, folder: Path, console: Console) -> None:
    console.print(
        f"\nNow serving at [bold]{gateway}/[/bold]; Ctrl-C ends it. Try:", highlight=False
    )
    for command in (
        f"curl -G {gateway}/search --data-urlencode 'q=发票'",
        "immich-indexer search '发票 -作废'",
        "immich-indexer status",
        f"psql '{url}' -c \"TABLE indexer_v1.ocr\"",
    ):
        console.print(Text(f"  {command}"), soft_wrap=True)
    console.print(Text(f"New photos in {folder} are found by themselves."), soft_wrap=True)


def _choose_clip_model(settings: Settings, folder: Path, console: Console) -> Settings:
    """Real weights if they are on the disk; for the samples else the stand-in, saying so."""
    on_disk = Engine(msgspec.structs.replace(settings, clip_download="off"))
    problem = on_disk.clip_problem()
    if problem is None:
        return settings
    if folder != SAMPLES.resolve():
        if settings.clip_download == "off":
            console.print(Text(f"Only text is indexed for now. {problem}", style="yellow"))
        return settings
    console.print(
        Text(
            "CLIP is a stand-in: a tiny model that knows nothing but coloured shapes "
            f"(红色的圆, 蓝色的正方形 …), trained for this demo. For real pictures: {problem}",
            style="yellow",
        )
    )
    return msgspec.structs.replace(settings, clip_model=_STAND_IN)


def _index(settings: Settings, url: str, engine: SharedEngine, console: Console) -> None:
    """Run a worker until the queue is empty, with a progress bar."""
    worker = Worker(settings, url, engine)
    with connect(url) as connection:
        reconcile(connection, settings, engine.ocr_model)
        total = _pending(connection, ("ocr", "clip"))
        if not total:
            console.print("Everything is indexed already.")
        else:
            worker.start()
            try:
                _show_progress(connection, engine, total, console)
            finally:
                worker.stop()
        seen = look(connection)
    console.print(
        f"{seen.photos} photos: {seen.read} read, {seen.embedded} embedded"
        f" with the CLIP model {seen.clip_model}."
    )
    if (problem := engine.clip_problem()) and seen.pending("clip"):
        console.print(Text(f"CLIP waits: {problem}", style="yellow"))
    if seen.failures:
        console.print(status.failures_table(seen))


def _pending(connection: Connection, tasks: tuple[str, ...]) -> int:
    """Photos with a job that is still to end."""
    pending: int = fetch_value(
        connection,
        "SELECT count(DISTINCT asset_id) FROM indexer_v1.job"
        " WHERE dead_at IS NULL AND task = ANY (%s)",
        [list(tasks)],
    )
    return pending


def _show_progress(connection: Connection, engine: Engine, total: int, console: Console) -> None:
    columns = (
        TextColumn("Indexing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TextColumn("{task.fields[rate]:.1f}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=total, failed=0, rate=0.0)
        started = time.monotonic()
        while True:
            tasks = ("ocr",) if engine.clip_problem() else ("ocr", "clip")
            waiting = _pending(connection, tasks)
            total = max(total, waiting)  # photos may come while it runs
            failed = fetch_value(
                connection,
                "SELECT count(DISTINCT asset_id) FROM indexer_v1.job WHERE dead_at IS NOT NULL",
            )
            done = total - waiting
            progress.update(
                bar,
                completed=done,
                total=total,
                failed=failed,
                rate=done / (time.monotonic() - started),
            )
            if not waiting:
                return
            time.sleep(0.2)


def _ask(connection: Connection, engine: Engine, folder: Path, console: Console) -> None:
    owners = [library.owner_of(folder)]
    queries = SAMPLE_QUERIES if folder == SAMPLES.resolve() else _words_of(connection, folder)
    for query in queries:
        found = results.search(connection, engine, query, owners=owners, limit=3)
        console.print(results.table(query, found))
    if not queries:
        console.print("No text was found in these photos, so there is nothing to ask for by word.")


def _words_of(connection: Connection, folder: Path) -> list[str]:
    """Some short lines that were read with confidence, to ask for in somebody's own photos."""
    rows = connection.execute(
        """
        SELECT DISTINCT ON (o.asset_id) line ->> 'text'
        FROM indexer_v1.ocr o
        JOIN public.asset a ON a.id = o.asset_id AND a."ownerId" = %s
        CROSS JOIN jsonb_array_elements(o.lines) AS line
        WHERE length(line ->> 'text') BETWEEN 2 AND 12 AND line ->> 'text' ~ '^[[:alpha:]]+$'
        ORDER BY o.asset_id, (line ->> 'text_score')::real DESC
        LIMIT 4
        """,
        [library.owner_of(folder)],
    ).fetchall()
    return [row[0] for row in rows]
