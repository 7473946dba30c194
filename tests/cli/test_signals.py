"""SIGTERM before a command has begun to serve: it ends all the same, and leaves nothing running."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# What is patched sends the signal to its own process, as whoever stops it would.
_SIGNAL = "os.kill(os.getpid(), signal.SIGTERM) or time.sleep(1)"
_MAIN = f"""
import os, signal, sys, time
from immich_indexer import cli, runtime
{{patched}} = lambda *_, **__: {_SIGNAL}
sys.argv = ["immich-indexer", "serve"]
cli.main()
"""


def serve(patched: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _MAIN.format(patched=patched)],
        env={**os.environ, "CLIP_MODEL": "stand-in", "PORT": "0", **environment},
        timeout=50,
        check=False,
    )
    return done.returncode


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that the user may enter whom the embedded server runs as."""
    made = Path(tempfile.mkdtemp(prefix="immich-indexer-signals-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_while_it_prepares(folder: Path) -> None:
    """Folder mode: its PostgreSQL runs by then."""
    assert serve("cli.prepare", DATA_DIR=str(folder)) == 143
    assert (folder / "cluster" / "PG_VERSION").exists()
    assert not (folder / "cluster" / "postmaster.pid").exists()


def test_while_it_loads_models(indexed_database: str) -> None:
    assert serve("runtime.SharedEngine.preload", DB_URL=indexed_database) == 0
