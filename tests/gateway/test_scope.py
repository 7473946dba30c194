"""Nobody sees what isn't theirs, on any route. Each is classified here: a new one fails first."""

import http.client
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import psycopg
import pytest
from immich_server import ImmichServer
from litestar.routes import HTTPRoute
from peers import Answer, Peer, Received

from gateway.app import create_app
from gateway.database import Database
from indexer.models.types import Lane
from indexer.settings import Settings

Connection = psycopg.Connection[Any]

# Who may ask. A route that shows or changes anything about photos is USER; OPEN ones have nothing
# to tell of photos or of people.
# IMMICH ones show what this person may see, or pass on to Immich, which decides.
OPEN, ML, MT, WORKER = "open", "ML_KEY", "API_KEY", "PREVIEWS_KEY"
USER, IMMICH, SIGN_IN = "user", "immich", "whoever has credentials, of himself"
ROUTES = {
    ("GET", "/"): OPEN,
    ("GET", "/health"): OPEN,
    ("GET", "/health/live"): OPEN,
    ("GET", "/health/ready"): OPEN,
    ("GET", "/metrics"): OPEN,
    ("GET", "/schema"): OPEN,
    ("GET", "/schema/openapi.json"): OPEN,
    ("GET", "/schema/{path:str}"): OPEN,
    ("GET", "/ping"): ML,
    ("POST", "/predict"): ML,
    ("POST", "/check"): MT,
    ("POST", "/restart"): MT,
    ("POST", "/restart_v2"): MT,
    ("POST", "/ocr"): MT,
    ("POST", "/clip/img"): MT,
    ("POST", "/clip/txt"): MT,
    ("POST", "/represent"): MT,
    ("GET", "/page/{name:str}"): OPEN,
    ("GET", "/session"): SIGN_IN,
    ("POST", "/session"): SIGN_IN,
    ("DELETE", "/session"): SIGN_IN,
    ("GET", "/previews/{asset_id:uuid}"): WORKER,
    ("POST", "/api/search/smart"): IMMICH,
    ("POST", "/api/search/metadata"): IMMICH,
    ("GET", "/search"): USER,
    ("POST", "/search"): USER,
    ("POST", "/assets/{asset_id:uuid}/reprocess"): USER,
    ("GET", "/reprocess/{request_id:int}"): USER,
    ("POST", "/photos"): USER,
    ("GET", "/assets/{asset_id:uuid}"): USER,
    ("GET", "/assets/{asset_id:uuid}/thumbnail"): USER,
    ("GET", "/filters"): USER,
    ("GET", "/index"): USER,
    ("POST", "/index/retry"): USER,
    ("GET", "/events"): USER,
}

# What to send to those of USER and IMMICH that want more than a path.
ASKED = ("ocr:发票", "发票", "红色的圆")
BODIES: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("GET", "/search"): [{"params": {"q": query, "limit": 200}} for query in ASKED],
    ("POST", "/search"): [
        *({"json": {"q": query, "limit": 200}} for query in ASKED),
        {"json": {"q": "发票", "filter": {"visibility": "archive"}}},
        {"json": {"q": "发票", "filter": {"visibility": "timeline"}}},
        {"json": {"q": "", "like": "ASSET"}},
    ],
    ("POST", "/photos"): [
        {"json": {"limit": 200}},
        {"json": {"filter": {"visibility": "archive"}}},
    ],
    ("GET", "/assets/{asset_id:uuid}"): [{"params": {"q": "发票"}}],
    ("POST", "/index/retry"): [{"json": {}}],
    ("GET", "/events"): [{"params": {"asset": "ASSET"}}],  # without one it never ends
    ("POST", "/api/search/smart"): [
        *({"json": {"query": query, "page": 1, "size": 200}} for query in ASKED),
        {"json": {"query": "发票", "visibility": "archive"}},
        {"json": {"query": "发票", "visibility": "locked"}},
        {"json": {"query": "发票", "withDeleted": True}},
    ],
    ("POST", "/api/search/metadata"): [
        {"json": {"ocr": "发票", "page": 1}},
        {"json": {"ocr": "发票", "visibility": "hidden"}},
        {"json": {"ocr": "发票", "withDeleted": True, "trashedBefore": "2030-01-01T00:00:00Z"}},
    ],
}
# These change nothing, though they are POSTs.
ASKING = {"/search", "/photos", "/api/search/smart", "/api/search/metadata"}
STOCK = {"stock": "搜索"}  # what Immich's own search answers here

ANNA, BORIS, CLARA, DORA, EMIL = (uuid.UUID(int=n) for n in range(1, 6))
KEYS = {"anna-key": ANNA, "boris-key": BORIS, "clara-key": CLARA, "dora-key": DORA}

# Photos, by name: whose, visibility, in the trash, and whether Anna may see it.
PHOTOS = {
    "anna-timeline": (ANNA, "timeline", False, True),
    "anna-archive": (ANNA, "archive", False, True),
    "anna-hidden": (ANNA, "hidden", False, False),
    "anna-locked": (ANNA, "locked", False, False),
    "anna-trashed": (ANNA, "timeline", True, False),
    "boris-timeline": (BORIS, "timeline", False, True),  # a partner, in Anna's timeline
    "boris-archive": (BORIS, "archive", False, False),
    "boris-hidden": (BORIS, "hidden", False, False),
    "boris-locked": (BORIS, "locked", False, False),
    "boris-trashed": (BORIS, "timeline", True, False),
    "clara-timeline": (CLARA, "timeline", False, False),  # a partner, not in the timeline
    "dora-timeline": (DORA, "timeline", False, False),  # shares nothing
    "emil-timeline": (EMIL, "timeline", False, False),  # a partner whose account is deleted
}


def routes(settings: Settings, engine: Any) -> set[tuple[str, str]]:
    app = create_app(settings, engine, None)
    return {
        (method, route.path)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods - {"OPTIONS", "HEAD"}
    }


def test_every_route_is_classified(settings: Settings, engine: Any) -> None:
    new = routes(settings, engine) - ROUTES.keys()
    assert not new, f"who may use these? Say it in ROUTES (and BODIES), in this file: {new}"


def test_websockets_and_other_applications_are_not_served(settings: Settings, engine: Any) -> None:
    app = create_app(settings, engine, None)
    assert [route.path for route in app.routes if not isinstance(route, HTTPRoute)] == []


@pytest.fixture
def immich(indexed_database: str) -> Iterator[ImmichServer]:
    with ImmichServer(indexed_database, KEYS) as server:
        yield server


@pytest.fixture
def photos(rows: Connection, engine: Any) -> dict[str, uuid.UUID]:
    """Ids by name. All have 发票 in their text, and look like a red circle."""
    rows.cursor().executemany(
        'INSERT INTO "user" (id, email, "deletedAt") VALUES (%s, %s, %s)',
        [
            *((user, user.hex, None) for user in (ANNA, BORIS, CLARA, DORA)),
            (EMIL, "e", "2026-01-01"),
        ],
    )
    rows.cursor().executemany(
        'INSERT INTO partner ("sharedById", "sharedWithId", "inTimeline") VALUES (%s, %s, %s)',
        [(BORIS, ANNA, True), (CLARA, ANNA, False), (EMIL, ANNA, True)],
    )
    circle = engine.embed_text("红色的圆", Lane.BULK).result()
    made = {}
    for name, (owner, visibility, trashed, _) in PHOTOS.items():
        made[name] = uuid.uuid4()
        rows.execute(
            """
            INSERT INTO asset (id, "ownerId", type, "originalPath", "originalFileName",
                "fileCreatedAt", "fileModifiedAt", "localDateTime", checksum, "checksumAlgorithm",
                visibility, "deletedAt", status)
            VALUES (%s, %s, 'IMAGE', %s, %s, now(), now(), now(), %s, 'sha1',
                %s::text::asset_visibility_enum, CASE WHEN %s THEN now() END,
                CASE WHEN %s THEN 'trashed' ELSE 'active' END::text::assets_status_enum)
            """,
            [
                *(made[name], owner, f"/p/{name}", f"{name}.jpg", made[name].bytes),
                *(visibility, trashed, trashed),
            ],
        )
        rows.execute(
            """INSERT INTO asset_file ("assetId", type, path) VALUES (%s, 'preview', %s)""",
            [made[name], f"/p/{name}_preview.jpeg"],
        )
        rows.execute(
            "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model,"
            " content_hash) SELECT %s, t, '[]', indexer_v1.to_tsvector(t), indexer_v1.tokenizer(),"
            " 'm', sha256('x') FROM (SELECT %s::text AS t) AS texts",
            [made[name], f"发票 secret-of-{name}"],
        )
        rows.execute(
            "INSERT INTO indexer_v1.clip (asset_id, embedding, model, content_hash)"
            " VALUES (%s, %s::real[]::vector::halfvec, 'stand-in', sha256('x'))",
            [made[name], circle.tolist()],
        )
    return made


@pytest.fixture
def attached(
    gateway: Any, indexed_database: str, immich: ImmichServer, photos: Any
) -> httpx.Client:
    client: httpx.Client = gateway(
        database=Database(indexed_database), db_url=indexed_database, immich_url=immich.url
    )
    return client


def requests_for(
    settings: Settings, engine: Any, asset: uuid.UUID, request_id: int, *, others: bool = True
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every request to routes of USER and IMMICH, about one photo where the path names one.

    Args:
        others: also those that are the same for every photo.
    """
    for method, template in sorted(routes(settings, engine)):
        if ROUTES.get((method, template)) in (USER, IMMICH):
            path = re.sub(r"\{\w+:uuid\}", str(asset), template)
            path = re.sub(r"\{\w+:int\}", str(request_id), path)
            for how in BODIES.get((method, template), [{}]):
                asked = json.dumps(how)
                if others or path != template or "ASSET" in asked:
                    yield method, path, json.loads(asked.replace("ASSET", str(asset)))


def names_in(answer: httpx.Response, photos: dict[str, uuid.UUID]) -> set[str]:
    """Which photos an answer tells anything of."""
    return {
        name
        for name, asset in photos.items()
        if str(asset) in answer.text or re.search(rf"{name}(?![\w-])", answer.text)
    }


def test_what_may_be_seen_is_found(attached: httpx.Client, photos: dict[str, uuid.UUID]) -> None:
    seen = {name for name, (*_, may) in PHOTOS.items() if may}
    for query in ASKED:
        answer = attached.get(
            "/search", params={"q": query, "limit": 200}, headers={"x-api-key": "anna-key"}
        )
        assert names_in(answer, photos) == seen, query


@pytest.mark.parametrize("who", ["anna-key", "dora-key"])
def test_no_route_tells_of_what_is_not_theirs(
    attached: httpx.Client,
    photos: dict[str, uuid.UUID],
    rows: Connection,
    settings: Settings,
    engine: Any,
    who: str,
) -> None:
    if who == "anna-key":
        allowed = {name for name, (*_, may) in PHOTOS.items() if may} | {"anna-trashed"}
        allowed.add("anna-hidden")  # to have them redone; to be found, they mustn't be
    else:
        allowed = {"dora-timeline"}
    for number, name in enumerate(photos.keys() - allowed):
        row = rows.execute(
            "INSERT INTO indexer_v1.reprocess (asset_id, task) VALUES (%s, 'ocr') RETURNING id",
            [photos[name]],
        ).fetchone()
        assert row
        before = rows.execute("SELECT count(*) FROM indexer_v1.reprocess").fetchone()
        asking = requests_for(settings, engine, photos[name], row[0], others=number == 0)
        for method, path, how in asking:
            answer = attached.request(method, path, headers={"x-api-key": who}, **how)
            told = names_in(answer, photos) - allowed
            assert not told, (method, path, how, answer.text)
            assert answer.status_code < 500, (method, path, answer.text)
        after = rows.execute("SELECT count(*) FROM indexer_v1.reprocess").fetchone()
        assert after == before  # nobody has others' photos redone


@pytest.mark.parametrize(
    "headers", [{}, {"x-api-key": "wrong"}, {"cookie": "immich_access_token=wrong"}]
)
def test_without_credentials_no_route_answers(
    attached: httpx.Client,
    photos: dict[str, uuid.UUID],
    settings: Settings,
    engine: Any,
    headers: dict[str, str],
) -> None:
    for method, path, how in requests_for(settings, engine, photos["anna-timeline"], 1):
        answer = attached.request(method, path, headers=headers, **how)
        if ROUTES.get((method, path)) == IMMICH:
            assert answer.json() == STOCK  # Immich's to refuse
        else:
            assert answer.status_code == 401, (method, path, answer.text)
        assert not names_in(answer, photos)


def test_in_folder_mode_no_route_answers_other_computers(
    gateway: Any,
    indexed_database: str,
    photos: dict[str, uuid.UUID],
    settings: Settings,
    engine: Any,
) -> None:
    client = gateway(database=Database(indexed_database))
    for headers in ({"host": "evil.example"}, {"x-forwarded-for": "203.0.113.5"}):
        for method, path, how in requests_for(settings, engine, photos["anna-timeline"], 1):
            answer = client.request(method, path, headers=headers, **how)
            refused = 501 if ROUTES.get((method, path)) == IMMICH else 403
            assert answer.status_code == refused, (method, path, answer.text)
            assert not names_in(answer, photos)


def test_other_sites_pages_change_nothing(
    attached: httpx.Client, photos: dict[str, uuid.UUID], settings: Settings, engine: Any
) -> None:
    """A browser would send Immich's cookie along."""
    for method, path, how in requests_for(settings, engine, photos["anna-timeline"], 1):
        if method != "GET" and path not in ASKING:
            headers = {"authorization": "Bearer anna-key", "sec-fetch-site": "cross-site"}
            answer = attached.request(method, path, headers=headers, **how)
            assert answer.status_code == 403, (method, path)


def test_a_workers_key(attached: httpx.Client, gateway: Any, photos: dict[str, uuid.UUID]) -> None:
    """It opens every preview, so nothing else must open them."""
    path = f"/previews/{photos['anna-timeline']}"
    assert attached.get(path, headers={"x-api-key": "anna-key"}).status_code == 501
    client = gateway(previews_key="a-key-for-workers")
    for headers in ({}, {"x-api-key": "anna-key"}, {"authorization": "Bearer a-key-for-worker"}):
        assert client.get(path, headers=headers).status_code == 401


@pytest.mark.parametrize("path", [path for (_, path), who in ROUTES.items() if who == MT])
def test_mt_photos_key(gateway: Any, path: str) -> None:
    client = gateway()
    assert client.post(path).status_code == 401
    assert client.post(path, headers={"api-key": "mt_photos_kez"}).status_code == 401


def test_open_routes_tell_of_nothing(attached: httpx.Client, photos: dict[str, uuid.UUID]) -> None:
    secrets = ("postgresql://", "mt_photos_key", "secret-of")
    for (method, path), who in ROUTES.items():
        if who == OPEN and method == "GET":
            answer = attached.get(re.sub(r"\{\w+:str\}", "x", path))
            assert not names_in(answer, photos)
            assert not [secret for secret in secrets if secret in answer.text], path


# Strings that try to be more than strings, in every place that takes one

PAYLOADS = (
    "'; DROP TABLE asset CASCADE; --",
    "x') OR true --",
    "%L %s \uff07 OR 1=1 --",
    "\\'; SELECT 1 --",
    "\x00",
    '"}}, {"visibility": "locked',
)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_string_becomes_sql(
    attached: httpx.Client, photos: dict[str, uuid.UUID], rows: Connection, payload: str
) -> None:
    mine = {"x-api-key": "dora-key"}
    asset = photos["dora-timeline"]
    exif = ("city", "state", "country", "make", "model", "lensModel")
    answers = [
        attached.get("/search", params={"q": f"发票 OR {payload}"}, headers=mine),
        attached.get("/search", params={"q": "发票", "method": payload}, headers=mine),
        attached.get("/search", params={"q": "发票", "limit": payload}, headers=mine),
        attached.post(f"/assets/{asset}/reprocess", params={"task": payload}, headers=mine),
        attached.post(f"/assets/{quote(payload, safe='')}/reprocess", headers=mine),
        attached.get(f"/reprocess/{quote(payload, safe='')}", headers=mine),
        attached.post("/api/search/smart", json={"query": f"发票 {payload}"}, headers=mine),
        attached.post("/api/search/metadata", json={"ocr": payload}, headers=mine),
        *(
            attached.post("/search", json={"q": "发票", "filter": {name: payload}}, headers=mine)
            for name in (*exif, "type", "visibility", "takenAfter", "rating")
        ),
        *(
            attached.post("/search", json={"q": "发票", "filter": {name: [payload]}}, headers=mine)
            for name in ("albumIds", "personIds", "tagIds")
        ),
        attached.get("/search?q=发票", headers={"x-api-key": payload.encode().hex()}),
    ]
    for answer in answers:
        assert answer.status_code < 500, (answer.request.url, answer.text)
        assert names_in(answer, photos) <= {"dora-timeline"}, (answer.request.url, answer.text)
    count = rows.execute("SELECT count(*) FROM asset").fetchone()
    assert count == (len(PHOTOS),)


# What is asked of Immich for one person goes along with nobody else's request


def test_what_immich_sets_for_one_is_not_sent_for_another(
    gateway: Any, indexed_database: str, photos: dict[str, uuid.UUID]
) -> None:
    """An HTTP client keeps cookies, and Immich believes a session before an API key."""

    def answer(request: Received) -> Answer:
        key = request.headers.get("x-api-key", "")
        cookie = {"set-cookie": "immich_access_token=session-of-anna; Path=/"}
        kind = {"content-type": "application/json"}
        if request.path == "/api/users/me":
            return Answer(200, b'{"id": "%s"}' % str(KEYS[key]).encode(), {**kind, **cookie})
        return Answer(200, b'{"permissions": ["all"]}', {**kind, **cookie})

    with Peer(answer) as immich:
        client = gateway(
            database=Database(indexed_database), db_url=indexed_database, immich_url=immich.url
        )
        for key in ("anna-key", "dora-key"):
            for path in ("/search", "/api/search/smart", "/api/search/smart?passed=on"):
                asked = {"q": "发票"} if path == "/search" else {"query": "发票"}
                client.post(path, json=asked, headers={"x-api-key": key})
                client.cookies.clear()  # this one keeps them too
        assert len(immich.received) > 4
        assert not [r.path for r in immich.received if "session-of-anna" in str(r.headers)]


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("http://evil.example/api/search/smart", {}),
        ("/api/search/smart", {"host": "evil.example"}),
        ("/api/search/smart", {"x-forwarded-host": "evil.example", "forwarded": "host=evil"}),
        ("/api/search/smart?url=http://evil.example/", {}),
        ("//evil.example/api/search/smart", {}),
        ("/api/search/smart/../../admin/users", {}),
        ("/api/search/smart%2f..%2f..%2fadmin", {}),
        ("/api/search/smart;@evil.example", {}),
    ],
)
def test_the_search_of_immich_leads_nowhere_else(
    gateway: Any, indexed_database: str, target: str, headers: dict[str, str]
) -> None:
    with Peer(lambda _: Answer.json({})) as immich, Peer(lambda _: Answer.json({})) as evil:
        client = gateway(
            database=Database(indexed_database), db_url=indexed_database, immich_url=immich.url
        )
        url = urlsplit(str(client.base_url))
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
        connection.putrequest(
            "POST", target.replace("evil.example", urlsplit(evil.url).netloc), skip_host=True
        )
        for name, value in {"host": "localhost", "content-length": "2", **headers}.items():
            connection.putheader(name, value.replace("evil.example", urlsplit(evil.url).netloc))
        connection.endheaders(b"{}")
        connection.getresponse().read()
        assert not evil.received
        assert {r.path.partition("?")[0] for r in immich.received} <= {"/api/search/smart"}
        assert not [r for r in immich.received if "evil" in str(r.headers)]
