"""Databases for tests of SQL functions that change nothing, and of the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from queued import MODEL

from immich.base import load_schema
from indexer import queue, results
from pg.connect import Connection, connect
from pg.migrate import migrate


def _build(extension: str | None) -> Any:
    def build(connection: Connection) -> None:
        load_schema(connection)
        if extension:
            connection.execute(f"CREATE EXTENSION {extension}".encode())
        migrate(connection)

    return build


@pytest.fixture(scope="session")
def bigram(databases: Any) -> Iterator[Connection]:
    """A connection whose functions are those of the bigram tokenizer; to be left unchanged."""
    url = databases.fresh("indexed 3.1", _build(None))
    with connect(url) as connection:
        yield connection
    databases.drop(url)


@pytest.fixture(scope="session")
def zhparser(zhparser_databases: Any) -> Iterator[Connection]:
    """The same with zhparser."""
    url = zhparser_databases.fresh("indexed 3.1", _build("zhparser"))
    with connect(url) as connection:
        yield connection
    zhparser_databases.drop(url)


@pytest.fixture(
    scope="session", params=["bigram", pytest.param("zhparser", marks=pytest.mark.zhparser)]
)
def functions(request: pytest.FixtureRequest) -> Connection:
    """`bigram`, then `zhparser`: what holds with both."""
    connection: Connection = request.getfixturevalue(request.param)
    return connection


@pytest.fixture
def db(indexed_database: str) -> Iterator[Connection]:
    with connect(indexed_database) as connection:
        results.use_clip_model(connection, MODEL, 512)
        yield connection


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that soon gives up on a row that somebody holds."""
    monkeypatch.setattr(queue, "_HOLD_TRIES", 3)


@pytest.fixture
def another(indexed_database: str, db: Connection) -> Iterator[Callable[[], Connection]]:
    """More connections to the same database."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(connect(indexed_database))
