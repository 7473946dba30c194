"""Filters inside the search: exactly the photos that they say, on both sides, by the indexes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from assets import add_assets, add_owner

from immich.base import load_schema
from indexer import results
from pg.connect import Connection, connect
from pg.migrate import create_library_tables, migrate

DIM = 16
MANY = 8000


@dataclass(frozen=True)
class Photo:
    """What the filters ask for, and what the search ranks by."""

    owner: UUID
    taken: str
    kind: str
    favorite: bool
    visibility: str
    albums: frozenset[UUID]
    people: frozenset[UUID]
    tags: frozenset[UUID]
    city: str | None
    model: str | None
    rating: int | None
    text: str
    vector: list[float]


@dataclass(frozen=True)
class House:
    connection: Connection
    photos: dict[UUID, Photo]
    owners: list[UUID]
    albums: list[UUID]
    people: list[UUID]
    tags: list[UUID]


def some(dice: random.Random, among: list[UUID]) -> frozenset[UUID]:
    """The first of them often, each following one a tenth as often; several sometimes."""
    return frozenset(one for n, one in enumerate(among) if dice.random() < 0.3 * 0.1**n)


@pytest.fixture(scope="module")
def house(databases: Any) -> Iterator[House]:
    def build(connection: Connection) -> None:
        load_schema(connection)
        migrate(connection)
        results.use_clip_model(connection, "test", DIM)

    url = databases.fresh(f"clip of {DIM}", build)
    with connect(url) as connection:
        dice = random.Random(11)
        owners = [add_owner(connection) for _ in range(3)]
        albums, people, tags = ([uuid4() for _ in range(3)] for _ in range(3))
        connection.cursor().executemany(
            "INSERT INTO album (id, \"albumName\") VALUES (%s, 'x')", [(id_,) for id_ in albums]
        )
        connection.cursor().executemany(
            'INSERT INTO person (id, "ownerId") VALUES (%s, %s)',
            [(id_, owners[0]) for id_ in people],
        )
        photos = {}
        for owner, share in zip(owners, (0.9, 0.09, 0.01), strict=True):
            for asset in add_assets(connection, int(MANY * share), owner=owner, preview=False):
                photos[asset] = Photo(
                    owner=owner,
                    taken=f"20{dice.randrange(10, 25)}-{dice.randrange(1, 13):02}-15T12:00:00+00",
                    kind=dice.choice(["IMAGE"] * 9 + ["VIDEO"]),
                    favorite=dice.random() < 0.02,
                    visibility=dice.choice(["timeline"] * 8 + ["archive", "hidden"]),
                    albums=some(dice, albums),
                    people=some(dice, people),
                    tags=some(dice, tags),
                    city=dice.choice(["北京", "上海", None]),
                    model=dice.choice(["X100", "EOS R5"]),
                    rating=dice.choice([None, 1, 5]),
                    text=" ".join(dice.choices(["发票", "收据", "合计", "门票", "电话"], k=2)),
                    vector=[dice.gauss(0, 1) for _ in range(DIM)],
                )
        fill(connection, photos, tags)
        yield House(connection, photos, owners, albums, people, tags)
    databases.drop(url)


def fill(connection: Connection, photos: dict[UUID, Photo], tags: list[UUID]) -> None:
    def pairs(of: str) -> list[tuple[UUID, UUID]]:
        return [(one, asset) for asset, photo in photos.items() for one in getattr(photo, of)]

    cursor = connection.cursor()
    # a tag is below itself, and below its parent
    owner = next(iter(photos.values())).owner
    cursor.executemany(
        'INSERT INTO tag (id, value, "userId") VALUES (%s, %s, %s)',
        [(id_, str(id_), owner) for id_ in tags],
    )
    cursor.executemany("INSERT INTO tag_closure VALUES (%s, %s)", [(id_, id_) for id_ in tags])
    cursor.executemany(
        'UPDATE asset SET "fileCreatedAt" = %s, type = %s, "isFavorite" = %s,'
        " visibility = %s::asset_visibility_enum WHERE id = %s",
        [(p.taken, p.kind, p.favorite, p.visibility, id_) for id_, p in photos.items()],
    )
    connection.execute("DROP INDEX indexer_v1.clip_embedding_idx")  # faster built afterwards
    for table, columns, rows in (
        ("album_asset", '"albumId", "assetId"', pairs("albums")),
        ("asset_face", '"personId", "assetId"', pairs("people")),
        ("tag_asset", '"tagId", "assetId"', pairs("tags")),
        ("asset_exif", '"assetId", city, model, rating',
         [(i, p.city, p.model, p.rating) for i, p in photos.items()]),
        ("indexer_v1.clip", "asset_id, embedding, model, content_hash",
         [(i, str(p.vector), "test", bytes(32)) for i, p in photos.items()]),
    ):  # fmt: skip
        with cursor.copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row(row)
    connection.execute("SELECT indexer_v1.ensure_clip_index()")
    connection.execute(
        "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash)"
        " SELECT id, body, '[]', indexer_v1.to_tsvector(body), indexer_v1.tokenizer(), 'm',"
        " sha256('') FROM unnest(%s::uuid[], %s::text[]) AS t(id, body)",
        [list(photos), [p.text for p in photos.values()]],
    )
    connection.execute("VACUUM ANALYZE")


Says = Callable[[House, Photo], bool]
FILTERS: dict[str, tuple[Callable[[House], dict[str, Any]], Says]] = {
    "everything": (lambda h: {}, lambda h, p: True),
    "taken after": (lambda h: {"takenAfter": "2020-01-01"}, lambda h, p: p.taken > "2020"),
    "one month": (
        lambda h: {"takenAfter": "2020-05-15T12:00:00Z", "takenBefore": "2020-05-15T12:00:00Z"},
        lambda h, p: p.taken.startswith("2020-05"),
    ),
    "images": (lambda h: {"type": "IMAGE"}, lambda h, p: p.kind == "IMAGE"),
    "videos": (lambda h: {"type": "VIDEO"}, lambda h, p: p.kind == "VIDEO"),
    "favourites": (lambda h: {"isFavorite": True}, lambda h, p: p.favorite),
    "archive": (lambda h: {"visibility": "archive"}, lambda h, p: p.visibility == "archive"),
    "never hidden": (lambda h: {"visibility": ["hidden", "locked"]}, lambda h, p: False),
    "large album": (
        lambda h: {"albumIds": [str(h.albums[0])]}, lambda h, p: h.albums[0] in p.albums
    ),
    "small album": (
        lambda h: {"albumIds": [str(h.albums[2])]}, lambda h, p: h.albums[2] in p.albums
    ),
    "two albums": (
        lambda h: {"albumIds": [str(h.albums[0]), str(h.albums[1])]},
        lambda h, p: {h.albums[0], h.albums[1]} <= p.albums,
    ),
    "no album": (lambda h: {"isNotInAlbum": True}, lambda h, p: not p.albums),
    "person": (lambda h: {"personIds": [str(h.people[1])]}, lambda h, p: h.people[1] in p.people),
    "two people": (
        lambda h: {"personIds": [str(h.people[0]), str(h.people[1])]},
        lambda h, p: {h.people[0], h.people[1]} <= p.people,
    ),
    "tag": (lambda h: {"tagIds": [str(h.tags[1])]}, lambda h, p: h.tags[1] in p.tags),
    "city": (lambda h: {"city": "北京"}, lambda h, p: p.city == "北京"),
    "no city": (lambda h: {"city": None}, lambda h, p: p.city is None),
    "camera and rating": (
        lambda h: {"model": "X100", "rating": 5}, lambda h, p: (p.model, p.rating) == ("X100", 5)
    ),
    "nothing": (lambda h: {"city": "O'Hara\\"}, lambda h, p: False),
    "much together": (
        lambda h: {"type": "IMAGE", "city": "上海", "isFavorite": True, "rating": None},
        lambda h, p: p.kind == "IMAGE" and p.city == "上海" and p.favorite and p.rating is None,
    ),
}  # fmt: skip


def asked(house: House, name: str, owner: int | None) -> tuple[dict[str, Any], set[UUID]]:
    """The filter, and whom it lets through."""
    make, says = FILTERS[name]
    through = {
        id_
        for id_, photo in house.photos.items()
        if says(house, photo)
        and photo.visibility in ("timeline", "archive")
        and (owner is None or photo.owner == house.owners[owner])
    }
    return make(house), through


def search(
    house: House, query: str | None, chosen: dict[str, Any], owner: int | None, **how: Any
) -> list[tuple[Any, ...]]:
    embedding = how.pop("embedding", None)
    return house.connection.execute(
        "SELECT asset_id, text_rank, vector_rank, vector_distance FROM indexer_v1.search("
        " query => %(query)s, embedding => %(embedding)s::vector, owners => %(owners)s,"
        " max_results => %(max_results)s, max_distance => 2, filter => %(filter)s)",
        {
            "query": query,
            "embedding": None if embedding is None else str(embedding),
            "owners": None if owner is None else [house.owners[owner]],
            "max_results": how.pop("max_results", 5000),
            "filter": json.dumps(chosen),
        },
    ).fetchall()


@pytest.mark.parametrize("owner", [None, 0, 2], ids=["everybody", "most", "few"])
@pytest.mark.parametrize("name", FILTERS)
def test_text_side_is_exact(house: House, name: str, owner: int | None) -> None:
    chosen, through = asked(house, name, owner)
    found = {row[0] for row in search(house, "发票", chosen, owner)}
    assert found == {id_ for id_ in through if "发票" in house.photos[id_].text}


@pytest.mark.parametrize("owner", [None, 0, 1, 2], ids=["everybody", "most", "some", "few"])
@pytest.mark.parametrize("name", FILTERS)
def test_vector_side_is_the_brute_force_answer(house: House, name: str, owner: int | None) -> None:
    chosen, through = asked(house, name, owner)
    probe = [1.0] + [0.0] * (DIM - 1)

    def distance(asset: UUID) -> float:
        vector = house.photos[asset].vector
        return 1 - vector[0] / sum(x * x for x in vector) ** 0.5

    rows = search(house, None, chosen, owner, embedding=probe, max_results=100)
    assert {row[0] for row in rows} <= through
    assert len(rows) == min(100, len(through))
    exact = set(sorted(through, key=distance)[:100])
    # an index may miss some of very many, a selective filter misses none
    missed = exact - {row[0] for row in rows}
    assert len(missed) <= (5 if len(through) > MANY / 2 else 0)


@contextmanager
def plans(connection: Connection) -> Iterator[list[str]]:
    """Plans of everything that is run inside, also inside of functions."""
    heard: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        heard.append(diagnostic.message_primary or "")

    connection.execute("LOAD 'auto_explain'")
    for setting in ("log_min_duration = 0", "log_nested_statements = on", "log_level = notice"):
        connection.execute(f"SET auto_explain.{setting}".encode())
    connection.add_notice_handler(note)
    try:
        yield heard
    finally:
        connection.remove_notice_handler(note)
        connection.execute("SET auto_explain.log_min_duration = -1")


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("everything", "Index Scan using clip_embedding_idx"),
        ("small album", "clip_pkey"),
    ],
)
def test_indexes(house: House, name: str, index: str) -> None:
    """Many through: the index of the vectors. Few: theirs, one by one, by the album's index."""
    chosen, _ = asked(house, name, None)
    with plans(house.connection) as heard:
        search(house, "发票", chosen, None, embedding=[1.0] * DIM, max_results=10)
    text = "\n".join(heard)
    assert index in text, text
    assert "Seq Scan on clip" not in text, text
    assert "Seq Scan on ocr" not in text, text
    if name == "small album":
        assert "Scan on asset " not in text, text


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ({"colour": "red"}, "filter has no colour"),
        ([1], "filter is a JSON object"),
        ({"albumIds": "x"}, "albumIds is a list of ids"),
        ({"albumIds": ["x"]}, "uuid"),
        ({"takenAfter": "yesterday morning"}, "timestamp"),
        ({"isFavorite": "perhaps"}, "boolean"),
        ({"rating": "5; DROP TABLE asset"}, "integer"),
    ],
)
def test_wrong_filters_say_so(house: House, chosen: Any, reason: str) -> None:
    with pytest.raises(psycopg.DataError, match=reason):
        search(house, "发票", chosen, None)


def test_null_is_no_filter(house: House) -> None:
    chosen = {"type": None, "albumIds": None, "takenAfter": None, "isFavorite": None}
    assert len(search(house, "发票", chosen, None)) == len(search(house, "发票", {}, None))


def test_folder_mode_has_no_albums(databases: Any) -> None:
    def build(connection: Connection) -> None:
        create_library_tables(connection)
        migrate(connection)

    url = databases.fresh("folder mode", build)
    with connect(url) as connection:
        ask = "SELECT count(*) FROM indexer_v1.search('发票', filter => %s)"
        for chosen in ({"isFavorite": False}, {"takenAfter": "2020-01-01"}, {"type": "IMAGE"}):
            assert connection.execute(ask, [json.dumps(chosen)]).fetchone() == (0,)
        for key in ("albumIds", "personIds", "tagIds"):
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="no table"):
                connection.execute(ask, [json.dumps({key: [str(uuid4())]})])
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="no table asset_exif"):
            connection.execute(ask, [json.dumps({"city": "北京"})])
    databases.drop(url)
