"""An index that an older version built is built anew, while searches go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import psycopg
import pytest
from assets import add_assets
from click.testing import CliRunner

from immich_indexer.cli import cli
from pg import reindex
from pg.connect import Connection, connect
from pg.migrate import migrate
from pg.query import fetch_value

OLDER = (
    "DROP INDEX indexer_v1.clip_embedding_idx;"
    "CREATE INDEX clip_embedding_idx ON indexer_v1.clip USING hnsw (embedding halfvec_cosine_ops)"
    " WITH (m = 16, ef_construction = 100)"
)
NEAREST = (
    "SELECT asset_id FROM indexer_v1.search('', (SELECT embedding::vector FROM indexer_v1.clip"
    " WHERE asset_id = %s), max_distance => 2) LIMIT 1"
)


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with connect(database) as opened:
        yield opened


def options(connection: Connection) -> list[str]:
    found: list[str] = fetch_value(
        connection,
        "SELECT reloptions FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid"
        " WHERE c.oid = 'indexer_v1.clip_embedding_idx'::regclass AND i.indisvalid",
    )
    return found


def add_embeddings(connection: Connection, count: int) -> list[UUID]:
    ids = add_assets(connection, count)
    connection.execute(
        "INSERT INTO indexer_v1.clip (asset_id, embedding, model, content_hash)"
        " SELECT id, (SELECT array_agg(sin(n * k)) FROM generate_series(1, 512) AS k)::halfvec,"
        " 'm', sha256('') FROM unnest(%s) WITH ORDINALITY AS t(id, n)",
        [ids],
    )
    return ids


def test_an_empty_index_is_never_an_older_one(connection: Connection) -> None:
    migrate(connection)
    assert options(connection) == ["m=16", "ef_construction=300"]
    connection.execute(OLDER)
    migrate(connection)
    assert options(connection) == ["m=16", "ef_construction=300"]


def test_rebuilt_by_the_command(
    connection: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(connection)
    add_embeddings(connection, 30)
    connection.execute(OLDER)
    migrate(connection)
    assert reindex.is_outdated(connection)  # what people have isn't thrown away by an upgrade
    monkeypatch.setenv("DB_URL", database)
    monkeypatch.setenv("CLIP_MODEL", "stand-in")
    result = CliRunner().invoke(cli, ["reindex", "--memory", "20MB"])
    assert result.exit_code == 0, result.output
    assert "is new" in result.output
    assert not reindex.is_outdated(connection)
    assert options(connection) == ["m=16", "ef_construction=300"]


def test_goes_on_after_a_stop_and_beside_searches(connection: Connection, database: str) -> None:
    migrate(connection)
    ids = add_embeddings(connection, 30)
    connection.execute(OLDER)
    # A build that was killed leaves an index that isn't valid.
    connection.execute(
        "CREATE INDEX clip_embedding_new_idx ON indexer_v1.clip (asset_id);"
        "UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid = 'indexer_v1.clip_embedding_new_idx'::regclass"
    )
    ended = threading.Event()

    def search() -> None:
        with connect(database) as another:
            while not ended.is_set():
                assert fetch_value(another, NEAREST, [ids[3]]) == ids[3]

    searching = threading.Thread(target=search)
    searching.start()
    try:
        reindex.rebuild(connection)
    finally:
        ended.set()
        searching.join()
    assert not reindex.is_outdated(connection)
    assert fetch_value(connection, NEAREST, [ids[7]]) == ids[7]
    assert fetch_value(
        connection, "SELECT to_regclass('indexer_v1.clip_embedding_new_idx') IS NULL"
    )
    assert reindex.progress(connection) is None


def test_ctrl_c_ends_the_build(connection: Connection, database: str) -> None:
    migrate(connection)
    connection.execute("SELECT indexer_v1.use_clip_model('ViT-B-16', 512)")
    add_embeddings(connection, 30)
    with connect(database) as writer, writer.transaction():
        writer.execute("LOCK TABLE indexer_v1.clip IN ROW EXCLUSIVE MODE")  # the build waits for it
        command = subprocess.Popen(
            [sys.executable, "-m", "immich_indexer", "reindex"],
            env={**os.environ, "DB_URL": database},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # A shell's background jobs, and all that they start, ignore Ctrl-C.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 60
        while reindex.progress(connection) is None:
            assert command.poll() is None, command.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        command.send_signal(signal.SIGINT)
        assert command.wait(timeout=20) != 0
        assert reindex.progress(connection) is None
    assert options(connection) == ["m=16", "ef_construction=300"]  # the old one is there still


NEW_ONE = "SELECT to_regclass('indexer_v1.clip_embedding_new_idx') IS NOT NULL"


@dataclass
class Building:
    """A rebuild under way: its connection, its thread, and the transaction that it waits for."""

    connection: Connection
    thread: threading.Thread
    awaited: Connection


@pytest.fixture
def building(connection: Connection, database: str) -> Iterator[Building]:
    migrate(connection)
    add_embeddings(connection, 30)
    connection.execute(OLDER)
    with connect(database) as builder, connect(database) as writer:

        def build() -> None:
            with suppress(psycopg.Error):
                reindex.rebuild(builder)

        thread = threading.Thread(target=build)
        writer.execute("BEGIN; LOCK TABLE indexer_v1.clip IN ROW EXCLUSIVE MODE")
        thread.start()
        while not fetch_value(connection, NEW_ONE):
            assert thread.is_alive()
            time.sleep(0.01)
        yield Building(builder, thread, writer)
        writer.close()
        thread.join()


def test_cancelled_it_leaves_nothing(connection: Connection, building: Building) -> None:
    building.connection.cancel_safe()
    building.awaited.close()
    building.thread.join()
    assert not fetch_value(connection, NEW_ONE)
    assert reindex.is_outdated(connection)


def test_one_at_a_time(connection: Connection, building: Building) -> None:
    """Nor is what somebody is building taken for something left over."""
    with pytest.raises(reindex.ReindexError, match="already"):
        reindex.rebuild(connection)
    migrate(connection)
    building.awaited.close()
    building.thread.join()
    assert not reindex.is_outdated(connection)


def test_killed_it_is_cleared_up_by_migrate(connection: Connection, building: Building) -> None:
    connection.execute("SELECT pg_terminate_backend(%s)", [building.connection.info.backend_pid])
    building.thread.join()
    migrate(connection)  # can't just now, and does no harm
    assert fetch_value(connection, NEW_ONE)
    building.awaited.close()
    migrate(connection)
    assert not fetch_value(connection, NEW_ONE)
    assert reindex.is_outdated(connection)


def test_what_a_killed_one_has_built_is_used(connection: Connection) -> None:
    """PostgreSQL doesn't notice that the command is gone before the index is whole."""
    migrate(connection)
    add_embeddings(connection, 30)
    connection.execute(OLDER)
    connection.execute(
        "DO $$ BEGIN EXECUTE indexer_v1.clip_index_statement('clip_embedding_new_idx'); END $$"
    )
    migrate(connection)
    assert not fetch_value(connection, NEW_ONE)
    assert not reindex.is_outdated(connection)
