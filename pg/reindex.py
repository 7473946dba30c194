"""Building the index of embeddings anew, while searches and workers go on.

An older version built it with less care, and an upgrade leaves an index as it is: with many
photos that takes minutes to hours, so it is for a person to start.
"""

from __future__ import annotations

from dataclasses import dataclass

from pg.connect import Connection
from pg.locks import when_unlocked
from pg.query import fetch_one, fetch_value

# Beside each embedding an HNSW graph of m = 16 takes so many bytes while it is built.
_GRAPH_BYTES = 900


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

    What a build that was stopped has left is thrown away first.

    Args:
        connection: of the tables' owner; no transaction open, autocommit.
        memory: maintenance_work_mem, as PostgreSQL writes it (`2GB`); None: as the server has it.

    Raises:
        TablesLockedError: somebody holds the table for long; the old index stays.
        psycopg.errors.InvalidParameterValue: not how memory is written.
    """
    if memory:
        connection.execute("SELECT set_config('maintenance_work_mem', %s, false)", [memory])
    connection.execute("DROP INDEX CONCURRENTLY IF EXISTS indexer_v1.clip_embedding_new_idx")
    statement = fetch_value(
        connection, "SELECT indexer_v1.clip_index_statement('clip_embedding_new_idx', true)"
    )
    connection.execute(statement.encode())

    def put_in_place() -> None:
        connection.execute("DROP INDEX IF EXISTS indexer_v1.clip_embedding_idx")
        connection.execute(
            "ALTER INDEX indexer_v1.clip_embedding_new_idx RENAME TO clip_embedding_idx"
        )

    when_unlocked(connection, put_in_place)


def progress(connection: Connection) -> Progress | None:
    """How far a build in this database is; None where there is none. On a second connection."""
    row = connection.execute(
        "SELECT phase, blocks_done, blocks_total FROM pg_stat_progress_create_index"
        " WHERE relid = 'indexer_v1.clip'::regclass"
    ).fetchone()
    return Progress(*row) if row else None
