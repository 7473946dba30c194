"""Bring a database to this version's layout: migrations once, functions whenever they change.

Files: ``sql/migrations/NNN_name.sql`` run once, in order, and are never edited again;
``sql/functions/*.sql`` are CREATE OR REPLACE and run again when their text (or the pgvector they
were made for) changes: `pg.functions`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal
from uuid import UUID

from psycopg import sql

from pg import shipped
from pg.connect import Connection
from pg.functions import Tokenizer, create_functions
from pg.locks import TablesLockedError, when_unlocked
from pg.query import fetch_one, fetch_value
from pg.reindex import settle
from pg.rights import problem_with_rights

log = logging.getLogger(__name__)

# Any number will do as long as nobody else uses it: "immich-indexer" on a telephone keypad.
_ADVISORY_LOCK = 4664_2446


def create_library_tables(connection: Connection) -> None:
    """Make the tables of folder mode, named as Immich's. Safe to repeat."""
    connection.execute((files("pg") / "sql" / "library.sql").read_bytes())


class MigrationError(Exception):
    """This database can't be brought to this version's layout; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Report:
    """What `migrate` did.

    Attributes:
        applied: names of the files that were run, in order.
        healed: what had vanished from our tables and has been made again.
        tokenizer: the tokenizer in use.
        triggers: how many triggers on Immich's tables were missing and have been made.
    """

    applied: list[str]
    healed: list[str]
    tokenizer: Tokenizer
    triggers: int


def migrate(
    connection: Connection, tokenizer: Literal["auto", "zhparser", "bigram"] = "auto"
) -> Report:
    """Apply what is missing, in one transaction, one process at a time. Safe to repeat.

    Args:
        connection: of the owner of Immich's tables; no transaction open.
        tokenizer: `auto` keeps what is recorded, else takes zhparser where the extension has been
            created, bigrams elsewhere.

    Raises:
        MigrationError: not Immich's database or not its role, too old, or made by a newer version;
            or Immich's tables are in use for long.
    """
    try:
        report = when_unlocked(
            connection,
            lambda: _migrate(connection, tokenizer),
            first=f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})",
        )
    except TablesLockedError as error:
        raise MigrationError(str(error)) from error
    settle(connection)
    for name in report.applied:
        log.info("applied %s", name)
    for name in report.healed:
        log.warning("made again, a restore of Immich had taken it: %s", name)
    return report


def _migrate(connection: Connection, tokenizer: Literal["auto", "zhparser", "bigram"]) -> Report:
    vector = _check(connection)
    connection.execute(
        sql.SQL("SET LOCAL search_path = pg_catalog, public, {}, pg_temp").format(
            sql.Identifier(vector.schema)
        )
    )
    # Some functions are for tables that only an Immich has; in folder mode nobody calls them.
    connection.execute("SET LOCAL check_function_bodies = off")
    _create_schema(connection)
    applied = _run_migrations(connection)
    healed = _heal(connection)
    chosen = _choose_tokenizer(connection, tokenizer)
    applied += create_functions(connection, chosen, vector.version)
    connection.execute("SELECT indexer_v1.ensure_clip_index()")
    triggers: int = fetch_value(connection, "SELECT indexer_v1.ensure_triggers()")
    return Report(applied, healed, chosen, triggers)


def refuse_newer(connection: Connection) -> None:
    """For whoever uses the database without migrating it.

    Raises:
        MigrationError: made by a newer version.
    """
    if fetch_value(connection, "SELECT to_regclass('indexer_v1.migration') IS NOT NULL"):
        _refuse_unknown(shipped.recorded(connection, "migrations"), shipped.read("migrations"))


def stale_rows(connection: Connection) -> int:
    """How many texts were tokenized by another tokenizer than the one in use: `retokenize` them.

    Reads the whole table, so it is for commands that people give, not for every reconciling.
    """
    stale: int = fetch_value(
        connection, "SELECT count(*) FROM indexer_v1.ocr WHERE tokenizer <> indexer_v1.tokenizer()"
    )
    return stale


def retokenize(connection: Connection, chunk: int = 500) -> Iterator[int]:
    """Tokenize the stale texts again, in the order of their ids. Yields the size of every chunk.

    Every chunk is a transaction of its own, so it can be stopped and gone on with: what is done
    isn't stale any more. Several may do it together; texts that others hold are skipped, and
    looked for again until nothing is found.
    """
    found = True
    while found:
        found = False
        start: UUID | None = UUID(int=0)
        while start:
            with connection.transaction():
                # From where the last chunk ended, whatever the planner thinks is stale.
                connection.execute("SET LOCAL enable_seqscan = off")
                connection.execute("SET LOCAL enable_bitmapscan = off")
                connection.execute("SET LOCAL enable_sort = off")
                done = connection.execute(_RETOKENIZE, [start, chunk]).fetchall()
            last = max((row[0].int for row in done), default=0)
            full = len(done) == chunk and last < 2**128 - 1
            start = UUID(int=last + 1) if full else None
            if done:
                found = True
                yield len(done)


_RETOKENIZE = """
    UPDATE indexer_v1.ocr o
    SET tsv = indexer_v1.to_tsvector(o.text), tokenizer = indexer_v1.tokenizer()
    FROM (
        SELECT asset_id FROM indexer_v1.ocr
        WHERE asset_id >= %s AND tokenizer <> indexer_v1.tokenizer()
        ORDER BY asset_id LIMIT %s FOR UPDATE SKIP LOCKED
    ) AS stale
    WHERE o.asset_id = stale.asset_id
    RETURNING o.asset_id
"""


@dataclass(frozen=True, slots=True)
class _Vector:
    schema: str
    version: str


def _check(connection: Connection) -> _Vector:
    """The database is one we can live in; where its vector extension is."""
    if connection.info.server_version < 140000:
        raise MigrationError("PostgreSQL 14 or later is needed, as Immich itself does.")
    tables = fetch_one(
        connection,
        "SELECT to_regclass('public.asset') IS NOT NULL, to_regclass('public.assets') IS NOT NULL,"
        " to_regclass('public.asset_file') IS NOT NULL, current_database()",
    )
    if not (tables[0] and tables[2]):
        found = "an Immich before 2.3" if tables[1] else "no Immich"
        raise MigrationError(
            f"Database {tables[3]!r} holds {found}: tables public.asset and public.asset_file are"
            " missing. Point DB_URL at the database of an Immich 2.3 or later that has started"
            " once, or leave DB_URL empty to search a folder of photos."
        )
    if problem := problem_with_rights(connection):
        raise MigrationError(problem)
    vector = connection.execute(
        "SELECT n.nspname, e.extversion, string_to_array(e.extversion, '.')::int[] >= '{0,7}'"
        " FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
        " WHERE e.extname = 'vector'"
    ).fetchone()
    if vector is None:
        raise MigrationError("Run CREATE EXTENSION vector in this database first.")
    if not vector[2]:
        raise MigrationError(
            f"pgvector {vector[1]} is too old (0.7 is needed, for halfvec): install a newer one,"
            " then ALTER EXTENSION vector UPDATE."
        )
    return _Vector(vector[0], vector[1])


def _create_schema(connection: Connection) -> None:
    connection.execute("CREATE SCHEMA IF NOT EXISTS indexer_v1")
    connection.execute(
        """
        CREATE TABLE IF NOT EXISTS indexer_v1.migration (
            name       text PRIMARY KEY,
            sha256     text NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )


def _refuse_unknown(recorded: Mapping[str, str], known: Mapping[str, str]) -> None:
    unknown = sorted(recorded.keys() - known.keys())
    if unknown:
        raise MigrationError(
            f"This database was made by a newer immich-indexer (it has {', '.join(unknown)})."
            " Install that version or a later one; nothing was changed."
        )


def _run_migrations(connection: Connection) -> list[str]:
    known, recorded = shipped.read("migrations"), shipped.recorded(connection, "migrations")
    _refuse_unknown(recorded, known)
    applied = []
    for name, text in known.items():
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        if name not in recorded:
            connection.execute(text.encode())
            shipped.record(connection, name, sha256)
            applied.append(name)
        elif recorded[name] != sha256:
            raise MigrationError(
                f"{name} has been edited after it was applied to this database. Migrations are"
                " run once: restore the file, and put the change into a new one."
            )
    return applied


def _heal(connection: Connection) -> list[str]:
    """Make good what a restore of Immich takes along.

    It runs DROP SCHEMA public CASCADE: every foreign key to public.asset, every column of a
    vector type and every function that mentions one goes, also in our schema.
    """
    healed = []
    if not fetch_value(
        connection,
        "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'indexer_v1.clip'::regclass"
        " AND attname = 'embedding' AND NOT attisdropped)",
    ):
        model = connection.execute(
            "SELECT split_part(value, '/', 2)::int FROM indexer_v1.setting"
            " WHERE name = 'clip_model'"
        ).fetchone()
        connection.execute("TRUNCATE indexer_v1.clip")
        connection.execute(
            sql.SQL("ALTER TABLE indexer_v1.clip ADD COLUMN embedding halfvec({}) NOT NULL").format(
                sql.Literal(model[0] if model else 512)
            )
        )
        healed.append("column indexer_v1.clip.embedding (empty: photos are embedded again)")
    for table in ("job", "ocr", "clip", "write_back"):
        if fetch_value(
            connection,
            "SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = %s::regclass"
            " AND confrelid = 'public.asset'::regclass)",
            [f"indexer_v1.{table}"],
        ):
            continue
        name = sql.Identifier("indexer_v1", table)
        connection.execute(
            sql.SQL(
                "DELETE FROM {} t"
                " WHERE NOT EXISTS (SELECT FROM public.asset a WHERE a.id = t.asset_id)"
            ).format(name)
        )
        connection.execute(
            sql.SQL(
                "ALTER TABLE {} ADD FOREIGN KEY (asset_id) REFERENCES public.asset (id)"
                " ON DELETE CASCADE"
            ).format(name)
        )
        healed.append(f"foreign key of indexer_v1.{table}")
    if healed:
        connection.execute("DELETE FROM indexer_v1.migration WHERE starts_with(name, 'functions/')")
    return healed


def _choose_tokenizer(
    connection: Connection, wanted: Literal["auto", "zhparser", "bigram"]
) -> Tokenizer:
    row = fetch_one(
        connection,
        "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'zhparser'),"
        " (SELECT value FROM indexer_v1.setting WHERE name = 'tokenizer')",
    )
    installed, recorded = bool(row[0]), row[1]
    if wanted == "zhparser" and not installed:
        raise MigrationError(
            "TOKENIZER=zhparser, but the extension isn't in this database. Install it on the"
            " server, run CREATE EXTENSION zhparser, then this again."
        )
    chosen: Tokenizer
    if wanted != "auto":
        chosen = wanted
    elif recorded == "zhparser" and not installed:
        log.warning("zhparser is gone from this database; going on with bigrams")
        chosen = "bigram"
    elif recorded in ("zhparser", "bigram"):
        chosen = recorded
    else:
        chosen = "zhparser" if installed else "bigram"
    connection.execute(
        "INSERT INTO indexer_v1.setting VALUES ('tokenizer', %s)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [chosen],
    )
    return chosen
