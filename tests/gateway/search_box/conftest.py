"""Anna, her photos, her Immich, and a gateway beside it."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from box import Rows, attached
from immich_server import ImmichServer
from indexed import embed, write_text

from gateway import immich_search
from immich.events import FakeImmich


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
            write_text(rows, asset, text)
        if shows:
            embed(rows, engine, asset, shows)
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
