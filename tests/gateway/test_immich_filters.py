"""Every field of Immich's search that is answered here, against brute force."""

import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from immich_server import ImmichServer, assets_of

from gateway import immich_search
from gateway.app import create_app
from gateway.database import Database
from gateway.server import running
from immich.base import Connection, load_schema
from indexer.models.engine import Engine
from indexer.models.types import Lane
from indexer.settings import Settings
from pg.connect import connect
from pg.migrate import migrate

ANNA, BORIS, CLARA, DORA = (uuid.UUID(int=n) for n in (1, 2, 3, 4))
DAY = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
PHOTOS = 300
SHOWS = ["红色的圆", "蓝色的正方形", "绿色的三角形"]


def ids(count: int) -> list[uuid.UUID]:
    return [uuid.uuid4() for _ in range(count)]


@dataclass
class Photo:
    id: uuid.UUID
    owner: uuid.UUID
    visibility: str
    trashed: bool
    kind: str
    favorite: bool
    offline: bool
    motion: bool
    library: uuid.UUID | None
    taken: datetime
    created: datetime
    updated: datetime
    exif: dict[str, Any]
    text: str
    shows: str
    albums: set[uuid.UUID] = field(default_factory=set)
    people: set[uuid.UUID] = field(default_factory=set)
    tags: set[uuid.UUID] = field(default_factory=set)


@dataclass
class World:
    photos: list[Photo]
    albums: list[uuid.UUID]
    people: list[uuid.UUID]
    tags: list[uuid.UUID]
    libraries: list[uuid.UUID]
    client: httpx.Client
    server: ImmichServer


def some(dice: random.Random, among: list[uuid.UUID]) -> set[uuid.UUID]:
    return {one for one in among if dice.random() < 0.4}


def make_photos(dice: random.Random, world: dict[str, list[uuid.UUID]]) -> list[Photo]:
    return [
        Photo(
            id=uuid.uuid4(),
            owner=dice.choices([ANNA, BORIS, CLARA, DORA], [5, 2, 2, 1])[0],
            visibility=dice.choices(["timeline", "archive", "hidden", "locked"], [6, 3, 1, 1])[0],
            trashed=dice.random() < 0.1,
            kind=dice.choice(["IMAGE", "IMAGE", "VIDEO"]),
            favorite=dice.random() < 0.4,
            offline=dice.random() < 0.2,
            motion=dice.random() < 0.3,
            library=dice.choice([None, *world["libraries"]]),
            taken=DAY + timedelta(days=dice.randrange(6)),
            created=DAY + timedelta(days=dice.randrange(6)),
            updated=DAY + timedelta(days=dice.randrange(6)),
            exif={
                "city": dice.choice(["北京", "O'Hara\\", None]),
                "state": dice.choice(["河北", None]),
                "country": dice.choice(["中国", "法国", None]),
                "make": dice.choice(["Canon", None]),
                "model": dice.choice(["EOS R5", "X100", None]),
                "lensModel": dice.choice(["50mm", None]),
                "rating": dice.choice([1, 5, None]),
            },
            text=dice.choice(["发票 出口", "发票", "收据", ""]),
            shows=dice.choice(SHOWS),
            albums=some(dice, world["albums"]),
            people=some(dice, world["people"]),
            tags=some(dice, world["tags"]),
        )
        for _ in range(PHOTOS)
    ]


def fill(connection: Connection, photos: list[Photo], world: Any, engine: Engine) -> None:
    cursor = connection.cursor()
    video = uuid.uuid4()
    cursor.executemany(
        'INSERT INTO "user" (id, email, name) VALUES (%s, %s, %s)',
        [(user, f"{user}@x", str(user)) for user in (ANNA, BORIS, CLARA, DORA)],
    )
    cursor.executemany(
        'INSERT INTO partner ("sharedById", "sharedWithId", "inTimeline") VALUES (%s, %s, %s)',
        [(BORIS, ANNA, True), (CLARA, ANNA, False), (ANNA, DORA, True)],
    )
    cursor.executemany(
        "INSERT INTO album (id, \"albumName\") VALUES (%s, 'x')", [(a,) for a in world["albums"]]
    )
    cursor.executemany(
        'INSERT INTO person (id, "ownerId") VALUES (%s, %s)', [(p, ANNA) for p in world["people"]]
    )
    cursor.executemany(
        'INSERT INTO tag (id, value, "userId") VALUES (%s, %s, %s)',
        [(t, str(t), ANNA) for t in world["tags"]],
    )
    # each tag is above the next one
    cursor.executemany(
        "INSERT INTO tag_closure (id_ancestor, id_descendant) VALUES (%s, %s)",
        [(a, d) for n, a in enumerate(world["tags"]) for d in world["tags"][n:]],
    )
    asset = (
        'INSERT INTO asset (id, "ownerId", type, "originalPath", "originalFileName",'
        ' "fileCreatedAt", "fileModifiedAt", "localDateTime", checksum, "checksumAlgorithm",'
        ' visibility, "deletedAt", "isFavorite", "isOffline", "livePhotoVideoId", "libraryId",'
        ' "createdAt", "updatedAt") VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, \'sha1\','
        " %s::asset_visibility_enum, %s, %s, %s, %s, %s, %s, %s)"
    )
    cursor.execute(
        asset,
        [video, DORA, "VIDEO", "/v", "v", DAY, DAY, DAY, video.bytes, "hidden", None, False, False,
         None, None, DAY, DAY],
    )  # fmt: skip
    cursor.executemany(
        asset,
        [
            (p.id, p.owner, p.kind, f"/{p.id}", f"{p.id}.jpg", p.taken, DAY, DAY, p.id.bytes,
             p.visibility, DAY if p.trashed else None, p.favorite, p.offline,
             video if p.motion else None, p.library, p.created, p.updated)
            for p in photos
        ],
    )  # fmt: skip
    names = list(photos[0].exif)
    cursor.executemany(
        f'INSERT INTO asset_exif ("assetId", {", ".join(f"{n!r}" for n in names)}) VALUES'.replace(
            "'", '"'
        )
        + f" (%s{', %s' * len(names)})",
        [(p.id, *p.exif.values()) for p in photos],
    )
    for table, column, of in (
        ("album_asset", "albumId", "albums"),
        ("asset_face", "personId", "people"),
        ("tag_asset", "tagId", "tags"),
    ):
        cursor.executemany(
            f'INSERT INTO {table} ("assetId", "{column}") VALUES (%s, %s)',
            [(p.id, one) for p in photos for one in getattr(p, of)],
        )
    # faces that don't count: taken away, or cut away by an edit
    cursor.executemany(
        'INSERT INTO asset_face ("assetId", "personId", "deletedAt", "isVisible")'
        " VALUES (%s, %s, %s, %s)",
        [
            (p.id, one, None if n % 2 else DAY, not n % 2)
            for n, p in enumerate(photos)
            for one in set(world["people"]) - p.people
        ],
    )
    cursor.executemany(
        "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash)"
        " VALUES (%s, %s, '[]', indexer_v1.to_tsvector(%s), indexer_v1.tokenizer(), 'm',"
        " sha256('x'))",
        [(p.id, p.text, p.text) for p in photos],
    )
    vectors = {s: str(engine.embed_text(s, Lane.BULK).result().tolist()) for s in SHOWS}
    cursor.executemany(
        "INSERT INTO indexer_v1.clip (asset_id, embedding, model, content_hash)"
        " VALUES (%s, %s::halfvec, 'm', sha256('x'))",
        [(p.id, vectors[p.shows]) for p in photos],
    )
    connection.execute("ANALYZE")


@pytest.fixture(scope="module", autouse=True)
def patient() -> Iterator[None]:
    """However busy this machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(immich_search, "_SECONDS", 60.0)
        yield


@pytest.fixture(scope="module")
def world(databases: Any, settings: Settings, engine: Engine) -> Iterator[World]:
    things = {
        "albums": ids(2), "people": ids(2), "tags": ids(2), "libraries": ids(2)
    }  # fmt: skip
    photos = make_photos(random.Random(5), things)

    def build(connection: Connection) -> None:
        load_schema(connection)
        migrate(connection)

    url = databases.fresh("immich filters", build)
    with connect(url) as connection:
        connection.execute(
            "SELECT indexer_v1.use_clip_model(%s, %s)",
            [engine.clip_info.name, engine.clip_info.dim],
        )
        fill(connection, photos, things, engine)
    with ImmichServer(url, {"anna": ANNA, "clara": CLARA}) as server:
        chosen = msgspec.structs.replace(settings, db_url=url, immich_url=server.url)
        with (
            running(create_app(chosen, engine, Database(url)), chosen) as gateway,
            httpx.Client(base_url=gateway, timeout=60, trust_env=False) as client,
        ):
            client.headers["x-api-key"] = "anna"
            yield World(photos, client=client, server=server, **things)
    databases.drop(url)


def all_pages(world: World, path: str, request: dict[str, Any]) -> list[str]:
    """Ids of everything that is found, scrolled through as Immich's clients do."""
    found: list[str] = []
    page = "1"
    while page:
        sent = {**request, "page": int(page)}
        answer = world.client.post(path, json=sent)
        assert answer.headers["x-search-by"] == "immich-indexer", (sent, answer.text)
        assets = assets_of(answer)
        assert len(assets["items"]) <= request.get("size", 100)
        found += [item["id"] for item in assets["items"]]
        page = assets["nextPage"]
    assert len(set(found)) == len(found), "nothing comes twice"
    return found


def in_scope(photo: Photo, visibility: str | None = "timeline") -> bool:
    return (
        photo.owner in (ANNA, BORIS)
        and not photo.trashed
        and photo.visibility == (visibility or "timeline")
    )


Rule = Callable[[World, Photo], bool]
Field = tuple[Callable[[World], dict[str, Any]], Rule]


def at(day: int, moment: str = "T12:00:00.123Z") -> str:
    return f"2024-05-0{day}{moment}"


def day_of(instant: datetime) -> int:
    return instant.day


FIELDS: dict[str, Field] = {
    "type": (lambda w: {"type": "VIDEO"}, lambda w, p: p.kind == "VIDEO"),
    "image": (lambda w: {"type": "IMAGE"}, lambda w, p: p.kind == "IMAGE"),
    "isFavorite": (lambda w: {"isFavorite": True}, lambda w, p: p.favorite),
    "not isFavorite": (lambda w: {"isFavorite": False}, lambda w, p: not p.favorite),
    "isMotion": (lambda w: {"isMotion": True}, lambda w, p: p.motion),
    "not isMotion": (lambda w: {"isMotion": False}, lambda w, p: not p.motion),
    "not isOffline": (lambda w: {"isOffline": False}, lambda w, p: not p.offline),
    "isNotInAlbum": (lambda w: {"isNotInAlbum": True}, lambda w, p: not p.albums),
    "not isNotInAlbum": (lambda w: {"isNotInAlbum": False}, lambda w, p: True),
    "albumIds": (lambda w: {"albumIds": [str(w.albums[0])]}, lambda w, p: w.albums[0] in p.albums),
    "two albums": (
        lambda w: {"albumIds": [str(a) for a in w.albums]}, lambda w, p: p.albums == set(w.albums)
    ),
    "no albumIds": (lambda w: {"albumIds": []}, lambda w, p: True),
    "personIds": (
        lambda w: {"personIds": [str(w.people[1])]}, lambda w, p: w.people[1] in p.people
    ),
    "two people": (
        lambda w: {"personIds": [str(a) for a in w.people]}, lambda w, p: p.people == set(w.people)
    ),
    "no personIds": (lambda w: {"personIds": []}, lambda w, p: True),
    "tagIds": (lambda w: {"tagIds": [str(w.tags[1])]}, lambda w, p: w.tags[1] in p.tags),
    "a tag above another": (lambda w: {"tagIds": [str(w.tags[0])]}, lambda w, p: bool(p.tags)),
    "two tags": (
        lambda w: {"tagIds": [str(t) for t in w.tags]}, lambda w, p: w.tags[1] in p.tags
    ),
    "untagged": (lambda w: {"tagIds": None}, lambda w, p: not p.tags),
    "libraryId": (
        lambda w: {"libraryId": str(w.libraries[0])}, lambda w, p: p.library == w.libraries[0]
    ),
    # photos have 12:00:00.123456 of their day; JavaScript's milliseconds are before that
    "takenAfter": (lambda w: {"takenAfter": at(3)}, lambda w, p: day_of(p.taken) >= 3),
    "takenBefore": (lambda w: {"takenBefore": at(3)}, lambda w, p: day_of(p.taken) < 3),
    "createdAfter": (lambda w: {"createdAfter": at(3)}, lambda w, p: day_of(p.created) >= 3),
    "createdBefore": (lambda w: {"createdBefore": at(3)}, lambda w, p: day_of(p.created) < 3),
    "updatedAfter": (lambda w: {"updatedAfter": at(3)}, lambda w, p: day_of(p.updated) >= 3),
    "updatedBefore": (lambda w: {"updatedBefore": at(3)}, lambda w, p: day_of(p.updated) < 3),
    "takenAfter, cut to milliseconds": (
        lambda w: {"takenAfter": at(3, "T12:00:00.123999Z")}, lambda w, p: day_of(p.taken) >= 3
    ),
    "another time zone": (
        lambda w: {"takenBefore": "2024-05-03T20:00:00.123+08:00"},
        lambda w, p: day_of(p.taken) < 3,
    ),
    "city": (lambda w: {"city": "北京"}, lambda w, p: p.exif["city"] == "北京"),
    "a quoted city": (
        lambda w: {"city": "O'Hara\\"}, lambda w, p: p.exif["city"] == "O'Hara\\"
    ),
    "no city": (lambda w: {"city": None}, lambda w, p: p.exif["city"] is None),
    "state": (lambda w: {"state": "河北"}, lambda w, p: p.exif["state"] == "河北"),
    "no state": (lambda w: {"state": None}, lambda w, p: p.exif["state"] is None),
    "country": (lambda w: {"country": "法国"}, lambda w, p: p.exif["country"] == "法国"),
    "make": (lambda w: {"make": "Canon"}, lambda w, p: p.exif["make"] == "Canon"),
    "model": (lambda w: {"model": "X100"}, lambda w, p: p.exif["model"] == "X100"),
    "no model": (lambda w: {"model": None}, lambda w, p: p.exif["model"] is None),
    "lensModel": (lambda w: {"lensModel": "50mm"}, lambda w, p: p.exif["lensModel"] == "50mm"),
    "rating": (lambda w: {"rating": 5}, lambda w, p: p.exif["rating"] == 5),
    "unrated": (lambda w: {"rating": None}, lambda w, p: p.exif["rating"] is None),
    "nothing": (lambda w: {"albumIds": [str(uuid.uuid4())]}, lambda w, p: False),
    "language": (lambda w: {"language": "zh-CN"}, lambda w, p: True),
    "withDeleted": (lambda w: {"withDeleted": False}, lambda w, p: True),
}  # fmt: skip


def check(world: World, request: dict[str, Any], rule: Rule, visibility: str | None) -> None:
    """By text: exactly what the rule says. By both: the same, of all that is found without it."""
    through = {str(p.id) for p in world.photos if rule(world, p) and in_scope(p, visibility)}
    has_text = {str(p.id) for p in world.photos if "发票" in p.text}
    for path, typed in (
        ("/api/search/smart", {"query": "ocr:发票"}),
        ("/api/search/metadata", {"ocr": "发票"}),
    ):
        found = all_pages(world, path, {**typed, **request})
        assert set(found) == through & has_text, request
    seen_or_read = {str(p.id) for p in world.photos if p.shows == SHOWS[0]} | {
        str(p.id) for p in world.photos if "红色" in p.text
    }
    found = all_pages(world, "/api/search/smart", {"query": SHOWS[0], **request})
    assert set(found) == through & seen_or_read, request


@pytest.mark.parametrize("name", FIELDS)
def test_each_field(world: World, name: str) -> None:
    make, rule = FIELDS[name]
    check(world, {"visibility": "timeline", **make(world)}, rule, "timeline")


def test_some_of_each_are_found_and_some_are_not(world: World) -> None:
    """The other tests could not fail otherwise."""
    visible = [p for p in world.photos if in_scope(p)]
    for name, (_, rule) in FIELDS.items():
        share = sum(rule(world, p) for p in visible) / len(visible)
        if name not in {"nothing", "language", "withDeleted"} and not name.startswith("no"):
            assert 0.05 < share < 0.95, name


@pytest.mark.parametrize("seed", range(25))
def test_fields_together(world: World, seed: int) -> None:
    dice = random.Random(seed)
    request: dict[str, Any] = {"visibility": "timeline", "size": dice.choice([1, 7, 100, 1000])}
    rules: list[Rule] = []
    for name in dice.sample(list(FIELDS), dice.choice([2, 2, 3, 4])):
        asked, rule = FIELDS[name][0](world), FIELDS[name][1]
        if request.keys() & asked.keys():
            continue
        if {"albumIds", "isNotInAlbum"} <= request.keys() | asked.keys():
            continue
        request |= asked
        rules.append(rule)
    check(world, request, lambda w, p: all(rule(w, p) for rule in rules), "timeline")


def test_whose_photos(world: World) -> None:
    """One's own and those of partners in the timeline; none that are locked, hidden or trashed."""
    found = set(
        all_pages(world, "/api/search/smart", {"query": "ocr:发票", "visibility": "timeline"})
    )
    owners = {p.owner for p in world.photos if str(p.id) in found}
    assert owners == {ANNA, BORIS}
    assert {p.visibility for p in world.photos if str(p.id) in found} == {"timeline"}
    assert not any(p.trashed for p in world.photos if str(p.id) in found)


@pytest.mark.parametrize(
    ("chosen", "visibilities"),
    [
        ({"visibility": "archive"}, {"archive"}),
        ({"visibility": "timeline"}, {"timeline"}),
        ({}, {"timeline", "archive"}),
    ],
)
def test_visibility(world: World, chosen: dict[str, str], visibilities: set[str]) -> None:
    """Of Clara, with whom nobody shares."""
    world.client.headers["x-api-key"] = "clara"
    try:
        found = all_pages(world, "/api/search/smart", {"query": "ocr:发票", **chosen})
    finally:
        world.client.headers["x-api-key"] = "anna"
    assert set(found) == {
        str(p.id)
        for p in world.photos
        if p.owner == CLARA and not p.trashed and p.visibility in visibilities and "发票" in p.text
    }
    assert found


@pytest.mark.parametrize("chosen", [{"visibility": "archive"}, {}])
def test_partners_archived_photos_are_for_immich(world: World, chosen: dict[str, str]) -> None:
    """It finds them, and shows them in a search alone: not by id."""
    answer = world.client.post("/api/search/smart", json={"query": "ocr:发票", **chosen})
    assert answer.json() == {"stock": "搜索"}
