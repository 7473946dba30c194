"""The CLIP model that is chosen in Immich, taken over by whatever runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from immich.events import FakeImmich
from immich_indexer.runtime import prepare
from indexer.immich import ImmichConfig
from indexer.models.engine import Engine
from indexer.models.types import OcrOptions
from indexer.results import recorded_clip_model
from indexer.settings import Settings
from pg.connect import connect

# The command line, with less patience.
_RUN = """
import sys
from immich_indexer.cli import main
from indexer import immich
immich._WATCH_SECONDS = 0.2
sys.argv = ["immich-indexer", "gateway"]
main()
"""


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("cn-clip/ViT-B-16__openai", "ViT-B-16"),
        ("any/cn-clip/RN50__openai", "RN50"),
        ("cn-clip/ViT-B-32__openai", "cn-clip/ViT-B-32__openai"),
        ("any/CN-CLIP/ViT-B-32__openai", "any/CN-CLIP/ViT-B-32__openai"),
        ("ViT-B-32__openai", None),
        ("other/ViT-B-16__openai", None),
    ],
)
def test_what_a_name_in_immich_means(name: str, model: str | None) -> None:
    assert ImmichConfig(name, OcrOptions()).clip_model == model


def test_a_name_without_a_model_leaves_the_index_and_says_so(database: str, tmp_path: Path) -> None:
    immich = FakeImmich(database, tmp_path)
    settings = Settings(clip_model="stand-in", clip_download="off")
    prepare(database, settings, choose_clip_model=True)
    immich.change_clip_model("cn-clip/ViT-B-32__openai", 512)
    chosen, _ = prepare(database, settings, choose_clip_model=True)
    engine = Engine(chosen)
    assert "cn-clip has no model" in str(engine.clip_problem())
    engine.close()
    with connect(database) as connection:
        assert recorded_clip_model(connection) == "stand-in"
    immich.close()


@pytest.fixture
def gateway(indexed_database: str) -> Iterator[str]:
    """URL of a gateway without a worker, in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "DB_URL": indexed_database,
        "CLIP_MODEL": "stand-in",
        "CLIP_DOWNLOAD": "off",
        "PORT": str(port),
    }
    with subprocess.Popen([sys.executable, "-c", _RUN], env=environment) as process:
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in {0, -signal.SIGTERM}


def wait_for(url: str, condition: Callable[[Any], bool]) -> None:
    deadline = time.monotonic() + 120
    seen: Any = None
    while time.monotonic() < deadline:
        try:
            seen = httpx.get(f"{url}/health", timeout=10, trust_env=False).json()["clip"]
            if condition(seen):
                return
        except httpx.HTTPError as error:
            seen = error
        time.sleep(0.1)
    pytest.fail(f"still {seen}")


def test_a_gateway_without_a_worker_takes_over_what_is_chosen(
    gateway: str, indexed_immich: FakeImmich
) -> None:
    wait_for(gateway, lambda clip: clip["model"] == "stand-in")
    indexed_immich.change_clip_model("cn-clip/ViT-B-32__openai", 512)
    wait_for(gateway, lambda clip: "cn-clip has no model" in str(clip["problem"]))
    indexed_immich.change_clip_model("cn-clip/RN50__openai", 1024)
    wait_for(gateway, lambda clip: clip["model"] == "RN50")
