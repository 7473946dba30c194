"""Anna, her photos, her Immich, and a gateway beside it."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from box import Rows, attached
from immich_server import ImmichServer

from gateway import immich_search
from immich.events import FakeImmich
from indexer.models.types import Lane


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is; tests of impatience set their own."""
    monkeypatch.setattr(immich_search, "_SECONDS", 60.0)
    monkeypatch.setattr(immich_search, "_ITEMS_SECONDS", 60.0)


@pytest.fixture
def anna(indexed_immich: FakeImmich) -> uuid.UUID:
    return indexed_immich.add_user("anna")


@pytest.fixture
def photo(
    indexed_immich: FakeImmich, anna: uuid.UUID, rows: Rows, engine: Any
) -> Callable[..., str]:
    """Adds an indexed photo of Anna's, or of another's."""

    def add(text: str = "", shows: str = "", **how: Any) -> str:
        name = how.pop("name", f"{uuid.uuid4()}.jpg")
        asset = indexed_immich.upload(name.encode(), name=name, owner=how.pop("owner", anna), **how)
        if text:
            rows.execute(
                "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model,"
                " content_hash) VALUES (%s, %s, '[]', indexer_v1.to_tsvector(%s),"
                " indexer_v1.tokenizer(), 'm', sha256('x'))",
                [asset, text, text],
            )
        if shows:
            vector = engine.embed_text(shows, Lane.BULK).result()
            rows.execute(
                "INSERT INTO indexer_v1.clip (asset_id, embedding, model, content_hash)"
                " VALUES (%s, %s::halfvec, 'm', sha256('x'))",
                [asset, str(vector.tolist())],
            )
        return str(asset)

    return add


@pytest.fixture
def server(indexed_database: str, anna: uuid.UUID) -> Iterator[ImmichServer]:
    sessions = {"anna-session": anna, "anna-key": anna, "anna-narrow": anna}
    with ImmichServer(indexed_database, sessions) as server:
        yield server


@pytest.fixture
def client(gateway: Any, indexed_database: str, server: ImmichServer) -> httpx.Client:
    return attached(gateway, indexed_database, server)
