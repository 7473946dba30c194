"""What goes to Immich itself, as it came."""

import gzip
import json
from typing import Any

import httpx
from box import METADATA, SMART, STOCK, UUID4, Rows, found, search
from immich_server import ImmichServer
from peers import Answer, Peer

from gateway import immich_search

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
