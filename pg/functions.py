"""Our SQL functions in a database: made, and made anew when their text changes.

Of the ``20_tokenizer_*.sql`` pair, the one in use is run. ``COLLATE "default"`` stands where
letters must be told from signs, and capitals from small ones: in a database whose own locale knows
ASCII alone it becomes a collation that knows them all.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

import psycopg

from pg import shipped
from pg.connect import Connection
from pg.query import fetch_value

Tokenizer = Literal["zhparser", "bigram"]


def create_functions(connection: Connection, tokenizer: Tokenizer, vector: str) -> list[str]:
    """Run the files that have changed since; all of them where others would be in the way.

    Args:
        vector: version of pgvector: functions set what their version knows.

    Returns:
        Names of the files that were run.
    """
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
    wanted = Counter(re.findall(r"^CREATE OR REPLACE FUNCTION indexer_v1\.(\w+)", texts, re.M))
    there = connection.execute(
        "SELECT proname::text, count(*) FROM pg_proc"
        " WHERE pronamespace = 'indexer_v1'::regnamespace GROUP BY proname"
    ).fetchall()
    return any(number > wanted[name] for name, number in there)


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
    for name, text in shipped.read("functions").items():
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
    before = shipped.recorded(connection, "functions")
    collation = fetch_value(connection, _COLLATION, {"wanted": _COLLATIONS})
    applied = []
    for slot, name, original in _functions(tokenizer):
        text = original.replace('COLLATE "default"', f"COLLATE {collation}")
        sha256 = hashlib.sha256(f"{vector}\n{text}".encode()).hexdigest()
        if before.get(slot) != sha256:
            connection.execute(text.encode())
            shipped.record(connection, slot, sha256)
            applied.append(name)
    return applied
