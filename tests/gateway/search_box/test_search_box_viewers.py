"""Whom Immich's search box answers, and what is kept for them."""

import uuid
from typing import Any

import httpx
import pytest
from box import SMART, WEB_QUERY, Rows, found, search
from immich_server import ImmichServer, assets_of
from peers import Answer, Received

from gateway import immich_items
from immich.events import FakeImmich


def test_immich_is_asked_with_the_callers_own_credentials(
    client: httpx.Client, photo: Any, server: ImmichServer
) -> None:
    asset = photo("发票")
    del client.headers["cookie"]
    for credentials in (
        {"cookie": "other=1; immich_access_token=anna-session; immich_auth_type=password"},
        {"authorization": "Bearer anna-session"},
        {"x-immich-user-token": "anna-session"},
        {"x-immich-session-token": "anna-session"},
        {"x-api-key": "anna-key"},
    ):
        server.received.clear()
        headers = {**credentials, "user-agent": "Mozilla/5.0 (test)", "x-secret-of-others": "1"}
        assert found(client.post(SMART, json={"query": "ocr:发票"}, headers=headers)) == [asset]
        # also where the photo is in memory: these may be credentials that can't read it
        assert [r.path for r in server.received] == [
            "/api/users/me",
            *(["/api/api-keys/me"] if "x-api-key" in credentials else []),
            f"/api/assets/{asset}",
        ]
        for sent in server.received:
            # Immich notes the browser of a session, when it changes
            assert sent.headers["user-agent"] == "Mozilla/5.0 (test)"
            assert "x-secret-of-others" not in sent.headers
            assert "other" not in sent.headers.get("cookie", "")


def test_strangers_are_immichs_to_turn_away(
    client: httpx.Client, photo: Any, server: ImmichServer
) -> None:
    photo("发票")
    del client.headers["cookie"]
    server.stock = Answer.json({"message": "Authentication required"}, 401)
    strangers: list[dict[str, str]] = [
        {}, {"cookie": "immich_access_token=wrong"}, {"x-api-key": "wrong"}
    ]  # fmt: skip
    for headers in strangers:
        answer = client.post(SMART, json={"query": "ocr:发票"}, headers=headers)
        assert (answer.status_code, answer.json()) == (401, {"message": "Authentication required"})
    assert server.assets_asked() == []


def test_items_are_kept_for_a_viewer_as_long_as_their_version_stands(
    client: httpx.Client,
    photo: Any,
    rows: Rows,
    server: ImmichServer,
    indexed_immich: FakeImmich,
    anna: uuid.UUID,
) -> None:
    boris = indexed_immich.add_user("boris")
    indexed_immich.partner(anna, boris)
    server.sessions["boris-session"] = boris
    first, second = photo("发票"), photo("发票")

    def asked(cookie: str = "anna-session") -> list[str]:
        server.received.clear()
        client.headers["cookie"] = f"immich_access_token={cookie}"
        assert set(search(client, visibility="timeline")) == {first, second}
        return sorted(server.assets_asked())

    assert asked() == sorted([first, second])
    assert asked() == []
    indexed_immich.set_favorite(uuid.UUID(first))
    assert asked() == [first]
    indexed_immich.set_exif(uuid.UUID(second), description="a receipt")
    assert asked() == [second]
    assert asked() == []
    assert asked("boris-session") == sorted([first, second])
    server.received.clear()
    client.headers["cookie"] = "immich_access_token=anna-session"
    items = {i["id"]: i for i in assets_of(client.post(SMART, json=WEB_QUERY))["items"]}
    assert items[first]["isFavorite"] is True
    assert items[second]["exifInfo"]["description"] == "a receipt"
    assert server.received == []
    client.headers["cookie"] = "immich_access_token=boris-session"
    items = {i["id"]: i for i in assets_of(client.post(SMART, json=WEB_QUERY))["items"]}
    assert items[first]["isFavorite"] is False, "as Immich shows it to a partner"


def test_nothing_is_kept_where_immich_has_no_versions(
    client: httpx.Client, photo: Any, rows: Rows, server: ImmichServer
) -> None:
    asset = photo("发票")
    rows.execute('ALTER TABLE asset DROP COLUMN "updateId"')
    assert search(client) == search(client) == [asset]
    assert server.assets_asked() == [asset, asset]


def test_memory_is_bounded(
    client: httpx.Client, photo: Any, server: ImmichServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = {photo("发票") for _ in range(5)}
    monkeypatch.setattr(immich_items, "_MAX_BYTES", 2500)
    assert set(search(client)) == photos
    server.received.clear()
    assert set(search(client)) == photos
    assert 1 <= len(server.assets_asked()) <= 5


def test_credentials_that_may_not_read_photos_get_none_from_memory(
    client: httpx.Client, photo: Any, server: ImmichServer
) -> None:
    asset = photo("发票")
    assert search(client) == [asset]

    def reply(request: Received) -> Answer | None:
        if request.headers.get("x-api-key") == "anna-narrow":
            return Answer.json({"message": "Missing required permission: asset.read"}, 403)
        return None

    server.on_asset = reply
    del client.headers["cookie"]
    client.headers["x-api-key"] = "anna-narrow"
    server.stock = Answer.json({"message": "Missing required permission: asset.read"}, 403)
    assert client.post(SMART, json={"query": "ocr:发票"}).status_code == 403
    client.headers["x-api-key"] = "anna-key"
    assert search(client) == [asset]
