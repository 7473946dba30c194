"""Leave a database as if we had never been in it."""

from __future__ import annotations

from psycopg import sql

from pg.connect import Connection
from pg.locks import when_unlocked
from pg.query import fetch_value


class StillRunningError(Exception):
    """A worker runs: it would attach again. Nothing was removed; the message says what to do."""


def detach(connection: Connection, *, keep_data: bool = False) -> list[str]:
    """Remove what `migrate` has made. Safe to repeat; nothing of Immich's is touched.

    Args:
        keep_data: keep the tables with the results, without triggers and functions: attaching
            again goes on from there.

    Returns:
        What was removed, for people.

    Raises:
        StillRunningError: first stop what would make it all again.
        TablesLockedError: Immich's tables are in use for long; nothing was removed.
    """
    if not fetch_value(connection, "SELECT to_regnamespace('indexer_v1') IS NOT NULL"):
        return []
    if workers := _running(connection):
        raise StillRunningError(
            f"A worker is running ({', '.join(workers)}) and would attach again. Stop it first"
            " (serve or worker; in Compose: docker compose stop immich-indexer, then docker compose"
            " run --rm immich-indexer detach). If it was killed, wait half a minute."
        )
    return when_unlocked(
        connection,
        lambda: [
            *_drop_triggers(connection),
            *(_drop_functions(connection) if keep_data else _drop_schema(connection)),
        ],
    )


def _running(connection: Connection) -> list[str]:
    if not fetch_value(connection, "SELECT to_regclass('indexer_v1.worker') IS NOT NULL"):
        return []  # what a failed restore has left
    rows = connection.execute(
        "SELECT host, pid FROM indexer_v1.worker WHERE seen_at > now() - interval '30 seconds'"
        " ORDER BY started_at"
    ).fetchall()
    return [f"host {host}, process {pid}" for host, pid in rows]


def _drop_triggers(connection: Connection) -> list[str]:
    triggers = connection.execute(
        """
        SELECT c.relname, t.tgname
        FROM pg_trigger t
        JOIN pg_class c ON c.oid = t.tgrelid
        JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE p.pronamespace = 'indexer_v1'::regnamespace
          AND c.relnamespace = 'public'::regnamespace
        ORDER BY 1, 2
        """
    ).fetchall()
    for table, trigger in triggers:
        connection.execute(
            sql.SQL("DROP TRIGGER {} ON {}").format(
                sql.Identifier(trigger), sql.Identifier("public", table)
            )
        )
    return [f"trigger {trigger} on {table}" for table, trigger in triggers]


def _drop_schema(connection: Connection) -> list[str]:
    tables = connection.execute(
        "SELECT relname, pg_size_pretty(pg_total_relation_size(oid)) FROM pg_class"
        " WHERE relnamespace = 'indexer_v1'::regnamespace AND relkind = 'r' ORDER BY relname"
    ).fetchall()
    connection.execute("DROP SCHEMA indexer_v1 CASCADE")
    return [*(f"table indexer_v1.{name} ({size})" for name, size in tables), "schema indexer_v1"]


def _drop_functions(connection: Connection) -> list[str]:
    functions = connection.execute(
        "SELECT oid::regprocedure::text FROM pg_proc"
        " WHERE pronamespace = 'indexer_v1'::regnamespace ORDER BY 1"
    ).fetchall()
    for (signature,) in functions:
        # regprocedure has quoted what needs it
        connection.execute(f"DROP FUNCTION {signature} CASCADE".encode())
    connection.execute("DELETE FROM indexer_v1.migration WHERE starts_with(name, 'functions/')")
    connection.execute("DELETE FROM indexer_v1.job")
    connection.execute("DELETE FROM indexer_v1.worker")
    return [f"function {signature}" for (signature,) in functions]
