"""`immich-indexer doctor`: looks at everything that can be wrong, and says what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import msgspec
import psycopg
from rich.console import Console
from rich.text import Text

from immich_indexer.runtime import database
from indexer import library
from indexer.media import Media, MediaAwayError
from indexer.models.engine import Engine
from indexer.models.types import FaceOptions, ImageError
from indexer.previews import previews
from indexer.results import recorded_clip_model
from indexer.settings import Settings, SettingsError
from pg import reindex
from pg.connect import Connection, UnreachableError, UrlError, address, connect
from pg.embedded import ServerError
from pg.migrate import stale_rows
from pg.query import fetch_one, fetch_value


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. advice: what to do; empty where it is fine."""

    what: str
    found: str
    advice: str = ""
    fatal: bool = True


def run(settings: Settings, console: Console) -> bool:
    """Print every finding; False where something keeps the product from working."""
    fine = True
    for finding in _findings(settings):
        sign, style = ("ok  ", "green") if not finding.advice else ("BAD ", "red")
        if finding.advice and not finding.fatal:
            sign, style = "note", "yellow"
        console.print(Text(f"{sign} {finding.what}: {finding.found}", style=style))
        if finding.advice:
            console.print(Text(f"     → {finding.advice}"))
            fine = fine and not finding.fatal
    return fine


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from _models(settings)
    try:
        with database(settings) as url, connect(url) as connection:
            mode = "Immich's" if settings.attached else "the embedded server's"
            yield Finding(
                "database", f"{mode}, PostgreSQL {connection.info.server_version // 10000}"
            )
            yield from _extensions(connection)
            if connection.execute("SELECT to_regclass('indexer_v1.migration')").fetchone() == (
                None,
            ):
                yield Finding("schema", "missing", "run: immich-indexer migrate")
                return
            yield from _schema(connection, settings)
            yield from _search_replica(settings)
            yield from _media(connection, settings)
    except (UnreachableError, UrlError, ServerError, psycopg.Error) as error:
        advice = "see the message; DB_URL (or DB_HOSTNAME …) must name a database that answers"
        yield Finding("database", " ".join(str(error).split()), advice)


def _models(settings: Settings) -> Iterator[Finding]:
    engine = Engine(msgspec.structs.replace(settings, clip_download="off"))
    yield Finding("device", engine.device)
    yield Finding("OCR", engine.ocr_name)
    problem = engine.clip_problem()
    info = engine.clip_info
    if problem:
        yield Finding("CLIP", "not available; text is indexed all the same", problem, fatal=False)
    else:
        yield Finding("CLIP", f"{info.name}, {info.dim} dimensions")
    if settings.faces_by == "insightface":
        problem = engine.faces_problem(FaceOptions().pack)
        yield Finding("faces", "found here by InsightFace", problem or "", fatal=False)
    elif settings.faces_by == "forward":
        advice = "" if settings.immich_api else "set IMMICH_API to Immich's own ML server"
        yield Finding("faces", f"passed on to {settings.immich_api or 'nobody'}", advice)


def _extensions(connection: Connection) -> Iterator[Finding]:
    versions: dict[str, str] = dict(
        connection.execute(
            "SELECT extname, extversion FROM pg_extension"
            " WHERE extname IN ('vector', 'vchord', 'zhparser')"
        ).fetchall()
    )
    vector = versions.get("vector")
    if vector is None:
        yield Finding("pgvector", "missing", "run CREATE EXTENSION vector in this database")
    else:
        old = tuple(map(int, vector.split(".")[:2])) < (0, 8)
        advice = "0.8 or later fills up searches with selective filters: update it" if old else ""
        yield Finding("pgvector", vector, advice, fatal=False)
    if "vchord" in versions:
        yield Finding("VectorChord", versions["vchord"])


def _schema(connection: Connection, settings: Settings) -> Iterator[Finding]:
    tokenizer, created, available = fetch_one(
        connection,
        "SELECT indexer_v1.tokenizer(),"
        " EXISTS (SELECT FROM pg_extension WHERE extname = 'zhparser'),"
        " EXISTS (SELECT FROM pg_available_extensions WHERE name = 'zhparser')",
    )
    stale = stale_rows(connection)
    advice = ""
    if stale:
        advice = f"{stale} texts are cut by another tokenizer: run immich-indexer retokenize"
    elif not tokenizer.startswith("zhparser") and (created or available):
        create = "" if created else "CREATE EXTENSION zhparser, then "
        advice = (
            f"zhparser would be more precise: {create}immich-indexer retokenize --tokenizer"
            " zhparser (dumps then restore only where zhparser is installed)"
        )
    yield Finding("tokenizer", tokenizer, advice, fatal=False)

    missing = connection.execute(
        "SELECT table_name, trigger_name FROM indexer_v1.missing_triggers()"
    ).fetchall()
    if missing:
        names = ", ".join(f"{trigger} on {table}" for table, trigger in missing)
        yield Finding("triggers", f"missing: {names}", "run: immich-indexer attach")
    else:
        yield Finding("triggers", "in place")

    if reindex.is_outdated(connection):
        yield Finding(
            "index of embeddings",
            "built by an older version, finds a little less",
            "run immich-indexer reindex, while searches go on",
            fatal=False,
        )

    recorded = recorded_clip_model(connection)
    if recorded not in (None, settings.clip_model):
        yield Finding(
            "CLIP model of the index",
            str(recorded),
            f"CLIP_MODEL is {settings.clip_model}: set CLIP_MODEL={recorded}, or run immich-indexer"
            f" migrate --clip-model {settings.clip_model} to embed every photo again",
            fatal=False,
        )


def _search_replica(settings: Settings) -> Iterator[Finding]:
    if not settings.search_db_url:
        return
    meanwhile = "the primary is searched meanwhile"
    try:
        where = address(settings.search_db_url, "SEARCH_DB_URL")
        with connect(settings.search_db_url) as replica:
            follows = fetch_value(replica, "SELECT pg_is_in_recovery()")
    except (UrlError, psycopg.Error) as error:
        problem = " ".join(str(error).split())
        yield Finding("search replica", problem, f"check SEARCH_DB_URL; {meanwhile}", fatal=False)
        return
    advice = "" if follows else f"SEARCH_DB_URL must name a streaming replica; {meanwhile}"
    yield Finding("search replica", where, advice, fatal=False)


def _media(connection: Connection, settings: Settings) -> Iterator[Finding]:
    if settings.photos_dir:
        for gone in library.away(connection, settings.photos_dir):
            yield Finding("photos", "not all there", str(gone), fatal=False)
    row = connection.execute(
        "SELECT path, \"assetId\" FROM public.asset_file WHERE type = 'preview'"
        " ORDER BY id DESC LIMIT 1"
    ).fetchone()
    if row is None:
        yield Finding("media", "no preview in the database yet")
        return
    if settings.previews_url:
        yield _fetched(settings, *row)
        return
    media = Media.parse(settings.media_map)
    here = Path(row[0])
    try:
        here = media.locate(row[0])
        with here.open("rb"):
            yield Finding("media", f"{here} can be read")
    except OSError as error:
        advice = f"{error.strerror}: mount Immich's media folder here, or set MEDIA_MAP=THERE=HERE"
        try:
            media.check_present(row[0])
        except MediaAwayError as away:
            advice = f"{away} Or set MEDIA_MAP=THERE=HERE"
        yield Finding("media", f"{here} (Immich: {row[0]})", advice)


def _fetched(settings: Settings, path: str, asset_id: UUID) -> Finding:
    try:
        with closing(previews(settings)) as source:
            source.read(asset_id, path)
    except (SettingsError, MediaAwayError) as error:
        return Finding("media", f"not from {settings.previews_url}", str(error))
    except (OSError, ImageError) as error:
        return Finding("media", f"{settings.previews_url} has no {path}", str(error), fatal=False)
    return Finding("media", f"fetched from {settings.previews_url}")
