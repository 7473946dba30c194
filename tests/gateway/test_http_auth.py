"""Who may search: this computer in folder mode, Immich's users where attached to it."""

import http.client
import time
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from peers import Answer, Peer, Received

from gateway import auth
from gateway.auth import _is_loopback
from gateway.database import Database
from indexer.settings import Settings

Connection = psycopg.Connection[Any]
ANNA, BORIS, CLARA, DORA = (uuid.UUID(int=n) for n in (1, 2, 3, 4))

KEYS = {"anna-key": ANNA, "boris-key": BORIS, "dora-key": DORA}


def raw_get(client: httpx.Client, path: str, headers: dict[str, str]) -> int:
    """Send exactly these headers, Host included."""
    url = urlsplit(str(client.base_url))
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse().status


# Folder mode


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:3003", 200),
        ("127.0.0.1:3003", 200),
        ("[::1]:3003", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.168.1.20:3003", 403),
        ("localhost@evil.example", 403),
        ("", 403),
        ("[::1", 403),
    ],
)
def test_folder_mode_is_for_this_computer(
    gateway: Any, indexed_database: str, host: str, status: int
) -> None:
    client = gateway(database=Database(indexed_database))
    assert raw_get(client, "/search?q=x", {"Host": host}) == status
    assert raw_get(client, "/ping", {"Host": host}) == 200


@pytest.mark.parametrize(
    "header",
    [
        *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP"),
        *("Forwarded", "Via", "CF-Connecting-IP", "True-Client-IP"),
    ],
)
def test_what_a_proxy_on_this_computer_brings_is_not_from_here(
    gateway: Any, indexed_database: str, header: str
) -> None:
    client = gateway(database=Database(indexed_database))
    assert raw_get(client, "/search?q=x", {"Host": "localhost", header: "127.0.0.1"}) == 403
    assert raw_get(client, "/ping", {"Host": "localhost", header: "127.0.0.1"}) == 200


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("10.0.0.1", False),
        ("172.17.0.1", False),
        ("0.0.0.0", False),
        (None, False),
        ("", False),
    ],
)
def test_what_is_this_computer(peer: str | None, local: bool) -> None:
    assert _is_loopback(peer) is local


def test_another_computer_can_not_pretend_by_its_host_header(
    gateway: Any, indexed_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_peer", lambda _: "192.168.1.20")
    client = gateway(database=Database(indexed_database))
    answer = client.get("/search?q=x", headers={"host": "localhost"})
    assert answer.status_code == 403
    assert "for this computer alone" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 404),
        ({"sec-fetch-site": "same-origin"}, 404),
        ({"sec-fetch-site": "none"}, 404),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://localhost:9", "host": "localhost:9"}, 404),
    ],
)
def test_other_sites_pages_change_nothing(
    gateway: Any, indexed_database: str, headers: dict[str, str], status: int
) -> None:
    client = gateway(database=Database(indexed_database))
    answer = client.post(f"/assets/{uuid.uuid4()}/reprocess", headers=headers)
    assert answer.status_code == status


# Attached to Immich


@pytest.fixture
def immich_server() -> Iterator[Peer]:
    """Immich's own server, as far as /api/users/me."""

    def answer(request: Received) -> Answer:
        assert request.method == "GET"
        assert request.path in ("/api/users/me", "/api/api-keys/me")
        sent = request.headers
        token = sent.get("cookie", "").removeprefix("immich_access_token=")
        bearer = sent.get("authorization", "").removeprefix("Bearer ")
        key = sent.get("x-api-key") or token or bearer
        if key == "narrow-key":
            return Answer.json({"message": "Missing required permission: user.read"}, 403)
        if key not in KEYS:
            return Answer.json({"message": "Authentication required"}, 401)
        if request.path == "/api/api-keys/me":
            return Answer.json({"permissions": ["user.read", "asset.read", "job.create"]})
        return Answer.json({"id": str(KEYS[key]), "email": "x@y", "name": "N", "isAdmin": False})

    with Peer(answer) as peer:
        yield peer


@pytest.fixture
def photos(rows: Connection) -> dict[str, uuid.UUID]:
    """One photo each; Boris shows his in Anna's timeline, Clara shares hers but not there."""
    rows.cursor().executemany(
        'INSERT INTO "user" (id, email) VALUES (%s, %s)',
        [(ANNA, "a@x"), (BORIS, "b@x"), (CLARA, "c@x"), (DORA, "d@x")],
    )
    rows.cursor().executemany(
        'INSERT INTO partner ("sharedById", "sharedWithId", "inTimeline") VALUES (%s, %s, %s)',
        [(BORIS, ANNA, True), (CLARA, ANNA, False), (ANNA, DORA, True)],
    )
    made = {}
    for name, owner in (("anna", ANNA), ("boris", BORIS), ("clara", CLARA), ("dora", DORA)):
        made[name] = uuid.uuid4()
        rows.execute(
            """
            INSERT INTO asset (id, "ownerId", type, "originalPath", "originalFileName",
                "fileCreatedAt", "fileModifiedAt", "localDateTime", checksum, "checksumAlgorithm")
            VALUES (%s, %s, 'IMAGE', %s, %s, now(), now(), now(), %s, 'sha1')
            """,
            [made[name], owner, f"/{name}", name, made[name].bytes],
        )
        rows.execute(
            """INSERT INTO asset_file ("assetId", type, path) VALUES (%s, 'preview', '/p')""",
            [made[name]],
        )
        rows.execute(
            "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model,"
            " content_hash) VALUES (%s, '发票', '[]', indexer_v1.to_tsvector('发票'),"
            " indexer_v1.tokenizer(), 'm', sha256('x'))",
            [made[name]],
        )
    return made


@pytest.fixture
def attached(
    gateway: Any, indexed_database: str, immich_server: Peer, photos: dict[str, uuid.UUID]
) -> httpx.Client:
    client: httpx.Client = gateway(
        database=Database(indexed_database), db_url=indexed_database, immich_url=immich_server.url
    )
    return client


def found(answer: httpx.Response) -> set[str]:
    assert answer.status_code == 200, answer.text
    return {result["file_name"] for result in answer.json()["results"]}


QUERY = "/search?q=ocr:发票"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "anna-key"},
        {"authorization": "Bearer anna-key"},
        {"authorization": "bearer anna-key"},
        {"cookie": "immich_access_token=anna-key; immich_auth_type=password"},
    ],
)
def test_each_kind_of_credentials(
    attached: httpx.Client, immich_server: Peer, headers: dict[str, str]
) -> None:
    assert found(attached.get(QUERY, headers=headers)) == {"anna", "boris"}
    sent = immich_server.received[0].headers
    assert "immich_auth_type" not in sent.get("cookie", "")


def test_everybody_finds_what_is_theirs_to_see(attached: httpx.Client) -> None:
    seen = {key: found(attached.get(QUERY, headers={"x-api-key": key})) for key in KEYS}
    assert seen == {
        "anna-key": {"anna", "boris"},
        "boris-key": {"boris"},
        "dora-key": {"dora", "anna"},
    }
    answer = attached.post("/search", json={"q": "ocr:发票"}, headers={"x-api-key": "boris-key"})
    assert found(answer) == {"boris"}


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({}, 0),
        ({"authorization": "Basic YTpi"}, 0),
        ({"x-api-key": ""}, 0),
        ({"x-api-key": "k" * 5000}, 0),
        ({"cookie": "other=1"}, 0),
        ({"x-api-key": "wrong"}, 1),
        ({"cookie": "immich_access_token=wrong"}, 1),
    ],
)
def test_no_or_wrong_credentials(
    attached: httpx.Client,
    immich_server: Peer,
    photos: dict[str, uuid.UUID],
    headers: dict[str, str],
    asked: int,
) -> None:
    for method, path in (
        ("GET", QUERY),
        ("POST", f"/assets/{photos['anna']}/reprocess"),
        ("GET", "/reprocess/1"),
    ):
        immich_server.received.clear()
        answer = attached.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert len(immich_server.received) == asked
    assert attached.post("/search", json={"q": "x"}, headers=headers).status_code == 401


def test_a_key_without_the_permission(attached: httpx.Client) -> None:
    answer = attached.get(QUERY, headers={"x-api-key": "narrow-key"})
    assert answer.status_code == 403
    assert "user.read" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("permissions", "status"),
    [(["all"], 200), (["user.read", "asset.read"], 200), (["user.read", "tag.read"], 403)],
)
def test_a_key_finds_no_more_than_immich_lets_it(
    gateway: Any,
    indexed_database: str,
    photos: dict[str, uuid.UUID],
    permissions: list[str],
    status: int,
) -> None:
    def answer(request: Received) -> Answer:
        if request.path == "/api/api-keys/me":
            return Answer.json({"permissions": permissions})
        return Answer.json({"id": str(ANNA)})

    with Peer(answer) as immich:
        client = gateway(
            database=Database(indexed_database), db_url=indexed_database, immich_url=immich.url
        )
        assert client.get(QUERY, headers={"x-api-key": "k"}).status_code == status
        # Immich goes by the session where there is one
        assert client.get(QUERY, headers={"x-api-key": "k", "authorization": "Bearer s"}).is_success


@pytest.mark.parametrize(
    ("more", "sees", "redoes"),
    [
        ([], 403, 403),
        (["asset.view"], 404, 403),  # there is no file behind these photos
        (["job.create"], 403, 202),
        (["asset.update"], 403, 202),
    ],
)
def test_a_key_does_no_more_than_immich_lets_it(
    gateway: Any,
    indexed_database: str,
    photos: dict[str, uuid.UUID],
    rows: Connection,
    more: list[str],
    sees: int,
    redoes: int,
) -> None:
    def answer(request: Received) -> Answer:
        if request.path == "/api/api-keys/me":
            return Answer.json({"permissions": ["user.read", "asset.read", *more]})
        return Answer.json({"id": str(ANNA)})

    rows.execute("DELETE FROM asset_file")
    with Peer(answer) as immich:
        client = gateway(
            database=Database(indexed_database), db_url=indexed_database, immich_url=immich.url
        )
        path, key = f"/assets/{photos['anna']}", {"x-api-key": "k"}
        assert client.get(path, headers=key).status_code == 200
        assert client.get(f"{path}/thumbnail", headers=key).status_code == sees
        assert client.post(f"{path}/reprocess", headers=key).status_code == redoes
        retried = client.post("/index/retry", json={}, headers=key)
        assert retried.status_code == redoes
        if redoes == 403:
            assert "job.create" in retried.json()["detail"]


def test_a_key_of_which_immich_says_nothing(
    gateway: Any, indexed_database: str, photos: dict[str, uuid.UUID]
) -> None:
    def answer(request: Received) -> Answer:
        if request.path == "/api/api-keys/me":
            return Answer(502, b"Bad Gateway")
        return Answer.json({"id": str(ANNA)})

    with Peer(answer) as immich:
        client = gateway(
            database=Database(indexed_database), db_url=indexed_database, immich_url=immich.url
        )
        refused = client.get(QUERY, headers={"x-api-key": "k"})
    assert refused.status_code == 503
    assert "IMMICH_URL" in refused.json()["detail"]


def test_immich_is_asked_once_in_a_while(
    attached: httpx.Client, immich_server: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(key: str) -> None:
        found(attached.get(QUERY, headers={"x-api-key": key}))

    for _ in range(3):
        search("anna-key")
    assert len(immich_server.received) == 2  # who it is, and what the key may do
    search("boris-key")
    assert len(immich_server.received) == 4
    later = time.monotonic() + auth._REMEMBER_SECONDS
    monkeypatch.setattr(auth, "time", SimpleNamespace(monotonic=lambda: later))
    search("anna-key")
    assert len(immich_server.received) == 6


def test_only_so_many_users_are_remembered(
    attached: httpx.Client, immich_server: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_REMEMBER_USERS", 1)
    for key in ("anna-key", "boris-key", "anna-key"):
        found(attached.get(QUERY, headers={"x-api-key": key}))
    assert len(immich_server.received) == 6


def test_a_partner_who_stops_sharing_is_gone_at_once(
    attached: httpx.Client, rows: Connection
) -> None:
    mine = {"x-api-key": "anna-key"}
    assert found(attached.get(QUERY, headers=mine)) == {"anna", "boris"}
    rows.execute('DELETE FROM partner WHERE "sharedById" = %s', [BORIS])
    assert found(attached.get(QUERY, headers=mine)) == {"anna"}


def test_only_ones_own_photos_can_be_redone(
    attached: httpx.Client, photos: dict[str, uuid.UUID], rows: Connection
) -> None:
    anna, boris = {"x-api-key": "anna-key"}, {"x-api-key": "boris-key"}
    assert attached.post(f"/assets/{photos['boris']}/reprocess", headers=anna).status_code == 404
    made = attached.post(f"/assets/{photos['anna']}/reprocess", headers=anna)
    assert made.status_code == 202
    path = f"/reprocess/{made.json()['id']}"
    assert attached.get(path, headers=anna).json() == made.json()
    assert attached.get(path, headers=boris).status_code == 404
    count = rows.execute("SELECT count(*) FROM indexer_v1.reprocess").fetchone()
    assert count == (1,)


def test_a_foreign_host_header_is_fine_behind_a_proxy(attached: httpx.Client) -> None:
    headers = {"host": "photos.example.com", "x-api-key": "anna-key"}
    assert found(attached.get(QUERY, headers=headers)) == {"anna", "boris"}


def test_attached_without_immich_url(gateway: Any, indexed_database: str) -> None:
    client = gateway(database=Database(indexed_database), db_url=indexed_database)
    answer = client.get(QUERY, headers={"x-api-key": "anna-key"})
    assert answer.status_code == 501
    assert "Set IMMICH_URL" in answer.json()["detail"]


@pytest.mark.parametrize(
    "reply",
    [
        None,
        Answer(502, b"Bad Gateway"),
        Answer(200, b"<html>a proxy's page</html>", {"content-type": "text/html"}),
        Answer.json({"id": 5}),
        Answer.json([]),
        Answer(302, b"", {"location": "/login"}),
    ],
    ids=["hangs up", "502", "a page", "no uuid", "a list", "redirect"],
)
def test_immich_that_answers_nonsense_lets_nobody_in(
    gateway: Any, indexed_database: str, reply: Answer | None
) -> None:
    with Peer(lambda _: reply) as nonsense:
        client = gateway(
            database=Database(indexed_database), db_url=indexed_database, immich_url=nonsense.url
        )
        answer = client.get(QUERY, headers={"x-api-key": "anna-key"})
    assert answer.status_code == 503
    assert "IMMICH_URL" in answer.json()["detail"]


def test_credentials_appear_in_no_log_and_no_answer(
    attached: httpx.Client, caplog: pytest.LogCaptureFixture, immich_server: Peer
) -> None:
    caplog.set_level("DEBUG")
    answers = [
        attached.get(QUERY, headers={"x-api-key": "top-secret"}),
        attached.get(QUERY, headers={"cookie": "immich_access_token=top-secret"}),
    ]
    assert immich_server.received
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith(("http", "hpack"))]
    assert not any("top-secret" in text for text in [*ours, *(a.text for a in answers)])


def test_the_key_is_a_secret() -> None:
    assert "hush" not in repr(Settings(api_key="hush"))
