"""Databases of every layout that was released come to today's with all that is in them."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner
from test_migrate import snapshot

from immich_indexer.cli import cli
from pg import _host, shipped
from pg.connect import Connection, connect
from pg.migrate import MigrationError, migrate, refuse_newer, retokenize, stale_rows
from pg.query import fetch_value

LAYOUTS = sorted((Path(__file__).parent / "layouts").glob("*.sql.gz"))

KEPT = {
    "ocr": "SELECT asset_id, text, lines, model, content_hash FROM indexer_v1.ocr",
    "clip": "SELECT asset_id, embedding::text, model, content_hash FROM indexer_v1.clip",
    "job": "SELECT asset_id, task, revision, priority, force, attempts, lease_token, dead_at,"
    " last_error FROM indexer_v1.job",
    "reprocess": "SELECT id, asset_id, task, requested_at, status, remaining, finished_at"
    " FROM indexer_v1.reprocess",
    "worker": "SELECT id, host, pid, device FROM indexer_v1.worker",
    "clip model": "SELECT value FROM indexer_v1.setting WHERE name = 'clip_model'",
}


def test_a_function_of_another_return_type_is_made_anew(indexed_database: str) -> None:
    """Also where an overload of an older version is left: it would make calls ambiguous."""
    with connect(indexed_database) as connection:
        before = snapshot(connection)
        connection.execute(
            """
            DROP FUNCTION indexer_v1.queue;
            CREATE FUNCTION indexer_v1.queue() RETURNS text LANGUAGE sql AS 'SELECT 1::text';
            CREATE FUNCTION indexer_v1.fold(word text, twice boolean DEFAULT false) RETURNS text
                LANGUAGE sql AS 'SELECT 1::text';
            DELETE FROM indexer_v1.migration WHERE name = 'functions/40_queue.sql';
            """
        )
        assert "functions/40_queue.sql" in migrate(connection).applied
        assert snapshot(connection) == before


def asset(number: int) -> UUID:
    return UUID(int=number)


def restore(url: str, dump: Path) -> None:
    psql = _host.binaries(None, None) / "psql"
    subprocess.run(
        [psql, "--dbname", url, "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=on"],
        # Said by pg_dump 18; before 17 there is no such setting.
        input=gzip.decompress(dump.read_bytes()).replace(b"SET transaction_timeout = 0;\n", b""),
        check=True,
        capture_output=True,
    )


def everything(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    return {name: sorted(connection.execute(query.encode())) for name, query in KEPT.items()}


def layout_of(connection: Connection) -> list[tuple[object, ...]]:
    """What `snapshot` sees, and indexes; the order of columns may differ.

    An index keeps how carefully it was built (ef_construction): an upgrade builds none anew.
    """
    indexes = connection.execute(
        "SELECT 'index', indexname, regexp_replace(indexdef, ' WITH .*', '') FROM pg_indexes"
        " WHERE schemaname = 'indexer_v1'"
    ).fetchall()
    return sorted([*snapshot(connection), *indexes], key=repr)


def test_there_is_a_dump_of_every_layout_before_this_one() -> None:
    released = [name.partition("/")[2][:3] for name in shipped.read("migrations")]
    missing = set(released[:-1]) - {path.name[:3] for path in LAYOUTS}
    assert not missing, f"make these as tests/pg/layouts/make.py says: {sorted(missing)}"


@pytest.mark.parametrize("dump", LAYOUTS, ids=lambda path: path.name[:3])
def test_a_database_of_an_earlier_layout(
    empty_database: str, databases: Any, indexed_database: str, dump: Path
) -> None:
    restore(empty_database, dump)
    with connect(empty_database) as connection:
        before = everything(connection)
        assert all(before.values())
        report = migrate(connection)
        applied = [name for name in report.applied if name.startswith("migrations/")]
        assert applied == [
            name
            for name in shipped.read("migrations")
            if name.partition("/")[2][:3] > dump.name[:3]
        ]
        assert report.healed == []
        assert everything(connection) == before

        # the same as a new one's
        with connect(indexed_database) as new:
            new.execute("SELECT indexer_v1.use_clip_model('stand-in', 4)")
            assert layout_of(connection) == layout_of(new)

        # and it works
        list(retokenize(connection))
        assert stale_rows(connection) == 0
        found = "SELECT asset_id FROM indexer_v1.search(%s)"
        assert fetch_value(connection, found, ["发票"]) == asset(1)
        assert fetch_value(connection, found, ["出口"]) == asset(2)
        connection.execute(
            "UPDATE asset_file SET path = path || '.new' WHERE \"assetId\" = %s", [asset(1)]
        )
        jobs = connection.execute(
            "SELECT task FROM indexer_v1.job WHERE asset_id = %s ORDER BY task", [asset(1)]
        ).fetchall()
        assert jobs == [("clip",), ("ocr",)]
        assert migrate(connection).applied == []


# Older code meets a newer database


@pytest.fixture
def newer(indexed_database: str) -> str:
    with connect(indexed_database) as connection:
        connection.execute(
            "INSERT INTO indexer_v1.migration (name, sha256)"
            " VALUES ('migrations/998_later.sql', 'x')"
        )
    return indexed_database


def test_a_newer_database_is_refused(newer: str, database: str) -> None:
    with connect(newer) as connection:
        with pytest.raises(MigrationError, match=r"newer immich-indexer.*998_later"):
            migrate(connection)
        with pytest.raises(MigrationError, match=r"newer immich-indexer.*998_later"):
            refuse_newer(connection)
    with connect(database) as connection:
        refuse_newer(connection)  # there is nothing yet


@pytest.mark.parametrize("command", ["serve", "gateway", "worker", "attach", "migrate"])
def test_no_command_serves_a_newer_database(newer: str, command: str) -> None:
    environment = {"DB_URL": newer, "CLIP_MODEL": "stand-in", "CLIP_DOWNLOAD": "off"}
    done = CliRunner(env=environment).invoke(cli, [command])
    assert isinstance(done.exception, MigrationError)
    assert "Install that version or a later one" in str(done.exception)
