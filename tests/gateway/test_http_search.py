"""Search, redo and health over HTTP, against a real PostgreSQL."""

import json
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from doubles import Failing, Recording
from indexed import embed, write_text

from gateway.database import Database
from gateway.errors import DatabaseUnavailable
from gateway.search import MAX_OFFSET
from indexer.library import owner_of
from indexer.models.types import Lane, ModelUnavailable

Connection = psycopg.Connection[Any]
ANNA, BORIS, CLARA = (uuid.UUID(int=n) for n in (1, 2, 3))


@pytest.fixture
def photo(rows: Connection, engine: Any) -> Callable[..., uuid.UUID]:
    """Adds an indexed photo: its file's name, the text in it, a caption of what it shows."""
    rows.cursor().executemany(
        'INSERT INTO "user" (id, email, name) VALUES (%s, %s, %s)',
        [(ANNA, "a@x", "Anna"), (BORIS, "b@x", "Boris"), (CLARA, "c@x", "Clara")],
    )

    def add(name: str, text: str = "", shows: str = "", owner: uuid.UUID = ANNA) -> uuid.UUID:
        asset = uuid.uuid4()
        rows.execute(
            """
            INSERT INTO asset (id, "ownerId", type, "originalPath", "originalFileName",
                "fileCreatedAt", "fileModifiedAt", "localDateTime", checksum, "checksumAlgorithm")
            VALUES (%s, %s, 'IMAGE', %s, %s, now(), now(), now(), %s, 'sha1')
            """,
            [asset, owner, f"/photos/{name}", name, asset.bytes],
        )
        rows.execute(
            """INSERT INTO asset_file ("assetId", type, path) VALUES (%s, 'preview', '/p')""",
            [asset],
        )
        if text:
            write_text(rows, asset, text)
        if shows:
            embed(rows, engine, asset, shows)
        return asset

    return add


@pytest.fixture
def client(gateway: Any, indexed_database: str) -> httpx.Client:
    """A gateway in folder mode, with the database."""
    started: httpx.Client = gateway(database=Database(indexed_database))
    return started


def names(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [result["file_name"] for result in answer.json()["results"]]


def test_finds_text_and_pictures_in_one_ranking(client: httpx.Client, photo: Any) -> None:
    both = photo("both.jpg", text="红色的圆 发票", shows="红色的圆")
    photo("seen.jpg", shows="红色的圆")
    photo("read.jpg", text="红色的圆")
    photo("other.jpg", text="收据", shows="蓝色的正方形")
    answer = client.get("/search", params={"q": "红色的圆"})
    assert names(answer)[0] == "both.jpg"
    assert set(names(answer)[1:3]) == {"seen.jpg", "read.jpg"}
    page = answer.json()
    assert page["picture_search"] is True
    assert page["picture_problem"] is None
    assert page["next_offset"] is None
    best = page["results"][0]
    assert best.keys() == {
        "asset_id", "file_name", "path", "taken_at", "type", "width", "height", "score",
        "text_rank", "text_score", "vector_rank", "vector_distance", "lines",
    }  # fmt: skip
    assert (best["asset_id"], best["path"]) == (str(both), "/photos/both.jpg")
    assert best["text_rank"] in {1, 2}
    assert best["vector_rank"] in {1, 2}
    assert best["vector_distance"] == pytest.approx(0, abs=1e-3)
    read = next(r for r in page["results"] if r["file_name"] == "read.jpg")
    assert read["vector_rank"] is None
    assert read["vector_distance"] is None


def test_says_which_lines_match_and_where(
    client: httpx.Client, photo: Any, rows: Connection
) -> None:
    asset = photo("a.jpg", text="超市\n发票号码 88\nＩＮＶＯＩＣＥ", shows="海")
    photo("seen.jpg", shows="发票 invoice")
    box = [0.1, 0.2, 0.9, 0.2, 0.9, 0.3, 0.1, 0.3]
    lines = [
        {"text": text, "box": box, "box_score": 0.9, "text_score": 0.8}
        for text in ("超市", "发票号码 88", "ＩＮＶＯＩＣＥ")
    ]
    rows.execute(
        "UPDATE indexer_v1.ocr SET lines = %s WHERE asset_id = %s", [json.dumps(lines), asset]
    )
    answer = client.get("/search", params={"q": "发票 invoice"}).json()
    read, seen = sorted(answer["results"], key=lambda result: str(result["file_name"]))
    assert read["lines"] == [
        {"line": 2, "text": "发票号码 88", "box": box, "score": 0.8, "marks": [[0, 2]]},
        {"line": 3, "text": "ＩＮＶＯＩＣＥ", "box": box, "score": 0.8, "marks": [[0, 7]]},
    ]
    assert seen["lines"] == []


def test_filters(client: httpx.Client, photo: Any, rows: Connection) -> None:
    photo("a.jpg", text="发票")
    loved = photo("b.jpg", text="发票")
    rows.execute(
        'UPDATE asset SET "isFavorite" = true, "fileCreatedAt" = %s WHERE id = %s',
        ["2020-05-01T10:00:00Z", loved],
    )
    album = uuid.uuid4()
    rows.execute('INSERT INTO album (id, "albumName") VALUES (%s, %s)', [album, "Bills"])
    rows.execute('INSERT INTO album_asset ("albumId", "assetId") VALUES (%s, %s)', [album, loved])
    for chosen in (
        {"isFavorite": True},
        {"takenBefore": "2021-01-01T00:00:00Z"},
        {"albumIds": [str(album)], "type": "IMAGE"},
    ):
        answer = client.post("/search", json={"q": "ocr:发票", "filter": chosen})
        assert names(answer) == ["b.jpg"], chosen
    for wrong in ({"colour": "red"}, {"type": "IMAGES"}, {"albumIds": ["x"]}, {"rating": "five"}):
        answer = client.post("/search", json={"q": "发票", "filter": wrong})
        assert answer.status_code == 400, wrong
    rows.execute("DROP TABLE album_asset CASCADE")
    gone = client.post("/search", json={"q": "发票", "filter": {"albumIds": [str(album)]}})
    assert gone.status_code == 422
    assert "no table album_asset" in gone.json()["detail"]


def test_post_does_the_same(client: httpx.Client, photo: Any) -> None:
    photo("a.jpg", text="发票")
    asked = {"q": "发票", "limit": 10, "offset": 0, "method": "weighted"}
    posted, got = client.post("/search", json=asked), client.get("/search", params=asked)
    assert names(posted) == ["a.jpg"]
    assert posted.json() == got.json()


@pytest.mark.parametrize(
    ("query", "embedded"),
    [
        ("红色的圆", "红色的圆"),
        ("ocr:红色的圆", None),
        ("OCR： 红色的圆", None),
        ("圆 -发票", "圆"),
        ('"红色的圆" -"两个 词"', "红色的圆"),
        ("-发票", None),
        ("", None),
        ("  ", None),
        ("a\x00b", "a b"),
    ],
)
def test_what_of_a_query_is_embedded(
    gateway: Any,
    engine: Any,
    indexed_database: str,
    photo: Any,
    query: str,
    embedded: str | None,
) -> None:
    asked: list[tuple[str, Lane]] = []

    class Listening(Recording):
        def embed_text(self, text: str, lane: Lane) -> Any:
            asked.append((text, lane))
            return engine.embed_text(text, lane)

    photo("a.jpg", text="红色的圆", shows="红色的圆")
    client = gateway(engine=Listening(engine), database=Database(indexed_database))
    answer = client.get("/search", params={"q": query})
    assert answer.status_code == 200
    assert asked == ([(embedded, Lane.INTERACTIVE)] if embedded else [])
    assert answer.json()["picture_search"] is (embedded is not None)


def test_without_clip_text_is_searched_and_the_answer_says_so(
    gateway: Any, engine: Any, indexed_database: str, photo: Any
) -> None:
    photo("read.jpg", text="发票")
    photo("seen.jpg", shows="发票")
    away = Failing(engine, ModelUnavailable("put clip_cn.pt into /models"))
    client = gateway(engine=away, database=Database(indexed_database))
    answer = client.get("/search", params={"q": "发票"})
    assert names(answer) == ["read.jpg"]
    assert answer.json()["picture_search"] is False
    assert answer.json()["picture_problem"] == "put clip_cn.pt into /models"
    health = client.get("/health").json()
    assert health["status"] == "degraded"
    assert health["clip"]["problem"] == "put clip_cn.pt into /models"
    assert client.get("/health/ready").status_code == 200


def test_pages(client: httpx.Client, photo: Any) -> None:
    for number in range(5):
        photo(f"{number}.jpg", text="发票" * (number + 1))
    seen: list[str] = []
    offset: int | None = 0
    for _ in range(4):
        answer = client.get("/search", params={"q": "ocr:发票", "limit": 2, "offset": offset})
        seen += names(answer)
        offset = answer.json()["next_offset"]
        if offset is None:
            break
    assert len(seen) == 5
    assert set(seen) == {f"{number}.jpg" for number in range(5)}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"q": "x" * 501},
        {"q": "x", "limit": 0},
        {"q": "x", "limit": 201},
        {"q": "x", "limit": "many"},
        {"q": "x", "offset": -1},
        {"q": "x", "offset": MAX_OFFSET + 1},
        {"q": "x", "method": "best"},
    ],
)
def test_wrong_parameters(client: httpx.Client, wrong: dict[str, Any]) -> None:
    for answer in (client.get("/search", params=wrong), client.post("/search", json=wrong)):
        assert answer.status_code == 400
        assert answer.json()["detail"]


def test_bodies_that_are_no_search(client: httpx.Client) -> None:
    for body in (b"{", b"[]", b"null", json.dumps({"q": "x", "other": 1}).encode(), b"\xff"):
        answer = client.post("/search", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, body
    big = client.post("/search", json={"q": "x" * 100_000})
    assert big.status_code == 413


def test_longest_query_and_farthest_page(client: httpx.Client, photo: Any) -> None:
    photo("a.jpg", text="发票", shows="发票")
    for query in ("发" * 500, '"' * 500, "-" * 500):
        farthest = {"q": query, "limit": 200, "offset": MAX_OFFSET}
        assert client.get("/search", params=farthest).status_code == 200


def test_limits_can_be_set(gateway: Any, indexed_database: str, photo: Any) -> None:
    """To the most that may be set; and the error says what to set."""
    asset = photo("a.jpg", text="发票", shows="发票")
    most = {"max_query_length": 2000, "max_page_size": 1000}
    client = gateway(database=Database(indexed_database), **most)
    longest = {"q": "发票 OR " * 249 + "发票", "limit": 1000}
    for answer in (client.get("/search", params=longest), client.post("/search", json=longest)):
        assert names(answer) == ["a.jpg"]
    assert client.post("/photos", json={"limit": 1000}).status_code == 200
    assert client.get(f"/assets/{asset}", params={"q": "发票" * 1000}).status_code == 200
    too_long, too_many = {"q": "x" * 2001}, {"q": "x", "limit": 1001}
    refused = [
        (client.get("/search", params=too_long), "MAX_QUERY_LENGTH"),
        (client.post("/search", json=too_long), "MAX_QUERY_LENGTH"),
        (client.get(f"/assets/{asset}", params=too_long), "MAX_QUERY_LENGTH"),
        (client.get("/search", params=too_many), "MAX_PAGE_SIZE"),
        (client.post("/search", json=too_many), "MAX_PAGE_SIZE"),
        (client.post("/photos", json={"limit": 1001}), "MAX_PAGE_SIZE"),
    ]
    for answer, setting in refused:
        assert (answer.status_code, setting in answer.json()["detail"]) == (400, True)


def test_redo_a_photo(client: httpx.Client, photo: Any, rows: Connection) -> None:
    asset = photo("a.jpg")
    answer = client.post(f"/assets/{asset}/reprocess", params={"task": "ocr"})
    assert answer.status_code == 202
    made = answer.json()
    assert (made["asset_id"], made["task"], made["status"]) == (str(asset), "ocr", "waiting")
    assert client.get(f"/reprocess/{made['id']}").json() == made
    jobs = rows.execute(
        "SELECT task, force FROM indexer_v1.job WHERE asset_id = %s AND priority > 0", [asset]
    ).fetchall()
    assert jobs == [("ocr", True)]
    rows.execute("SELECT indexer_v1.stamp_reprocess(%s, 'ocr')", [asset])
    done = client.get(f"/reprocess/{made['id']}").json()
    assert (done["status"], done["remaining"]) == ("done", [])
    assert done["finished_at"]
    both = client.post(f"/assets/{asset}/reprocess").json()
    assert (both["task"], both["remaining"]) == ("all", ["ocr", "clip"])


def test_redo_what_is_not_there(client: httpx.Client, photo: Any) -> None:
    assert client.post(f"/assets/{uuid.uuid4()}/reprocess").status_code == 404
    assert client.post("/assets/no-id/reprocess").status_code == 404
    assert client.get("/reprocess/12345").status_code == 404
    assert client.get(f"/reprocess/{2**70}").status_code == 400
    assert client.get("/reprocess/x").status_code == 404
    assert client.post(f"/assets/{photo('a.jpg')}/reprocess?task=faces").status_code == 400


def test_folder_mode_shows_the_served_folder_alone(
    gateway: Any, rows: Connection, indexed_database: str, photo: Any, tmp_path: Path
) -> None:
    served = owner_of(tmp_path)
    rows.execute("INSERT INTO \"user\" (id, email) VALUES (%s, 'folder@x')", [served])
    ours = photo("ours.jpg", text="发票", owner=served)
    theirs = photo("of another folder.jpg", text="发票")
    client = gateway(database=Database(indexed_database), photos_dir=tmp_path)
    assert names(client.get("/search?q=ocr:发票")) == ["ours.jpg"]
    assert client.post(f"/assets/{ours}/reprocess").status_code == 202
    assert client.post(f"/assets/{theirs}/reprocess").status_code == 404


def test_health(client: httpx.Client, photo: Any) -> None:
    asset = photo("a.jpg")
    client.post(f"/assets/{asset}/reprocess", params={"task": "clip"})
    health = client.get("/health")
    assert health.status_code == 200
    state = health.json()
    assert state["status"] == "ok"
    assert state["database"]["problem"] is None
    queue = {(row["task"], row["state"]): row["jobs"] for row in state["database"]["queue"]}
    assert queue == {("ocr", "waiting"): 1, ("clip", "waiting"): 1}
    assert (state["clip"]["model"], state["clip"]["problem"]) == ("stand-in", None)
    assert state["ocr"].startswith("rapidocr")
    assert state["faces"] == "off"
    assert state["engine"]["ocr"]["waiting"] == {"interactive": 0, "bulk": 0}
    assert client.get("/health/live").json() == {"status": "ok"}
    assert client.get("/health/ready").json() == {"status": "ok", "problem": None}


def test_a_database_that_is_not_migrated(gateway: Any, empty_database: str) -> None:
    client = gateway(database=Database(empty_database))
    for path in ("/search?q=x", "/reprocess/1"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert "immich-indexer migrate" in answer.json()["detail"]
    assert client.get("/health/ready").status_code == 503
    assert "immich-indexer migrate" in client.get("/health").json()["database"]["problem"]


def test_a_database_that_is_away(gateway: Any) -> None:
    client = gateway(database=Database("postgresql://me:secret@127.0.0.1:9/none"))
    for answer in (
        client.get("/search?q=x"),
        client.post("/search", json={"q": "x"}),
        client.post(f"/assets/{uuid.uuid4()}/reprocess"),
        client.get("/reprocess/1"),
    ):
        assert answer.status_code == 503
        assert "PostgreSQL can't be used" in answer.json()["detail"]
        assert "secret" not in answer.text
    assert client.get("/ping").text == "pong"
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health").json()["status"] == "degraded"


def test_wrong_password_and_wrong_name(gateway: Any, indexed_database: str) -> None:
    wrong = indexed_database.rpartition("/")[0] + "/no_such_database"
    answer = gateway(database=Database(wrong)).get("/search?q=x")
    assert answer.status_code == 503
    assert "no_such_database" in answer.json()["detail"]


def test_connections_that_the_server_dropped(
    client: httpx.Client, photo: Any, rows: Connection
) -> None:
    photo("a.jpg", text="发票")
    answers: list[httpx.Response] = []
    searches = [
        threading.Thread(target=lambda: answers.append(client.get("/search?q=ocr:发票")))
        for _ in range(4)
    ]
    with rows.transaction():  # all four wait here, each on a connection of its own
        rows.execute("LOCK TABLE asset IN ACCESS EXCLUSIVE MODE")
        for search in searches:
            search.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'asset'::regclass"
        while (rows.execute(waiting).fetchone() or [0])[0] < len(searches):
            time.sleep(0.01)
    for search in searches:
        search.join()
    assert [names(answer) for answer in answers] == [["a.jpg"]] * 4
    dropped = rows.execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchone()
    assert dropped == (len(searches),)
    assert names(client.get("/search?q=ocr:发票")) == ["a.jpg"]


async def test_a_connection_lost_in_mid_statement_is_tried_once_more(rows: Connection) -> None:
    rows.execute("CREATE SEQUENCE tries")  # counts across the transaction that is lost
    suicide = """
        SELECT CASE WHEN nextval('tries') <= $1 THEN pg_terminate_backend(pg_backend_pid()) END,
               currval('tries') AS tries
    """
    info = rows.info
    database = Database(f"postgresql://{info.user}@{info.host}:{info.port}/{info.dbname}")
    await database.open()
    try:
        row = await database.fetch_one(suicide, 1)
        assert row["tries"] == 2
        with pytest.raises(DatabaseUnavailable, match="PostgreSQL can't be used"):
            await database.fetch(suicide, 10)
        assert rows.execute("SELECT last_value FROM tries").fetchone() == (4,)
    finally:
        await database.close()


def test_a_query_that_takes_too_long(
    gateway: Any, indexed_database: str, rows: Connection, photo: Any
) -> None:
    photo("a.jpg", text="发票")
    client = gateway(database=Database(indexed_database, seconds=1))
    with rows.transaction():
        rows.execute("LOCK TABLE asset IN ACCESS EXCLUSIVE MODE")
        answer = client.get("/search?q=发票")
    assert answer.status_code == 503
    assert "longer than 1 s" in answer.json()["detail"]
    assert names(client.get("/search?q=ocr:发票")) == ["a.jpg"]
