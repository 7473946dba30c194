"""A real gateway on a real socket, with the real engine on the stand-in CLIP model."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import msgspec
import psycopg
import pytest
import undici
from doubles import EngineDouble

from gateway.app import create_app
from gateway.database import Queries
from gateway.server import running
from indexer.models.engine import Engine
from indexer.settings import Settings
from pg.connect import connect

Gateway = Callable[..., httpx.Client]


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings(clip_model="stand-in", clip_download="off", port=0, api_key="mt_photos_key")


@pytest.fixture(scope="session")
def engine(settings: Settings) -> Iterator[Engine]:
    engine = Engine(settings)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def plain_url(settings: Settings, engine: Engine) -> Iterator[str]:
    """URL of one gateway for all tests that change nothing about it; without a database."""
    with running(create_app(settings, engine, None), settings) as url:
        yield url


@pytest.fixture
def gateway(settings: Settings, engine: Engine, plain_url: str) -> Iterator[Gateway]:
    """Returns clients of gateways; settings by keyword, also ``engine`` and ``database``."""
    with ExitStack() as stack:

        def start(
            *, database: Queries | None = None, engine: Any = engine, **changed: Any
        ) -> httpx.Client:
            url = plain_url
            if database or changed or isinstance(engine, EngineDouble):
                chosen = msgspec.structs.replace(settings, **changed)
                url = stack.enter_context(running(create_app(chosen, engine, database), chosen))
            return stack.enter_context(httpx.Client(base_url=url, timeout=60, trust_env=False))

        yield start


@pytest.fixture(scope="session")
def picture() -> bytes:
    """A red disc with 出口 on it; JPEG, 640 x 480."""
    return undici.preview("shape-red-circle-exit.jpg", (640, 640))


@pytest.fixture(scope="session")
def predict() -> Callable[..., httpx.Response]:
    """Sends ``POST /predict`` as Immich does."""

    def send(client: httpx.Client, entries: object, **inputs: Any) -> httpx.Response:
        return client.post(
            "/predict",
            content=undici.form(entries, **inputs),
            headers={"content-type": undici.content_type()},
        )

    return send


@pytest.fixture
def rows(indexed_database: str, engine: Engine) -> Iterator[psycopg.Connection[Any]]:
    """A connection to `indexed_database`, which is made ready for the served CLIP model."""
    with connect(indexed_database) as connection:
        connection.execute(
            "SELECT indexer_v1.use_clip_model(%s, %s)",
            [engine.clip_info.name, engine.clip_info.dim],
        )
        yield connection
