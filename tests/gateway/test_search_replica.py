"""Searching on a real streaming replica: used while it keeps up, and only then."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psycopg
import pytest

from gateway import replica as replica_module
from gateway.database import Database
from gateway.errors import DatabaseTooSlow, DatabaseUnavailable
from gateway.replica import Replica
from immich.base import load_schema
from pg import _host
from pg.embedded import Server
from pg.migrate import migrate

FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
PATIENCE_SECONDS = 30.0
OWNER = uuid.UUID(int=1)


@dataclass
class Pair:
    """A primary and its replica, with the index in the database `postgres`."""

    primary: str
    replica: str
    server: Server

    def run(self, statement: str, *values: object, there: bool = False) -> Any:
        url = self.replica if there else self.primary
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else None

    def photo(self, text: str) -> uuid.UUID:
        asset = uuid.uuid4()
        self.run(
            """
            INSERT INTO asset (id, "ownerId", type, "originalPath", "originalFileName",
                "fileCreatedAt", "fileModifiedAt", "localDateTime", checksum, "checksumAlgorithm")
            VALUES (%s, %s, 'IMAGE', '/p', %s, now(), now(), now(), %s, 'sha1')
            """,
            asset, OWNER, text, asset.bytes,
        )  # fmt: skip
        self.run(
            "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model,"
            " content_hash) VALUES (%s, %s, '[]', indexer_v1.to_tsvector(%s),"
            " indexer_v1.tokenizer(), 'm', sha256('x'))",
            asset, text, text,
        )  # fmt: skip
        return asset


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    folder = Path(tempfile.mkdtemp(prefix="immich-indexer-replica-"))
    folder.chmod(0o755)  # as root, the servers run as another user
    with Server(folder / "primary", settings=FAST) as primary:
        url = primary.start()
        with psycopg.connect(url, autocommit=True) as connection:
            load_schema(connection, "3.1")
            migrate(connection)
            connection.execute(
                'INSERT INTO "user" (id, email, name) VALUES (%s, %s, %s)', [OWNER, "a@x", "A"]
            )
        place, account = _host.settle(folder / "replica")
        cluster = place / "cluster"
        cluster.mkdir(mode=0o700)
        if account:
            os.chown(cluster, account.uid, account.gid)
        done = _host.run(
            account,
            *(_host.binaries(account, None) / "pg_basebackup", "--checkpoint=fast"),
            *("-D", cluster, "--write-recovery-conf", "--dbname", url),
        )
        assert done.returncode == 0, done.stdout
        replica = Server(folder / "replica", settings=FAST)
        yield Pair(url, replica.start(), replica)
        replica.stop()
    shutil.rmtree(folder)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def problem(client: httpx.Client) -> str | None:
    found: str | None = client.get("/health").json()["search_replica"]["problem"]
    return found


def found(client: httpx.Client, query: str) -> list[str]:
    answer = client.get("/search", params={"q": query})
    assert answer.status_code == 200, answer.text
    return [result["asset_id"] for result in answer.json()["results"]]


@pytest.fixture
def client(gateway: Any, pair: Pair) -> httpx.Client:
    started: httpx.Client = gateway(database=Database(pair.primary), search_db_url=pair.replica)
    return started


def test_the_replica_is_searched_until_it_is_too_far_behind(
    client: httpx.Client,
    pair: Pair,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(replica_module, "MAX_LAG_SECONDS", 1000.0)
    old = pair.photo("发票 2024")
    wait_for(lambda: problem(client) is None)
    wait_for(lambda: found(client, "发票") == [str(old)])
    pair.run("SELECT pg_wal_replay_pause()", there=True)
    wait_for(
        lambda: pair.run("SELECT pg_get_wal_replay_pause_state()", there=True)[0][0] == "paused"
    )
    new = pair.photo("发票 2025")
    pair.run("UPDATE asset SET visibility = 'locked' WHERE id = %s", old)
    # That it doesn't know of it yet shows that it is what is searched.
    assert found(client, "发票") == [str(old)]
    monkeypatch.setattr(replica_module, "MAX_LAG_SECONDS", 2.0)
    wait_for(lambda: "last level with the primary" in (problem(client) or ""))
    assert found(client, "发票") == [str(new)]
    assert client.get("/health").json()["status"] == "degraded"
    said = "searching on the primary; the replica can't be used: it was last level"
    wait_for(lambda: said in caplog.text)  # by whoever looks at the replica, every now and then
    pair.run("SELECT pg_wal_replay_resume()", there=True)
    wait_for(lambda: problem(client) is None)
    assert found(client, "发票") == [str(new)]


def test_a_replica_that_goes_and_comes_back(
    client: httpx.Client, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "_AWAY_SECONDS", 0.2)
    photo = pair.photo("收据")
    wait_for(lambda: problem(client) is None)
    pair.server.stop()
    assert found(client, "收据") == [str(photo)]
    wait_for(lambda: "SEARCH_DB_URL" in (problem(client) or ""))
    assert found(client, "收据") == [str(photo)]
    assert pair.server.start() == pair.replica
    wait_for(lambda: problem(client) is None)
    wait_for(lambda: found(client, "收据") == [str(photo)])


def test_what_is_no_replica_of_this_database_is_not_searched(
    gateway: Any, pair: Pair, server_url: str
) -> None:
    photo = pair.photo("合同")
    for url, reason in ((server_url, "no streaming replica"), (pair.primary, "no streaming")):
        client = gateway(database=Database(pair.primary), search_db_url=url)
        wait_for(lambda client=client, reason=reason: reason in (problem(client) or ""))  # type: ignore[misc]
        assert found(client, "合同") == [str(photo)]


def test_the_replica_of_another_database_is_not_searched(
    gateway: Any, pair: Pair, indexed_database: str
) -> None:
    client = gateway(database=Database(indexed_database), search_db_url=pair.replica)
    wait_for(lambda: "of another server" in (problem(client) or ""))
    assert found(client, "发票") == []


class Stand:
    """Stands for a server where a test needs it to fail at will."""

    def __init__(self, **row: object) -> None:
        self.row: dict[str, object] = row
        self.error: Exception | None = None
        self.asked = 0

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def fetch(self, sql: str, *values: object) -> list[Any]:
        self.asked += 1
        if self.error:
            raise self.error
        return [self.row]

    async def fetch_one(self, sql: str, *values: object) -> Any:
        return (await self.fetch(sql, *values))[0]


async def test_a_primary_that_does_not_answer_leaves_the_replica_its_five_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    primary = Stand(position=10, cluster=1)
    replica = Stand(position=10, cluster=1, follows=True)
    both = Replica(replica, primary)
    await both._look()
    assert both.problem is None
    primary.error = DatabaseUnavailable("busy")
    await both._look()
    assert both.problem is None
    asked = replica.asked
    await both.fetch("SELECT")
    assert replica.asked == asked + 1
    monkeypatch.setattr(replica_module, "MAX_LAG_SECONDS", -1.0)
    assert "last level with the primary" in (both.problem or "")
    with pytest.raises(DatabaseUnavailable, match="busy"):
        await both.fetch("SELECT")


async def test_what_is_slow_on_the_replica_is_not_tried_on_the_primary_as_well() -> None:
    primary = Stand(position=10, cluster=1)
    replica = Stand(position=10, cluster=1, follows=True)
    both = Replica(replica, primary)
    await both._look()
    asked = primary.asked
    replica.error = DatabaseTooSlow("too slow")
    with pytest.raises(DatabaseTooSlow):
        await both.fetch("SELECT")
    assert (primary.asked, both.problem) == (asked, None)
    # In the way of the replica's recovery, or gone: the primary answers.
    for error, problem in (
        (asyncpg.SerializationError("conflict with recovery"), None),
        (DatabaseUnavailable("gone"), "gone"),
    ):
        replica.error = error
        assert await both.fetch("SELECT") == [primary.row]
        assert both.problem == problem
