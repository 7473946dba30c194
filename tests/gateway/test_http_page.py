"""The page's routes: who sees which picture, signing in, the index's figures, events."""

from __future__ import annotations

import io
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from indexed import embed, write_text
from peers import Answer, Peer, Received
from PIL import Image
from test_http_auth import raw_get

from gateway.app import create_app
from gateway.auth import KEY_COOKIE
from gateway.database import Database
from gateway.server import running
from immich.events import FakeImmich
from indexer.library import scan
from pg.connect import connect
from pg.migrate import create_library_tables, migrate

SAMPLES = Path(__file__).parents[2] / "immich_indexer/samples"
PAGE = Path(__file__).parents[2] / "gateway/page"
RED, BLUE, INVOICE = "shape-red-circle.jpg", "shape-blue-square-exit.jpg", "invoice.png"
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


# The page itself


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, */*;q=0.5"])
def test_machines_get_what_they_always_got(gateway: Any, accept: str | None) -> None:
    client = gateway()
    request = client.build_request("GET", "/")
    del request.headers["accept"]
    if accept:
        request.headers["accept"] = accept
    answer = client.send(request)
    assert answer.status_code == 200
    assert answer.content == b'{"message":"Immich ML"}'
    headers = {name: value for name, value in answer.headers.items() if name != "date"}
    assert headers == {"content-type": "application/json", "content-length": "23"}


def test_browsers_get_the_page_with_a_strict_policy(gateway: Any) -> None:
    client = gateway()
    answer = client.get("/", headers=BROWSER)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["vary"] == "Accept"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", answer.text)
    # Relative addresses alone: a proxy may serve the page below any path.
    assert not re.search(r"(?:src|href)=\"(?:/|https?:)", answer.text)
    again = client.get("/", headers=BROWSER | {"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_every_file_of_the_page_is_served_and_nothing_else(gateway: Any) -> None:
    client = gateway()
    types = {
        ".js": "text/javascript",
        ".css": "text/css",
        ".svg": "image/svg+xml",
        ".html": "text/html",
    }
    for file in PAGE.iterdir():
        answer = client.get(f"/page/{file.name}")
        assert answer.content == file.read_bytes()
        assert answer.headers["content-type"].split(";")[0] == types[file.suffix]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-cache"
    for name in ("missing.js", "..%2fapp.py", "%2e%2e%2fapp.py", "../app.py", ""):
        assert client.get(f"/page/{name}").status_code == 404


def test_no_script_makes_markup_of_data() -> None:
    for file in PAGE.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|createContextualFragment"
            r"|\beval\b|new Function|setAttribute\(.style|style: `",
            file.read_text(),
        ), file.name


def test_the_scripts_texts_are_there_in_both_languages() -> None:
    text = (PAGE / "i18n.js").read_text()
    chinese, english = text.split("  en: {")
    keys = re.compile(r"(?:^|[ ,{])(\w+): [\"\[]", re.M)
    assert set(keys.findall(chinese)) == set(keys.findall(english.split("};")[0]))
    used = set()
    for file in PAGE.glob("*.js"):
        used |= set(re.findall(r"\bt\(\"(\w+)\"", file.read_text()))
    assert used <= set(keys.findall(chinese))


# Folder mode


@pytest.fixture
def folder(
    gateway: Any, empty_database: str, tmp_path: Path, engine: Any
) -> Iterator[SimpleNamespace]:
    """A gateway on a folder with three photos and one that is damaged."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in (RED, BLUE, INVOICE):
        (photos / name).write_bytes((SAMPLES / name).read_bytes())
    (photos / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than that")
    with connect(empty_database) as db:
        create_library_tables(db)
        migrate(db)
        db.execute(
            "SELECT indexer_v1.use_clip_model(%s, %s)",
            [engine.clip_info.name, engine.clip_info.dim],
        )
        scan(db, photos)
        ids = dict(db.execute('SELECT "originalFileName", id FROM asset').fetchall())
        client = gateway(database=Database(empty_database), photos_dir=photos)
        yield SimpleNamespace(client=client, ids=ids, db=db, photos=photos)


def write_line(db: Any, asset: uuid.UUID, text: str) -> None:
    box = [0.1, 0.1, 0.5, 0.1, 0.5, 0.2, 0.1, 0.2]
    write_text(db, asset, text, {"text": text, "box": box, "text_score": 0.9})


def test_the_page_of_a_folder_is_for_this_computer(folder: SimpleNamespace) -> None:
    asset = folder.ids[RED]
    paths = ("/", "/page/app.js", "/session", f"/assets/{asset}", f"/assets/{asset}/thumbnail",
             "/filters", "/index", "/events")  # fmt: skip
    for path in paths:
        for host, expected in (("evil.example", 403), ("127.0.0.1:3003", 200)):
            if path == "/events" and expected == 200:
                continue
            assert raw_get(folder.client, path, {"Host": host, **BROWSER}) == expected, path
    for path, body in (("/photos", {}), ("/index/retry", {}), ("/session", {"key": "k"})):
        answer = folder.client.post(path, json=body, headers={"host": "evil.example"})
        assert answer.status_code in {403, 501}, path
    # What Immich asks is answered under any name.
    assert raw_get(folder.client, "/", {"Host": "evil.example", "Accept": "*/*"}) == 200


def test_newest_photos_with_sizes_and_pages(folder: SimpleNamespace) -> None:
    answer = folder.client.post("/photos", json={"limit": 3}).json()
    assert (len(answer["results"]), answer["next_offset"]) == (3, 3)
    rest = folder.client.post("/photos", json={"limit": 3, "offset": 3}).json()
    assert (len(rest["results"]), rest["next_offset"]) == (1, None)
    found = {one["file_name"]: one for one in answer["results"] + rest["results"]}
    assert found.keys() == folder.ids.keys()
    with Image.open(SAMPLES / INVOICE) as image:
        assert (found[INVOICE]["width"], found[INVOICE]["height"]) == image.size
    assert found["damaged.jpg"]["width"] is None
    nothing = folder.client.post(
        "/photos", json={"filter": {"takenBefore": "2001-01-01T00:00:00Z"}}
    )
    assert nothing.json() == {"results": [], "next_offset": None}
    refused = folder.client.post("/photos", json={"filter": {"albumIds": [str(uuid.uuid4())]}})
    assert refused.status_code == 422


@pytest.mark.parametrize(("size", "box"), [("thumbnail", (960, 480)), ("preview", (2560, 1440))])
def test_pictures_are_small_and_asked_for_again(
    folder: SimpleNamespace, size: str, box: tuple[int, int]
) -> None:
    path = f"/assets/{folder.ids[INVOICE]}/thumbnail?size={size}"
    answer = folder.client.get(path)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    with Image.open(io.BytesIO(answer.content)) as made, Image.open(SAMPLES / INVOICE) as whole:
        assert made.width <= box[0]
        assert made.height <= box[1]
        assert made.width / made.height == pytest.approx(whole.width / whole.height, rel=0.01)
    again = folder.client.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    (folder.photos / INVOICE).write_bytes((SAMPLES / RED).read_bytes())
    changed = folder.client.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert changed.status_code == 200
    assert changed.headers["etag"] != answer.headers["etag"]


def test_pictures_that_can_not_be_made(folder: SimpleNamespace) -> None:
    damaged = folder.client.get(f"/assets/{folder.ids['damaged.jpg']}/thumbnail")
    assert damaged.status_code == 400
    assert damaged.headers["content-type"] == "application/json"
    (folder.photos / RED).unlink()
    assert folder.client.get(f"/assets/{folder.ids[RED]}/thumbnail").status_code == 404
    assert folder.client.get(f"/assets/{uuid.uuid4()}/thumbnail").status_code == 404
    (folder.photos / RED).symlink_to(SAMPLES / RED)  # a picture, but not of this folder
    assert folder.client.get(f"/assets/{folder.ids[RED]}/thumbnail").status_code == 404


def test_one_photo_with_its_text_and_what_matches(folder: SimpleNamespace) -> None:
    asset = folder.ids[INVOICE]
    write_line(folder.db, asset, "电子发票")
    folder.db.execute(
        "UPDATE indexer_v1.job SET dead_at = now(), last_error = 'too dark'"
        " WHERE asset_id = %s AND task = 'clip'",
        [asset],
    )
    photo = folder.client.get(f"/assets/{asset}", params={"q": "发票 \x00"}).json()
    assert [line["text"] for line in photo["lines"]] == ["电子发票"]
    assert len(photo["lines"][0]["box"]) == 8
    assert [(m["line"], m["marks"]) for m in photo["matches"]] == [(1, [[2, 4]])]
    assert photo["mine"] is True
    assert photo["embedded_at"] is None
    states = {job["task"]: (job["state"], job["reason"]) for job in photo["jobs"]}
    assert states == {"ocr": ("waiting", None), "clip": ("dead", "too dark")}
    assert folder.client.get(f"/assets/{asset}").json()["matches"] == []


def test_similar_photos(folder: SimpleNamespace, engine: Any) -> None:
    for name, shows in ((RED, "红色的圆"), (INVOICE, "红色的正方形"), (BLUE, "蓝色的正方形")):
        embed(folder.db, engine, folder.ids[name], shows)
    like = str(folder.ids[RED])
    folder.db.execute("INSERT INTO indexer_v1.setting VALUES ('max_distance', '2')")
    answer = folder.client.post("/search", json={"q": "", "like": like}).json()
    # Itself left out.
    assert [one["file_name"] for one in answer["results"]] == [INVOICE, BLUE]
    distances = [one["vector_distance"] for one in answer["results"]]
    assert distances == sorted(distances)
    assert answer["picture_search"] is True
    first = folder.client.post("/search", json={"q": "", "like": like, "limit": 2}).json()
    second = folder.client.post("/search", json={"q": "", "like": like, "limit": 2, "offset": 2})
    pages = first["results"] + second.json()["results"]
    assert [one["file_name"] for one in pages] == [INVOICE, BLUE]
    # What is too far away for a search is so here.
    between = str(sum(distances) / 2)
    folder.db.execute(
        "UPDATE indexer_v1.setting SET value = %s WHERE name = 'max_distance'", [between]
    )
    answer = folder.client.post("/search", json={"q": "", "like": like}).json()
    assert [one["file_name"] for one in answer["results"]] == [INVOICE]
    folder.db.execute("DELETE FROM indexer_v1.setting WHERE name = 'max_distance'")
    unknown = folder.client.post("/search", json={"q": "", "like": str(uuid.uuid4())})
    assert unknown.status_code == 404
    not_yet = folder.client.post("/search", json={"q": "", "like": str(folder.ids["damaged.jpg"])})
    assert not_yet.json()["picture_search"] is False


# Attached to Immich


@pytest.fixture
def house(gateway: Any, indexed_immich: FakeImmich) -> Iterator[SimpleNamespace]:
    """Anna (who runs the server), Boris (who shares with her), Clara; a photo or more of each."""
    immich = indexed_immich
    people = {
        name: immich.add_user(name, admin=name == "anna") for name in ("anna", "boris", "clara")
    }
    immich.partner(people["boris"], people["anna"])
    red, blue = (SAMPLES / RED).read_bytes(), (SAMPLES / BLUE).read_bytes()
    ids = {
        name: immich.upload(red, owner=owner, name=f"{name}.jpg") for name, owner in people.items()
    }
    for kind in ("hidden", "locked"):
        ids[kind] = immich.upload(
            blue + kind.encode(), owner=people["anna"], name=f"{kind}.jpg", visibility=kind
        )
    ids["trashed"] = immich.upload(blue, owner=people["anna"], name="trashed.jpg")
    immich.trash(ids["trashed"])
    ids["archived"] = immich.upload(
        blue + b"archive", owner=people["anna"], name="archived.jpg", visibility="archive"
    )
    state = SimpleNamespace(thumbnail=Answer(404))

    def answer(request: Received) -> Answer:
        sent = request.headers
        token = sent.get("cookie", "").removeprefix("immich_access_token=")
        name = (sent.get("x-api-key") or token).removesuffix("-key")
        if name not in people:
            return Answer.json({"message": "no"}, 401)
        if request.path == "/api/users/me":
            me = {"id": str(people[name]), "name": name.title(), "isAdmin": name == "anna"}
            return Answer.json(me)
        if request.path == "/api/api-keys/me":
            return Answer.json(
                {"permissions": ["user.read", "asset.read", "asset.view", "job.create"]}
            )
        assert "/thumbnail?size=" in request.path
        return state.thumbnail

    with Peer(answer) as peer, connect(immich.url) as db:

        def start(**changed: Any) -> httpx.Client:
            client: httpx.Client = gateway(
                database=Database(immich.url), db_url=immich.url, immich_url=peer.url, **changed
            )
            return client

        yield SimpleNamespace(
            client=start(), start=start, ids=ids, people=people, immich=immich, peer=peer, db=db,
            state=state,
        )  # fmt: skip


def key(name: str) -> dict[str, str]:
    return {"x-api-key": f"{name}-key"}


SEEN = {
    "anna": {"anna", "boris", "archived"},
    "boris": {"boris"},
    "clara": {"clara"},
}


def test_everybody_sees_the_pictures_that_a_search_would_find(house: SimpleNamespace) -> None:
    for name, seen in SEEN.items():
        listed = house.client.post("/photos", json={}, headers=key(name)).json()["results"]
        assert {one["file_name"] for one in listed} == {f"{photo}.jpg" for photo in seen}
        for photo, asset in house.ids.items():
            expected = 200 if photo in seen else 404
            for path in (f"/assets/{asset}", f"/assets/{asset}/thumbnail"):
                answer = house.client.get(path, headers=key(name))
                assert answer.status_code == expected, (name, photo, path)
            like = house.client.post(
                "/search", json={"q": "", "like": str(asset)}, headers=key(name)
            )
            assert like.status_code == expected, (name, photo)
            if expected == 404:
                events = house.client.get(f"/events?asset={asset}", headers=key(name))
                assert events.status_code == 404
    # An ETag that somebody else was given opens nothing.
    path = f"/assets/{house.ids['anna']}/thumbnail"
    etag = house.client.get(path, headers=key("anna")).headers["etag"]
    assert house.client.get(path, headers=key("clara") | {"if-none-match": etag}).status_code == 404
    for path in (f"/assets/{house.ids['anna']}", "/filters", "/index", "/events"):
        assert house.client.get(path).status_code == 401


def test_only_ones_own_photos_are_to_be_redone(house: SimpleNamespace) -> None:
    mine = house.client.get(f"/assets/{house.ids['anna']}", headers=key("anna")).json()
    partners = house.client.get(f"/assets/{house.ids['boris']}", headers=key("anna")).json()
    assert (mine["mine"], partners["mine"]) == (True, False)
    assert (mine["width"], mine["height"]) != (None, None)


def test_a_link_out_of_the_media_folder_is_not_followed(house: SimpleNamespace) -> None:
    """Immich is asked, and says what it shows there."""
    asset = house.ids["anna"]
    here = house.immich.preview_path(asset)
    outside = house.immich.media_dir.parent / "outside.jpg"
    here.rename(outside)
    path = f"/assets/{asset}/thumbnail"
    here.symlink_to(outside)
    assert house.client.get(path, headers=key("anna")).status_code == 502
    here.unlink()
    outside.rename(here)
    assert house.client.get(path, headers=key("anna")).status_code == 200


def test_without_the_media_folder_pictures_come_from_immich(house: SimpleNamespace) -> None:
    client = house.start(media_map="/=/nowhere")
    path = f"/assets/{house.ids['anna']}/thumbnail?size=preview"
    refused = client.get(path, headers=key("anna"))
    assert refused.status_code == 502
    assert "MEDIA_MAP" in refused.json()["detail"]
    house.state.thumbnail = Answer(200, (SAMPLES / RED).read_bytes(), {"content-type": "text/html"})
    answer = client.get(path, headers=key("anna"))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    asked = house.peer.received[-1]
    assert asked.path == f"/api/assets/{house.ids['anna']}/thumbnail?size=preview&edited=true"
    assert asked.headers["x-api-key"] == "anna-key"
    again = client.get(path, headers=key("anna") | {"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304
    # Immich is asked for nothing that isn't the caller's to see.
    count = len(house.peer.received)
    assert client.get(path, headers=key("clara")).status_code == 404
    asked_for = [r.path for r in house.peer.received[count:]]
    assert asked_for == ["/api/users/me", "/api/api-keys/me"]
    house.state.thumbnail = Answer(200, b"<script>", {"content-type": "image/jpeg"})
    assert client.get(path, headers=key("anna")).status_code == 400
    large = house.start(media_map="/=/nowhere", max_image_bytes=100)
    house.state.thumbnail = Answer(200, b"x" * 10_000, {"content-type": "image/jpeg"})
    assert large.get(path, headers=key("anna")).status_code == 502


# Signing in


def test_signing_in_by_a_key(house: SimpleNamespace) -> None:
    client = house.client
    assert client.get("/session").json() == {
        "mode": "immich", "signed_in": False, "name": "", "admin": False, "by_key": False,
    }  # fmt: skip
    for wrong in ("wrong", "", "a,b; c=d\r\nX: y", "k" * 4000):
        assert client.post("/session", json={"key": wrong}).status_code == 401
        assert not client.cookies
    across = {"sec-fetch-site": "cross-site"}
    assert client.post("/session", json={"key": "anna-key"}, headers=across).status_code == 403
    signed = client.post("/session", json={"key": " anna-key "})
    expected = {"mode": "immich", "signed_in": True, "name": "Anna", "admin": True, "by_key": True}
    assert signed.json() == expected
    attributes = {part.strip().lower() for part in signed.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "max-age=2592000"} <= attributes
    assert not any(part.startswith(("path=/", "domain", "secure")) for part in attributes)
    assert client.get("/session").json() == expected
    assert len(client.post("/photos", json={}).json()["results"]) == 3
    # A session of Immich's that is over doesn't stand in the way.
    both = {"cookie": f"{KEY_COOKIE}=anna-key; immich_access_token=over"}
    assert client.get("/index", headers=both).status_code == 200

    assert client.delete("/session", headers=across).status_code == 403
    assert client.delete("/session").status_code == 200
    assert not client.cookies
    assert client.get("/session").json()["signed_in"] is False


def test_over_https_the_cookie_stays_there(house: SimpleNamespace) -> None:
    host = urlsplit(str(house.client.base_url)).netloc
    headers = {"origin": f"https://{host}", "sec-fetch-site": "same-origin"}
    signed = house.client.post("/session", json={"key": "boris-key"}, headers=headers)
    assert "secure" in signed.headers["set-cookie"].lower()


def test_immichs_own_session_is_enough(house: SimpleNamespace) -> None:
    answer = house.client.get("/session", headers={"cookie": "immich_access_token=boris-key"})
    assert answer.json() == {
        "mode": "immich", "signed_in": True, "name": "Boris", "admin": False, "by_key": False,
    }  # fmt: skip


# The index


def test_figures_and_failures_are_for_who_may_see_them(house: SimpleNamespace) -> None:
    for name in ("anna", "boris", "clara"):
        house.db.execute(
            "UPDATE indexer_v1.job SET dead_at = now(), last_error = 'damaged'"
            " WHERE asset_id = %s AND task = 'ocr'",
            [house.ids[name]],
        )
    house.db.execute(
        "INSERT INTO indexer_v1.worker (id, host, pid, device, rate)"
        " VALUES (gen_random_uuid(), 'attic', 7, 'cpu', 2)"
    )
    anna = house.client.get("/index", headers=key("anna")).json()
    assert (anna["everybody"], anna["photos"]) == (True, 7)
    assert [worker["host"] for worker in anna["workers"]] == ["attic"]
    (group,) = anna["failures"]
    assert (group["task"], group["reason"], group["photos"]) == ("ocr", "damaged", 3)
    assert group["examples"] == [[str(house.ids["anna"]), "anna.jpg"]]

    clara = house.client.get("/index", headers=key("clara")).json()
    assert (clara["everybody"], clara["photos"], clara["working"]) == (False, 1, 1)
    assert (clara["workers"], clara["rate"]) == ([], 2.0)
    assert [f["examples"] for f in clara["failures"]] == [[[str(house.ids["clara"]), "clara.jpg"]]]
    tasks = {task["task"]: task for task in clara["tasks"]}
    assert (tasks["ocr"]["failed"], tasks["clip"]["waiting"]) == (1, 1)
    assert "attic" not in json.dumps(clara)

    def dead() -> int:
        row = house.db.execute("SELECT count(*) FROM indexer_v1.job WHERE dead_at IS NOT NULL")
        return int(row.fetchone()[0])

    def retry(name: str, **body: Any) -> int:
        answer = house.client.post("/index/retry", json=body, headers=key(name))
        assert answer.status_code == 202
        return int(answer.json()["jobs"])

    assert retry("clara", task="clip", reason="damaged") == 0
    assert retry("clara", reason="other") == 0
    assert (retry("clara", task="ocr", reason="damaged"), dead()) == (1, 2)
    assert (retry("boris"), dead()) == (1, 1)
    across = key("anna") | {"origin": "http://evil.example"}
    assert house.client.post("/index/retry", json={}, headers=across).status_code == 403
    house.db.execute("UPDATE indexer_v1.job SET dead_at = now() WHERE task = 'ocr'")
    assert (retry("anna"), dead()) == (7, 0)


# Events


class Watching:
    """Reads a stream of events in a thread."""

    def __init__(self, client: httpx.Client, path: str, headers: dict[str, str]) -> None:
        self.events: list[tuple[str, Any]] = []
        self.opened = threading.Event()
        self.ended = threading.Event()
        self._thread = threading.Thread(
            target=self._read, args=(client, path, headers), daemon=True
        )
        self._thread.start()
        assert self.opened.wait(30)

    def _read(self, client: httpx.Client, path: str, headers: dict[str, str]) -> None:
        url = client.base_url.join(path)
        with httpx.stream("GET", url, headers=headers, timeout=60, trust_env=False) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            self.opened.set()
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    self.events.append((name, json.loads(line.removeprefix("data: "))))
        self.ended.set()

    def wait_for(self, name: str, count: int = 1) -> None:
        until = time.monotonic() + 30
        while sum(event == name for event, _ in self.events) < count:
            assert time.monotonic() < until, self.events
            time.sleep(0.02)

    def jobs(self) -> list[tuple[str, str]]:
        return [(e["asset_id"], e["state"]) for name, e in self.events if name == "job"]


@contextmanager
def own_gateway(settings: Any, engine: Any, house: SimpleNamespace) -> Iterator[httpx.Client]:
    """One whose end the test sees."""
    changed = msgspec.structs.replace(settings, db_url=house.immich.url, immich_url=house.peer.url)
    with (
        running(create_app(changed, engine, Database(house.immich.url)), changed) as url,
        httpx.Client(base_url=url, timeout=60, trust_env=False) as client,
    ):
        yield client


def test_events_reach_who_watches_and_a_server_that_stops_waits_for_nobody(
    house: SimpleNamespace, settings: Any, engine: Any
) -> None:
    def finish(asset: uuid.UUID) -> None:
        house.db.execute("SELECT indexer_v1.announce('done', ARRAY[%s::uuid], '{ocr}')", [asset])

    with own_gateway(settings, engine, house) as client:
        anna = Watching(client, f"/events?asset={house.ids['anna']}", key("anna"))
        clara = Watching(client, f"/events?asset={house.ids['clara']}", key("clara"))
        index = Watching(client, "/events", key("clara"))
        for one in (anna, clara, index):
            one.wait_for("resync")
        finish(house.ids["clara"])
        finish(house.ids["anna"])
        for one in (anna, clara, index):
            one.wait_for("queue")
        anna.wait_for("job")
        assert anna.jobs() == [(str(house.ids["anna"]), "done")]
        clara.wait_for("job")
        assert clara.jobs() == [(str(house.ids["clara"]), "done")]
        assert index.jobs() == []
        listeners = house.db.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'immich-indexer listener'"
            " AND datname = current_database()"
        ).fetchall()
        assert len(listeners) == 1

        # A lost connection is made again, and everybody is told to look.
        house.db.execute("SELECT pg_terminate_backend(%s)", [listeners[0][0]])
        anna.wait_for("resync", 2)
        finish(house.ids["anna"])
        anna.wait_for("job", 2)
        # Nonsense on the channel harms nobody; bursts are one event.
        before = sum(name == "queue" for name, _ in index.events)
        for _ in range(50):
            house.db.execute("NOTIFY indexer_v1_events, 'nonsense'")
            house.db.execute("NOTIFY indexer_v1")
        index.wait_for("queue", before + 1)
        finish(house.ids["anna"])
        anna.wait_for("job", 3)
        assert sum(name == "queue" for name, _ in index.events) <= before + 3
        began = time.monotonic()
    # As long as it takes, but not the thirty seconds that requests get to end.
    assert time.monotonic() - began < 20
    for one in (anna, clara, index):
        assert one.ended.wait(10)


def test_nobody_listens_where_nobody_watches(
    house: SimpleNamespace, settings: Any, engine: Any
) -> None:
    def listeners() -> int:
        row = house.db.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'immich-indexer listener' AND datname = current_database()"
        ).fetchone()
        return int(row[0])

    with own_gateway(settings, engine, house) as client:
        assert listeners() == 0
        url = client.base_url.join("/events")
        with httpx.stream("GET", url, headers=key("anna"), trust_env=False) as answer:
            lines = answer.iter_lines()
            while next(lines) != "event: resync":
                pass
            assert listeners() == 1
        until = time.monotonic() + 30
        while listeners():
            assert time.monotonic() < until
            time.sleep(0.05)
