"""Building the index of embeddings anew, while searches and workers go on.

An older version built it with less care, and an upgrade leaves an index as it is: with many
photos that takes minutes to hours, so it is for a person to start.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg

from pg.connect import Connection
from pg.locks import when_unlocked
from pg.query import fetch_one, fetch_value

log = logging.getLogger(__name__)

_SETTLE = "SELECT indexer_v1.settle_clip_index()"

# Beside each embedding an HNSW graph of m = 16 takes so many bytes while it is built.
_GRAPH_BYTES = 900


class ReindexError(Exception):
    """The index can't be built anew just now; the message says why."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Of a build.

    Attributes:
        phase: as PostgreSQL names it.
        done, total: blocks of the table.
    """

    phase: str
    done: int
    total: int


def is_outdated(connection: Connection) -> bool:
    """Whether `rebuild` would make a better index than there is."""
    outdated: bool = fetch_value(connection, "SELECT indexer_v1.clip_index_is_outdated()")
    return outdated


def memory_needed(connection: Connection) -> int:
    """Bytes of maintenance_work_mem with which the index is built fast; a rough estimate."""
    photos, dim = fetch_one(
        connection,
        "SELECT (SELECT count(*) FROM indexer_v1.clip), atttypmod FROM pg_attribute"
        " WHERE attrelid = 'indexer_v1.clip'::regclass AND attname = 'embedding'",
    )
    return int(photos * (2 * dim + _GRAPH_BYTES))


def rebuild(connection: Connection, memory: str | None = None) -> None:
    """Build a new index beside the old one, then put it in the old one's place.

    Where it is cancelled, or fails, nothing stays of the new one. Where this process is killed,
    the server's own goes on: the next `migrate` puts in place what it has built, or drops it.

    Args:
        connection: of the tables' owner; no transaction open, autocommit.
        memory: maintenance_work_mem, as PostgreSQL writes it (`2GB`); None: as the server has it.

    Raises:
        ReindexError: somebody else is at it.
        TablesLockedError: somebody holds the table for long; the old index stays.
        psycopg.errors.InvalidParameterValue: not how memory is written.
    """
    if memory:
        connection.execute("SELECT set_config('maintenance_work_mem', %s, false)", [memory])
    with _alone(connection):
        connection.execute("DROP INDEX CONCURRENTLY IF EXISTS indexer_v1.clip_embedding_new_idx")
        statement = fetch_value(
            connection, "SELECT indexer_v1.clip_index_statement('clip_embedding_new_idx', true)"
        )
        try:
            connection.execute(statement.encode())
        except psycopg.Error:
            settle(connection)
            raise
        when_unlocked(connection, lambda: connection.execute(_SETTLE))


def settle(connection: Connection) -> None:
    """Put in place what a rebuild that was killed has built, or drop what it has left.

    Does nothing while somebody is at it, or uses the table for long: another time then.
    """
    with suppress(psycopg.OperationalError), connection.transaction():  # LockNotAvailable is one
        connection.execute("SET LOCAL lock_timeout = '1s'")
        if fetch_value(connection, _SETTLE):
            log.info("the index of embeddings is the one that a killed rebuild has built")


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    if not fetch_value(connection, "SELECT pg_try_advisory_lock(indexer_v1.reindex_lock())"):
        raise ReindexError(
            "The index of embeddings is being built anew already. (Where the command for it was"
            " killed, PostgreSQL goes on; what it builds is used as soon as it is whole.)"
        )
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # a connection that is gone holds nothing
            connection.execute("SELECT pg_advisory_unlock(indexer_v1.reindex_lock())")


def progress(connection: Connection) -> Progress | None:
    """How far a build in this database is; None where there is none. On a second connection."""
    row = connection.execute(
        "SELECT phase, blocks_done, blocks_total FROM pg_stat_progress_create_index"
        " WHERE relid = 'indexer_v1.clip'::regclass"
    ).fetchone()
    return Progress(*row) if row else None
