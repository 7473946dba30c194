"""Immich's own search box through the gateway, beside a stand-in of Immich's server."""

import gzip
import json
import socket
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import httpx
import psycopg
import pytest
from doubles import EngineDouble, Failing
from immich_server import EXIF, ImmichServer, assets_of
from peers import Answer, Peer, Received

from gateway import immich_items, immich_search
from gateway.database import Database
from gateway.immich_items import AT_LEAST
from immich.events import FakeImmich
from indexer.models.types import Embedding, Lane

Rows = psycopg.Connection[Any]
SMART, METADATA = "/api/search/smart", "/api/search/metadata"
STOCK = {"stock": "搜索"}

# search-smart-response-item.json among the captures of a real 3.1
ITEM = {
    "id", "createdAt", "ownerId", "libraryId", "type", "originalPath", "originalFileName",
    "originalMimeType", "thumbhash", "fileCreatedAt", "fileModifiedAt", "localDateTime",
    "updatedAt", "isFavorite", "isArchived", "isTrashed", "visibility", "duration", "exifInfo",
    "livePhotoVideoId", "people", "checksum", "isOffline", "hasMetadata", "duplicateId", "resized",
    "width", "height", "isEdited",
}  # fmt: skip

# As captured from the web client (web-search-smart.json, web-search-ocr.json), and as its source
# has it for the mobile app (search_api.repository.dart).
WEB = {"visibility": "timeline", "page": 1, "withExif": True, "query": "", "language": "en-US"}
WEB_OCR = {"visibility": "timeline", "page": 1, "withExif": True, "ocr": "发票"}
MOBILE = {
    "query": "", "language": "zh-CN", "visibility": "timeline", "personIds": [], "page": 1,
    "size": 100,
}  # fmt: skip
MOBILE_OCR = {"ocr": "发票", "visibility": "timeline", "personIds": [], "page": 1, "size": 1000}


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


def attached(gateway: Any, url: str, server: ImmichServer, **how: Any) -> httpx.Client:
    """A gateway attached to Immich, asked by Anna."""
    how.setdefault("database", Database(url))
    client: httpx.Client = gateway(db_url=url, immich_url=server.url, **how)
    client.headers["cookie"] = "immich_access_token=anna-session; immich_auth_type=password"
    return client


def found(answer: httpx.Response) -> list[str]:
    return [item["id"] for item in assets_of(answer)["items"]]


def search(client: httpx.Client, query: str = "ocr:发票", **more: Any) -> list[str]:
    return found(client.post(SMART, json={"query": query, **more}))


# Answers


def test_ocr_ranks_by_text_and_anything_else_by_both(
    client: httpx.Client, photo: Any, server: ImmichServer
) -> None:
    both = photo("红色的圆", "红色的圆")
    seen = photo("", "红色的圆")
    read = photo("红色的圆 发票")
    photo("收据", "蓝色的正方形")
    ranked = search(client, "红色的圆")
    assert (ranked[0], set(ranked)) == (both, {both, seen, read})
    assert set(search(client, "ocr:红色的圆")) == {both, read}
    assert found(client.post(METADATA, json={"ocr": "发票"})) == [read]
    assert found(client.post(METADATA, json={"ocr": "支票"})) == []
    assert server.searches() == []


def test_items_are_immichs_own(
    client: httpx.Client, photo: Any, rows: Rows, server: ImmichServer
) -> None:
    asset = photo("发票", name="a.jpg")
    rows.execute("UPDATE asset_exif SET city = '上海', rating = 4")
    answer = client.post(SMART, json={"query": "ocr:发票", "withExif": True})
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    (item,) = assets_of(answer)["items"]
    assert item.keys() == ITEM
    assert (item["id"], item["originalFileName"], item["people"]) == (asset, "a.jpg", [])
    assert item["exifInfo"].keys() == set(EXIF)
    assert (item["exifInfo"]["city"], item["exifInfo"]["rating"]) == ("上海", 4)
    (plain,) = assets_of(client.post(SMART, json={"query": "ocr:发票"}))["items"]
    assert plain == {name: value for name, value in item.items() if name != "exifInfo"}


def test_what_the_clients_send(client: httpx.Client, photo: Any) -> None:
    asset = photo("发票", "红色的圆")
    for request in (WEB, MOBILE):
        for query in ("发票", "红色的圆", "ocr:发票", " ocr：发票 "):
            assert found(client.post(SMART, json={**request, "query": query})) == [asset], query
    for request in (WEB_OCR, MOBILE_OCR):
        assert found(client.post(METADATA, json=request)) == [asset]


@pytest.mark.parametrize("variant", ["2.3"])
def test_before_version_3_the_timeline_alone_is_searched(client: httpx.Client, photo: Any) -> None:
    shown = photo("发票")
    archived = photo("发票", visibility="archive")
    assert search(client) == [shown]
    assert search(client, visibility="archive") == [archived]
    assert found(client.post(SMART, json={"query": "ocr:发票", "withExif": True})) == [shown]


# Pages


def scroll(client: httpx.Client, path: str = SMART, **request: Any) -> list[list[str]]:
    """All pages, as Immich's clients get them: by `nextPage`."""
    pages, page = [], "1"
    while page:
        assets = assets_of(client.post(path, json={**request, "page": int(page)}))
        pages.append([item["id"] for item in assets["items"]])
        page = assets["nextPage"]
    return pages


def test_pages_are_immichs(client: httpx.Client, photo: Any) -> None:
    """Of 12 photos; whoever counts pages for himself gets the same."""
    photos = {photo("发票") for _ in range(12)}
    for size in (1, 4, 6, 12, 13, 100):
        pages = scroll(client, query="ocr:发票", size=size)
        assert [len(page) for page in pages[:-1]] == [size] * (len(pages) - 1)
        assert len(pages) == -(-12 // size)
        assert {asset for page in pages for asset in page} == photos
        assert sum(map(len, pages)) == 12
        second = client.post(SMART, json={"query": "ocr:发票", "size": size, "page": 2})
        assert found(second) == (pages[1] if len(pages) > 1 else [])


def test_a_slow_immich_makes_the_page_shorter_and_loses_nothing(
    client: httpx.Client, photo: Any, server: ImmichServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [photo("发票") for _ in range(60)]
    monkeypatch.setattr(immich_search, "_ITEMS_SECONDS", 0.0)
    server.asset_seconds = 0.01
    pages = scroll(client, METADATA, ocr="发票", size=50)
    assert AT_LEAST <= len(pages[0]) < 50
    assert sorted(asset for page in pages for asset in page) == sorted(photos)
    # what was asked for is asked for once, and the next search has it all
    assert sorted(server.assets_asked()) == sorted(photos)
    monkeypatch.setattr(immich_search, "_ITEMS_SECONDS", 60.0)
    assert [len(page) for page in scroll(client, METADATA, ocr="发票", size=50)] == [50, 10]


def test_what_immich_does_not_show_is_left_out_and_the_pages_go_on(
    client: httpx.Client, photo: Any, server: ImmichServer
) -> None:
    photos = [photo("发票") for _ in range(9)]
    order = [asset for page in scroll(client, query="ocr:发票", size=3) for asset in page]
    assert sorted(order) == sorted(photos)
    gone, trashed, locked = order[1], order[4], order[8]

    def reply(request: Received) -> Answer | None:
        asset = request.path.rpartition("/")[2]
        if asset == gone:
            return Answer.json({"message": "Not found or no asset.read access"}, 400)
        if asset in (trashed, locked):
            state = {"isTrashed": asset == trashed, "visibility": "locked"}
            return Answer.json({"id": asset, **state})
        return None

    server.on_asset = reply
    another_version_of_everything(server)
    pages = scroll(client, query="ocr:发票", size=3)
    shown = [a for a in order if a not in (gone, trashed, locked)]
    assert [asset for page in pages for asset in page] == shown
    assert [len(page) for page in pages] == [2, 2, 2]


def another_version_of_everything(server: ImmichServer) -> None:
    server._db.execute('UPDATE asset SET "updatedAt" = now()')


def test_more_than_there_is(client: httpx.Client, photo: Any) -> None:
    photo("发票")
    for page in (2, 1000, 1_000_050, 2_000_000):
        assets = assets_of(client.post(SMART, json={"query": "ocr:发票", "page": page}))
        assert (assets["items"], assets["nextPage"]) == ([], None)


# Who asks


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


WEB_QUERY = {**WEB, "query": "ocr:发票"}


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


# Passed on

UUID4 = "5b1ad902-789b-42e3-8db5-a8c1be96fcf6"
NOT_OURS: dict[str, dict[str, Any]] = {
    "unknown field": {"colour": "red"},
    "3.2's filter": {"filter": {"isFavorite": {"eq": True}}},
    "3.2's cursor": {"cursor": "abc"},
    "order": {"order": "asc"},
    "locked": {"visibility": "locked"},
    "hidden": {"visibility": "hidden"},
    "withDeleted": {"withDeleted": True},
    "trashed": {"trashedAfter": "2024-01-01T00:00:00Z"},
    "offline": {"isOffline": True},
    "isEncoded": {"isEncoded": True},
    "deviceId": {"deviceId": "phone"},
    "withStacked": {"withStacked": False},
    "similar photos": {"queryAssetId": UUID4},
    "text of another field": {"ocr": "发票", "query": "海"},
    "a boolean as text": {"isFavorite": "true"},
    "null for a boolean": {"isFavorite": None},
    "a date alone": {"takenAfter": "2024-01-01"},
    "a date without a zone": {"takenAfter": "2024-01-01T00:00:00"},
    "no date": {"takenAfter": "yesterday"},
    "no uuid": {"albumIds": ["1"]},
    "one id twice": {"personIds": [UUID4, UUID4]},
    "an empty name": {"city": ""},
    "rating 0": {"rating": 0},
    "rating 9": {"rating": 9},
    "page 0": {"page": 0},
    "size 1001": {"size": 1001},
    "page as text": {"page": "2"},
    "in an album and in none": {"isNotInAlbum": True, "albumIds": [UUID4]},
    "audio": {"type": "AUDIO"},
    "no library": {"libraryId": None},
    "a very long query": {"query": "发" * 501},
    "nothing to search for": {"query": "ocr: "},
    "an exclusion alone": {"query": "-作废"},
    "blank": {"query": "  "},
    "a query with a zero byte": {"query": "ocr:发\x00票"},
    "a query of null": {"query": None},
}


def test_what_is_not_understood_to_the_last_field_goes_to_immich(
    client: httpx.Client, photo: Any, server: ImmichServer
) -> None:
    photo("发票")
    for name, field in NOT_OURS.items():
        server.received.clear()
        body = json.dumps({"query": "ocr:发票", **field}, ensure_ascii=False).encode()
        answer = client.post(SMART, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()) == (200, STOCK), name
        assert answer.headers["x-search-by"] == "immich"
        (sent,) = server.searches()
        assert (sent.path, sent.body) == (SMART, body)
        assert server.assets_asked() == []


NO_TEXT = [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'{"query": "\\ud800"}',
        b'{"originalFileName": "a.jpg"}', b'{"ocr": ""}', b'{"ocr": "x", "order": "desc"}',
        b'{"ocr": "x", "description": "y"}', b'{"ocr": "x", "withPeople": true}',
        b'{"query": "x"}',
]  # fmt: skip


def test_metadata_without_text_goes_to_immich(client: httpx.Client, server: ImmichServer) -> None:
    for body in NO_TEXT:
        server.received.clear()
        answer = client.post(METADATA, content=body)
        assert (answer.status_code, answer.json()) == (200, STOCK)
        assert [(r.path, r.body) for r in server.received] == [(METADATA, body)]


def test_other_ways_to_be_somebody_go_to_immich(
    client: httpx.Client, photo: Any, server: ImmichServer
) -> None:
    photo("发票")
    others: list[tuple[str, dict[str, str]]] = [
        ("?key=shared", {}),
        ("?apiKey=anna-key", {}),
        ("?a=%20b&c=%E5%8F%91", {}),
        ("", {"x-immich-share-key": "shared"}),
        ("", {"x-immich-share-slug": "holidays"}),
    ]
    for query, headers in others:
        server.received.clear()
        answer = client.post(SMART + query, json={"query": "ocr:发票"}, headers=headers)
        assert answer.json() == STOCK
        (sent,) = server.received
        assert sent.path == SMART + query
        assert headers.items() <= sent.headers.items()


def test_headers_on_the_way_to_immich(client: httpx.Client, server: ImmichServer) -> None:
    headers = {
        "cookie": "immich_access_token=anna-session; immich_auth_type=password",
        "accept-language": "zh-CN",
        "content-type": "application/json",
        "user-agent": "Mozilla/5.0 (test)",
        "host": "photos.example.com",
        "x-forwarded-for": "203.0.113.9",
        "x-forwarded-host": "evil.example",
        "x-forwarded-proto": "https",
        "x-real-ip": "203.0.113.9",
        "forwarded": "for=203.0.113.9",
        "connection": "keep-alive, x-of-this-hop",
        "x-of-this-hop": "1",
        "te": "trailers",
        "via": "1.1 nginx",
        "hosted-by": "somebody",
    }
    client.post(SMART, content=b"{}", headers=headers)
    (sent,) = server.received
    for name in ("cookie", "accept-language", "content-type", "user-agent", "hosted-by"):
        assert sent.headers[name] == headers[name]
    assert sent.headers["host"] == server.url.removeprefix("http://")
    assert sent.headers["x-forwarded-for"] == "127.0.0.1"
    assert sent.headers["via"] == "1.1 immich-indexer"  # http.server's dict keeps the last one
    for name in ("x-forwarded-host", "x-forwarded-proto", "x-real-ip", "forwarded", "te"):
        assert name not in sent.headers
    assert "x-of-this-hop" not in sent.headers


def test_immichs_answer_comes_back_as_it_is(client: httpx.Client, server: ImmichServer) -> None:
    with Peer(lambda _: Answer()) as elsewhere:
        for status in (201, 204, 302, 400, 403, 429, 500):
            body = b"" if status == 204 else gzip.compress(b'{"a": 1}')
            server.stock = Answer(
                status,
                body,
                {
                    "content-type": "application/json; charset=utf-8",
                    "content-encoding": "gzip",
                    "x-immich-cid": "abc",
                    "location": f"{elsewhere.url}/",
                    "keep-alive": "timeout=5",
                },
            )
            with client.stream("POST", SMART, content=b"{}") as answer:
                assert (answer.status_code, b"".join(answer.iter_raw())) == (status, body)
            assert answer.headers["content-encoding"] == "gzip"
            assert answer.headers["x-immich-cid"] == "abc"
            assert "keep-alive" not in answer.headers
        assert elsewhere.received == []


def test_nothing_is_unpacked_for_a_client_that_cannot(
    client: httpx.Client, server: ImmichServer
) -> None:
    client.post(SMART, content=b"{}", headers={"accept-encoding": "identity"})
    assert server.received[0].headers["accept-encoding"] == "identity"


def test_large_requests_are_refused(client: httpx.Client, server: ImmichServer) -> None:
    answer = client.post(SMART, content=b" " * (immich_search.MAX_BODY_BYTES + 1))
    assert answer.status_code == 413
    assert server.received == []


def test_what_immich_knows_and_the_index_does_not_yet(
    client: httpx.Client, photo: Any, rows: Rows, server: ImmichServer
) -> None:
    """While there is much left to index Immich's own search finds more; not by `ocr:`, though."""
    asset = photo("发票", "红色的圆")
    unindexed = photo()
    rows.execute(
        'INSERT INTO smart_search ("assetId", embedding)'
        " SELECT id, array_fill(1, ARRAY[512])::vector FROM unnest(%s::uuid[]) AS id",
        [[asset, unindexed]],
    )
    rows.execute("INSERT INTO ocr_search VALUES (%s, '发票'), (%s, '')", [asset, unindexed])
    assert client.post(SMART, json={"query": "红色的圆"}).json() == STOCK
    assert search(client) == [asset]
    assert found(client.post(METADATA, json={"ocr": "发票"})) == [asset]


# Faults


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
