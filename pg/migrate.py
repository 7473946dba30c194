"""Bring a database to this version's layout: migrations once, functions whenever they change.

Files: ``sql/migrations/NNN_name.sql`` run once, in order, and are never edited again;
``sql/functions/*.sql`` are CREATE OR REPLACE and run again when their text (or the pgvector they
were made for) changes. Of the ``20_tokenizer_*.sql`` pair, the one in use is run. ``COLLATE
"default"`` stands where letters must be told from signs, and capitals from small ones: in a
database whose own locale knows ASCII alone it becomes a collation that knows them all.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal
from uuid import UUID

import psycopg
from psycopg import sql

from pg.connect import Connection
from pg.locks import TablesLockedError, when_unlocked
from pg.query import fetch_one, fetch_value
from pg.rights import problem_with_rights

log = logging.getLogger(__name__)

Tokenizer = Literal["zhparser", "bigram"]

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
    applied += _run_functions(connection, chosen, vector.version)
    connection.execute("SELECT indexer_v1.ensure_clip_index()")
    triggers: int = fetch_value(connection, "SELECT indexer_v1.ensure_triggers()")
    return Report(applied, healed, chosen, triggers)


def refuse_newer(connection: Connection) -> None:
    """For whoever uses the database without migrating it.

    Raises:
        MigrationError: made by a newer version.
    """
    if fetch_value(connection, "SELECT to_regclass('indexer_v1.migration') IS NOT NULL"):
        _refuse_unknown(_recorded(connection, "migrations"), _read("migrations"))


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


def _read(folder: str) -> dict[str, str]:
    found = (entry for entry in (files("pg") / "sql" / folder).iterdir())
    texts = {e.name: e.read_text("utf-8") for e in found if e.name.endswith(".sql")}
    return {f"{folder}/{name}": texts[name] for name in sorted(texts)}


def _recorded(connection: Connection, folder: str) -> dict[str, str]:
    rows = connection.execute(
        "SELECT name, sha256 FROM indexer_v1.migration WHERE starts_with(name, %s)", [folder + "/"]
    ).fetchall()
    return dict(rows)


def _record(connection: Connection, name: str, sha256: str) -> None:
    connection.execute(
        "INSERT INTO indexer_v1.migration (name, sha256) VALUES (%s, %s) ON CONFLICT (name)"
        " DO UPDATE SET sha256 = excluded.sha256, applied_at = now()",
        [name, sha256],
    )


def _refuse_unknown(recorded: Mapping[str, str], shipped: Mapping[str, str]) -> None:
    unknown = sorted(recorded.keys() - shipped.keys())
    if unknown:
        raise MigrationError(
            f"This database was made by a newer immich-indexer (it has {', '.join(unknown)})."
            " Install that version or a later one; nothing was changed."
        )


def _run_migrations(connection: Connection) -> list[str]:
    shipped, recorded = _read("migrations"), _recorded(connection, "migrations")
    _refuse_unknown(recorded, shipped)
    applied = []
    for name, text in shipped.items():
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        if name not in recorded:
            connection.execute(text.encode())
            _record(connection, name, sha256)
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


def _run_functions(connection: Connection, tokenizer: Tokenizer, vector: str) -> list[str]:
    try:
        with connection.transaction():
            applied = _run_changed_functions(connection, tokenizer, vector)
        if not applied or not _has_leftovers(connection, tokenizer):
            return applied
    except psycopg.errors.InvalidFunctionDefinition:
        pass  # one of an older version has another return type or other names of arguments
    _drop_functions(connection)
    return _run_changed_functions(connection, tokenizer, vector)


def _has_leftovers(connection: Connection, tokenizer: Tokenizer) -> bool:
    """Functions of an older version are there still; an overload makes calls ambiguous."""
    texts = "".join(text for _, _, text in _functions(tokenizer))
    shipped = Counter(re.findall(r"^CREATE OR REPLACE FUNCTION indexer_v1\.(\w+)", texts, re.M))
    there = connection.execute(
        "SELECT proname::text, count(*) FROM pg_proc"
        " WHERE pronamespace = 'indexer_v1'::regnamespace GROUP BY proname"
    ).fetchall()
    return any(number > shipped[name] for name, number in there)


def _drop_functions(connection: Connection) -> None:
    """Make way for all functions anew. Those in use stay: by triggers, and by somebody's views."""
    rows = connection.execute(
        "SELECT oid::regprocedure::text FROM pg_proc"
        " WHERE pronamespace = 'indexer_v1'::regnamespace"
    ).fetchall()
    for (signature,) in rows:
        with suppress(psycopg.errors.DependentObjectsStillExist), connection.transaction():
            connection.execute(f"DROP FUNCTION {signature}".encode())
    connection.execute("DELETE FROM indexer_v1.migration WHERE starts_with(name, 'functions/')")


def _functions(tokenizer: Tokenizer) -> Iterator[tuple[str, str, str]]:
    """Files of functions in use: under which name each is recorded, its own name, and its text."""
    for name, text in _read("functions").items():
        slot = name
        if name.startswith("functions/20_tokenizer_"):
            if name != f"functions/20_tokenizer_{tokenizer}.sql":
                continue
            slot = "functions/20_tokenizer"
        yield slot, name, text


# The locale C, CloudNativePG's default, takes é and 药 for signs. A dump restores also where this
# collation is missing: only bodies of functions name it, and they are made anew then.
_COLLATION = """
    SELECT CASE WHEN lower('É') = 'é' AND '药' ~ '^\\w$' THEN '"default"' ELSE coalesce((
        SELECT quote_ident(c.collname) FROM pg_collation c
        WHERE c.collname = ANY (%(wanted)s::text[])
          AND c.collencoding IN (-1, pg_char_to_encoding('UTF8'))
        ORDER BY array_position(%(wanted)s::text[], c.collname::text) LIMIT 1), '"default"') END
"""
_COLLATIONS = ["pg_c_utf8", "C.utf8", "C.UTF-8", "en_US.utf8", "en_US.UTF-8", "und-x-icu"]


def _run_changed_functions(connection: Connection, tokenizer: Tokenizer, vector: str) -> list[str]:
    recorded = _recorded(connection, "functions")
    collation = fetch_value(connection, _COLLATION, {"wanted": _COLLATIONS})
    applied = []
    for slot, name, shipped in _functions(tokenizer):
        text = shipped.replace('COLLATE "default"', f"COLLATE {collation}")
        sha256 = hashlib.sha256(f"{vector}\n{text}".encode()).hexdigest()
        if recorded.get(slot) != sha256:
            connection.execute(text.encode())
            _record(connection, slot, sha256)
            applied.append(name)
    return applied
