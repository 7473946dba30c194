"""A server that may be killed, for all cases of this folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.ground import Ground
from pg.embedded import Server

# What a killed server hasn't written yet, the machine still does. But what it has said is
# committed must be: synchronous_commit stays on.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "60"}


@pytest.fixture(scope="session")
def mortal_server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="immich-indexer-faults-"))
    server = Server(folder, settings=SETTINGS)
    try:
        server.start()
        yield server
        server.start()  # a test may have killed it
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ground(mortal_server: Server, tmp_path: Path) -> Iterator[Ground]:
    made = Ground(mortal_server, tmp_path)
    yield made
    made.close()


@pytest.fixture
def ground_before_us(mortal_server: Server, tmp_path: Path) -> Iterator[Ground]:
    """Immich's tables alone: nothing of ours is installed yet."""
    made = Ground(mortal_server, tmp_path, attached=False)
    yield made
    made.close()
