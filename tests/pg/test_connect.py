import threading
from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import numpy as np
import psycopg
import pytest
from pgvector import HalfVector, Vector
from psycopg.pq import TransactionStatus

from pg import _host
from pg.connect import (
    UnreachableError,
    UrlError,
    address,
    async_pool,
    connect,
    pool,
    register_vectors,
    wait_until_reachable,
)
from pg.query import fetch_value

SECRET = "s3cret"


@pytest.fixture
def vectors(database: str) -> Iterator[str]:
    with connect(database) as connection:
        connection.execute("CREATE TABLE v (id int, h halfvec(3), f vector(3))")
        yield database


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://u:{SECRET}@h:5/d", "u@h:5/d"),
        (f"postgres://u:{SECRET}%40%2F@h/d", "u@h:5432/d"),
        ("postgresql://h/d", "h:5432/d"),
        (f"postgresql://u:{SECRET}@[::1]:5/d?sslmode=require", "u@::1:5/d"),
        (f"postgresql://u:{SECRET}@h1:1,h2:2/d", "u@h1,h2:1,2/d"),
        ("postgresql:///d?host=/run/postgresql", "/run/postgresql:5432/d"),
    ],
)
def test_address_leaves_the_password_out(url: str, shown: str) -> None:
    assert address(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:@{SECRET}@h/d",
        f"postgresql://u:/{SECRET}@h/d",
        f"postgresql://u:1/{SECRET}@h/d",
        f"postgresql://u:1/{SECRET}",
        f"postgresql://u:?{SECRET}@h/d",
        f"postgresql://u:#{SECRET}@h/d",
        f"postgresql://u:%{SECRET}@h/d",
        f"postgresql://u: {SECRET}@h/d",
        f"postgresql://u:[{SECRET}@h/d",
        f"postgresql://u:{SECRET}@h:many/d",
        f"postgresql://h:{SECRET}/d",
        f"host=h password={SECRET}",
        f"mysql://u:{SECRET}@h/d",
        "",
    ],
)
async def test_misread_urls_are_refused_without_being_quoted(url: str) -> None:
    if url == f"postgresql://u:1/{SECRET}":  # a host "u", and a database of that name
        assert address(url) == f"u:1/{SECRET}"
        return
    with pytest.raises(UrlError) as caught:
        connect(url)
    assert SECRET not in str(caught.value)
    with pytest.raises(UrlError):
        pool(url)
    with pytest.raises(UrlError):
        await async_pool(url)
    with pytest.raises(UrlError):
        wait_until_reachable(url)


def test_connection_is_named_and_commits_by_itself(database: str) -> None:
    with connect(database) as connection:
        assert connection.execute("SHOW application_name").fetchone() == ("immich-indexer",)
        assert connection.info.transaction_status == TransactionStatus.IDLE
    with connect(database, autocommit=False, options="-c statement_timeout=1234") as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("1234ms",)
        assert connection.info.transaction_status == TransactionStatus.INTRANS


def test_who_freezes_in_a_transaction_holds_its_locks_for_seconds(database: str) -> None:
    show = "SHOW idle_in_transaction_session_timeout"
    with connect(database) as connection:
        assert fetch_value(connection, show) == "30s"
    with pool(database, max_size=1) as connections, connections.connection() as connection:
        assert fetch_value(connection, show) == "30s"


def test_vectors_go_in_and_out(vectors: str) -> None:
    values = np.array([0.25, -1, 3], dtype=np.float32)
    with connect(vectors) as connection:
        connection.execute("INSERT INTO v VALUES (1, %s, %s)", [HalfVector(values), values])
        for binary in (False, True):
            row = connection.execute("SELECT h, f FROM v", binary=binary).fetchone()
            assert row
            assert isinstance(row[0], HalfVector)
            assert isinstance(row[1], Vector)
            np.testing.assert_array_equal(row[0].to_numpy(), values)
            np.testing.assert_array_equal(row[1].to_numpy(), values)


def test_vectors_are_found_in_another_schema(empty_database: str) -> None:
    with connect(empty_database) as connection:
        connection.execute("CREATE SCHEMA elsewhere")
        connection.execute("CREATE EXTENSION vector SCHEMA elsewhere")
        register_vectors(connection)
        row = connection.execute("SELECT '[1,2]'::elsewhere.halfvec").fetchone()
        assert row
        assert isinstance(row[0], HalfVector)


async def test_no_extension_is_no_error(empty_database: str) -> None:
    with connect(empty_database) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    found = await async_pool(empty_database)
    assert await found.fetchval("SELECT 1") == 1
    await found.close()


def test_pool_serves_threads_and_replaces_dead_connections(vectors: str) -> None:
    with pool(vectors, max_size=2) as found:

        def work(number: int) -> None:
            with found.connection() as connection:
                connection.execute("INSERT INTO v (id) VALUES (%s)", [number])

        threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with connect(vectors) as other:
            assert other.execute("SELECT count(*) FROM v").fetchone() == (8,)
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with found.connection() as connection:
            row = connection.execute("SELECT '[1]'::halfvec").fetchone()
            assert row
            assert isinstance(row[0], HalfVector)


async def test_async_pool_carries_vectors(vectors: str) -> None:
    values = np.array([0.25, -1, 3], dtype=np.float32)
    found = await async_pool(vectors)
    await found.execute("INSERT INTO v VALUES (1, $1, $2)", values, values)
    row = await found.fetchrow("SELECT h, f, current_setting('application_name') FROM v")
    np.testing.assert_array_equal(row[0].to_numpy(), values)
    np.testing.assert_array_equal(row[1].to_numpy(), values)
    assert row[2] == "immich-indexer"
    await found.close()


async def test_nobody_listens() -> None:
    url = f"postgresql://u:{SECRET}@127.0.0.1:{_host.free_port()}/d"
    with pytest.raises(UnreachableError, match=r"u@127\.0\.0\.1:\d+/d can't be reached: .*DB_URL"):
        wait_until_reachable(url, seconds=0)
    with pytest.raises(psycopg.OperationalError) as caught:
        connect(url)
    assert SECRET not in str(caught.value)
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await async_pool(url)


def test_waits_for_a_database_that_comes_later(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"later_{uuid4().hex}"
    looked = threading.Event()
    monkeypatch.setattr("pg.connect.logger.warning", lambda *_: looked.set())
    waiting = threading.Thread(
        target=wait_until_reachable, args=[urlsplit(server_url)._replace(path=f"/{name}").geturl()]
    )
    waiting.start()
    assert looked.wait(60)
    with connect(server_url) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        waiting.join()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
