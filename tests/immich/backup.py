"""Immich's backup and restore: pg_dump, and rule 5 of immich.md §2."""

from __future__ import annotations

import subprocess

import psycopg

from pg import _host


def dump(url: str) -> bytes:
    """The whole database, our schema and triggers with it, as SQL."""
    pg_dump = _host.binaries(None, None) / "pg_dump"
    return subprocess.run(
        [pg_dump, "--clean", "--if-exists", "--dbname", url], check=True, capture_output=True
    ).stdout


def restore(url: str, backup: bytes) -> None:
    """Kills sessions, DROP SCHEMA public CASCADE, then the dump, stopping at the first error.

    Raises:
        subprocess.CalledProcessError: it stopped at an error; ``stderr`` says which.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    # As Immich does it: its own functions name no schema.
    backup = backup.replace(
        b"SELECT pg_catalog.set_config('search_path', '', false);",
        b"SELECT pg_catalog.set_config('search_path', 'public, pg_catalog', true);",
    ).replace(b"SET transaction_timeout = 0;\n", b"")  # of a newer pg_dump than the server
    psql = _host.binaries(None, None) / "psql"
    subprocess.run(
        [
            *(psql, "--dbname", url, "--quiet", "--no-psqlrc"),
            *("--single-transaction", "--set", "ON_ERROR_STOP=on"),
        ],
        input=backup,
        check=True,
        capture_output=True,
    )
