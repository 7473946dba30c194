"""Whatever fails here, Immich's own search answers."""

import socket
from concurrent.futures import Future
from typing import Any

import httpx
import pytest
from box import METADATA, SMART, STOCK, UUID4, Rows, another_version_of_everything, attached, search
from doubles import EngineDouble, Failing
from immich_server import ImmichServer
from peers import Answer

from gateway import immich_search
from gateway.database import Database
from indexer.models.types import Embedding, Lane


class NoEmbedding(EngineDouble):
    """Says that it can, and then can't."""

    def __init__(self, engine: Any, error: BaseException | None) -> None:
        super().__init__(engine)
        self._error = error

    def embed_text(self, text: str, lane: Lane) -> Future[Embedding]:
        future: Future[Embedding] = Future()
        if self._error:
            future.set_exception(self._error)
        return future


def test_without_clip_immich_looks_at_pictures_and_ocr_still_reads(
    gateway: Any, indexed_database: str, server: ImmichServer, photo: Any, engine: Any
) -> None:
    asset = photo("红色的圆", "红色的圆")
    away = Failing(engine, RuntimeError("no weights"))
    client = attached(gateway, indexed_database, server, engine=away)
    assert client.post(SMART, json={"query": "红色的圆"}).json() == STOCK
    assert search(client, "ocr:红色的圆") == [asset]


@pytest.mark.parametrize("error", [RuntimeError("CUDA"), MemoryError(), None])
def test_an_engine_that_fails(
    gateway: Any,
    indexed_database: str,
    server: ImmichServer,
    photo: Any,
    engine: Any,
    error: BaseException | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photo("红色的圆", "红色的圆")
    monkeypatch.setattr(immich_search, "_SECONDS", 0.5)
    client = attached(gateway, indexed_database, server, engine=NoEmbedding(engine, error))
    assert client.post(SMART, json={"query": "红色的圆"}).json() == STOCK


def test_an_index_of_another_model(
    client: httpx.Client, photo: Any, rows: Rows, server: ImmichServer
) -> None:
    photo("红色的圆", "红色的圆")
    rows.execute("SELECT indexer_v1.use_clip_model('ViT-B-16', 512)")
    assert client.post(SMART, json={"query": "红色的圆"}).json() == STOCK


@pytest.mark.parametrize(
    "fault",
    [
        "DROP SCHEMA indexer_v1 CASCADE",
        "DROP TABLE indexer_v1.ocr CASCADE",
        "DROP TABLE asset_exif",
        "ALTER TABLE partner RENAME TO partners",
    ],
)
def test_a_database_that_is_not_as_it_should_be(
    client: httpx.Client, photo: Any, rows: Rows, fault: str
) -> None:
    photo("发票")
    rows.execute(fault.encode())
    assert client.post(SMART, json={"query": "ocr:发票"}).json() == STOCK


def test_a_database_that_is_away(gateway: Any, indexed_database: str, server: ImmichServer) -> None:
    away = Database("postgresql://a:b@127.0.0.1:1/c")
    client = attached(gateway, indexed_database, server, database=away)
    assert client.post(SMART, json={"query": "ocr:发票"}).json() == STOCK


def test_a_database_that_says_nothing(
    gateway: Any,
    indexed_database: str,
    server: ImmichServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(immich_search, "_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        mute = Database(f"postgresql://a:b@127.0.0.1:{deaf.getsockname()[1]}/c")
        client = attached(gateway, indexed_database, server, database=mute)
        assert client.post(SMART, json={"query": "ocr:发票"}).json() == STOCK


def test_a_search_that_takes_too_long(
    client: httpx.Client, photo: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo("发票")
    monkeypatch.setattr(immich_search, "_SECONDS", 0.5)
    with rows.transaction():
        rows.execute("LOCK TABLE indexer_v1.ocr")
        assert client.post(SMART, json={"query": "ocr:发票"}).json() == STOCK
    monkeypatch.setattr(immich_search, "_SECONDS", 60.0)
    assert client.post(SMART, json={"query": "ocr:发票"}).json() != STOCK


def test_assets_that_are_not_to_be_had(
    client: httpx.Client, photo: Any, server: ImmichServer
) -> None:
    photo("发票")
    for reply in (
        Answer(500),
        Answer(429),
        Answer(302, b"", {"location": "/login"}),
        Answer(200, b"<html>"),
        Answer(200, b"[]"),
        Answer.json({"id": UUID4}),
        Answer.json({"id": 5}),
    ):
        server.on_asset = lambda _, reply=reply: reply  # type: ignore[misc]
        assert client.post(SMART, json={"query": "ocr:发票"}).json() == STOCK
    server.on_asset = lambda _: None
    assert client.post(SMART, json={"query": "ocr:发票"}).json() != STOCK


def test_one_asset_that_takes_for_ever(
    client: httpx.Client, photo: Any, server: ImmichServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo("发票")
    monkeypatch.setattr(immich_search, "_SECONDS", 0.3)
    server.asset_seconds = 1.0
    assert client.post(SMART, json={"query": "ocr:发票"}).json() == STOCK


def test_immich_away_altogether(gateway: Any, indexed_database: str, photo: Any) -> None:
    photo("发票")
    client = gateway(
        database=Database(indexed_database),
        db_url=indexed_database,
        immich_url="http://127.0.0.1:1",
    )
    answer = client.post(SMART, json={"query": "ocr:发票"}, headers={"x-api-key": "k"})
    assert answer.status_code == 502
    assert "IMMICH_URL" in answer.json()["detail"]


def test_an_immich_url_that_leads_back_here(client: httpx.Client, server: ImmichServer) -> None:
    answer = client.post(SMART, content=b"{}", headers={"via": "1.1 nginx, 1.1 immich-indexer"})
    assert answer.status_code == 501
    assert "leads back" in answer.json()["detail"]
    assert server.received == []


@pytest.mark.parametrize("path", [SMART, METADATA])
def test_without_an_immich(gateway: Any, indexed_database: str, path: str) -> None:
    folder = gateway(database=Database(indexed_database))
    nowhere = gateway(database=Database(indexed_database), db_url=indexed_database)
    for client in (folder, nowhere):
        answer = client.post(path, json={"query": "ocr:发票"})
        assert answer.status_code == 501
        assert "IMMICH_URL" in answer.json()["detail"]
        assert client.get(path).status_code == 405


def test_no_query_and_no_credentials_in_the_log(
    client: httpx.Client, photo: Any, server: ImmichServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    photo("机密")
    for query in ("ocr:机密", "机密", "机密 -x"):
        client.post(SMART, json={"query": query})
        client.post(METADATA + "?q=机密", json={"ocr": query, "order": "asc"})
    another_version_of_everything(server)
    server.on_asset = lambda _: Answer(500)
    client.post(SMART, json={"query": "ocr:机密"})
    said = [r.getMessage() for r in caplog.records if r.name.startswith(("gateway", "indexer"))]
    assert any("passed on to immich" in text for text in said)
    assert not any("机密" in text or "anna-session" in text for text in said)
