"""Servers and databases for the tests.

Which PostgreSQL is used:

- ``TEST_DATABASE_URL``: that server. It must be a superuser's URL; every test gets a database of
  its own there, which is dropped again.
- ``TEST_DOCKER=built`` or ``TEST_DOCKER=immich``: a container of our image, built from
  ``pg/Dockerfile``, or of a stock Immich's.
- otherwise the embedded server, in a temporary folder.

Tests marked ``zhparser`` use the server of ``TEST_ZHPARSER_URL``, or that of ``TEST_DOCKER=built``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from database_images import IMAGES, container, engine_answers
from psycopg import sql

from immich.base import Connection, Variant, load_schema
from immich.events import FakeImmich
from pg.embedded import Server
from pg.migrate import migrate

DOCKER_IMAGE = os.environ.get("TEST_DOCKER", "")
ZHPARSER_URL = os.environ.get("TEST_ZHPARSER_URL", "")

# Nothing in a test's database needs to survive the machine.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Databases:
    """Makes databases on a server, each a copy of a template that is built once a session.

    Args:
        url: of a superuser.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._templates: dict[str, str] = {}

    def fresh(self, kind: str, build: Callable[[Connection], object]) -> str:
        """URL of a new database.

        Args:
            kind: names the template.
            build: fills it; called once for a kind.
        """
        if kind not in self._templates:
            name = f"template_{uuid4().hex}"
            self._run("CREATE DATABASE {}", name)
            with psycopg.connect(self._url_of(name), autocommit=True) as connection:
                build(connection)
            self._templates[kind] = name
        name = f"test_{uuid4().hex}"
        self._run("CREATE DATABASE {} TEMPLATE {}", name, self._templates[kind])
        return self._url_of(name)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is connected to it."""
        self._run("DROP DATABASE {} WITH (FORCE)", urlsplit(url).path[1:])

    def close(self) -> None:
        """Drop the templates."""
        for name in self._templates.values():
            self._run("DROP DATABASE {}", name)

    def _run(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                sql.SQL(statement).format(*map(sql.Identifier, names))  # type: ignore[arg-type]
            )

    def _url_of(self, database: str) -> str:
        return urlsplit(self.url)._replace(path=f"/{database}").geturl()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """URL of a superuser on the server of this session."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
    elif DOCKER_IMAGE:
        if DOCKER_IMAGE not in IMAGES:
            pytest.exit(f"TEST_DOCKER takes one of {', '.join(IMAGES)}, not {DOCKER_IMAGE}", 2)
        if not engine_answers():
            pytest.exit("TEST_DOCKER: no Docker engine answers; start one, or leave it out", 2)
        with container(DOCKER_IMAGE) as url:  # type: ignore[arg-type] - just checked
            yield url
    else:
        folder = Path(tempfile.mkdtemp(prefix="immich-indexer-tests-"))
        try:
            with Server(folder, settings=FAST) as server:
                yield server.start()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def databases(server_url: str) -> Iterator[Databases]:
    found = Databases(server_url)
    yield found
    found.close()


@pytest.fixture(scope="session")
def zhparser_databases(request: pytest.FixtureRequest) -> Iterator[Databases]:
    found = Databases(ZHPARSER_URL or request.getfixturevalue("server_url"))
    yield found
    found.close()


@pytest.fixture
def variant() -> Variant:
    """Layout of Immich's tables; ``@pytest.mark.parametrize("variant", ["3.1", "2.3"])``."""
    return "3.1"


@pytest.fixture
def empty_database(databases: Databases) -> Iterator[str]:
    """URL of an empty database."""
    url = databases.fresh("empty", lambda connection: None)
    yield url
    databases.drop(url)


@pytest.fixture
def database(databases: Databases, variant: Variant) -> Iterator[str]:
    """URL of a database with Immich's tables, empty."""
    url = databases.fresh(f"immich {variant}", lambda connection: load_schema(connection, variant))
    yield url
    databases.drop(url)


@pytest.fixture
def zhparser_database(zhparser_databases: Databases, variant: Variant) -> Iterator[str]:
    """Like `database`, on the server with zhparser, with the extension."""

    def build(connection: Connection) -> None:
        load_schema(connection, variant)
        connection.execute("CREATE EXTENSION zhparser")

    url = zhparser_databases.fresh(f"immich {variant}", build)
    yield url
    zhparser_databases.drop(url)


@pytest.fixture
def indexed_database(databases: Databases, variant: Variant) -> Iterator[str]:
    """Like `database`, with our schema, functions and triggers."""

    def build(connection: Connection) -> None:
        load_schema(connection, variant)
        migrate(connection)

    url = databases.fresh(f"indexed {variant}", build)
    yield url
    databases.drop(url)


@pytest.fixture
def immich(database: str, tmp_path: Path, variant: Variant) -> Iterator[FakeImmich]:
    """A test Immich on `database`."""
    found = FakeImmich(database, tmp_path / "media", variant=variant)
    yield found
    found.close()


@pytest.fixture
def indexed_immich(indexed_database: str, tmp_path: Path, variant: Variant) -> Iterator[FakeImmich]:
    """A test Immich on `indexed_database`."""
    found = FakeImmich(indexed_database, tmp_path / "media", variant=variant)
    yield found
    found.close()


# What a machine may lack


def gpu_answers() -> bool:
    import torch  # slow to import

    return bool(torch.cuda.is_available())


MISSING: dict[str, tuple[Callable[[], bool], str]] = {
    "zhparser": (
        lambda: bool(ZHPARSER_URL) or DOCKER_IMAGE == "built",
        "set TEST_ZHPARSER_URL to a superuser's URL on a PostgreSQL with zhparser and pgvector, "
        "or TEST_DOCKER=built where there is Docker",
    ),
    "docker": (engine_answers, "no Docker engine answers: start one"),
    "gpu": (gpu_answers, "no NVIDIA GPU: run on a machine with one"),
}


# Few tests that take long, most of it waiting: begun last, they would keep one process busy while
# the others have nothing left to do.
FIRST = ("indexer/test_faults.py", "pg/test_versions.py", "faults/", "indexer/test_worker.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.removeprefix("tests/").startswith(FIRST))
    answers: dict[str, Any] = {}
    for item in items:
        for marker, (is_there, hint) in MISSING.items():
            if item.get_closest_marker(marker):
                if marker not in answers:
                    answers[marker] = is_there()
                if not answers[marker]:
                    item.add_marker(pytest.mark.skip(reason=hint))
