"""Pages for Immich's search box: the order stays the same from page to page, to the very end."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from assets import add_assets, add_owner

from immich.base import load_schema
from indexer import results
from pg.connect import Connection, connect
from pg.migrate import migrate

DIM = 16
READ, SEEN, BOTH = 1300, 900, 300


@pytest.fixture(scope="module")
def many(databases: Any) -> Iterator[tuple[Connection, UUID]]:
    """More photos than any depth but the last takes in."""

    def build(connection: Connection) -> None:
        load_schema(connection)
        migrate(connection)
        results.use_clip_model(connection, "test", DIM)

    url = databases.fresh(f"clip of {DIM}", build)
    with connect(url) as connection:
        dice = random.Random(3)
        owner = add_owner(connection)
        assets = add_assets(connection, READ + SEEN - BOTH, owner=owner, preview=False)
        dice.shuffle(assets)
        texts = ["发票 " + "其他 " * dice.randrange(6) for _ in range(READ)]
        connection.execute(
            "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model,"
            " content_hash)"
            " SELECT id, body, '[]', indexer_v1.to_tsvector(body), indexer_v1.tokenizer(), 'm',"
            " sha256('') FROM unnest(%s::uuid[], %s::text[]) AS t(id, body)",
            [assets[:READ], texts],
        )
        with connection.cursor().copy(
            "COPY indexer_v1.clip (asset_id, embedding, model, content_hash) FROM STDIN"
        ) as copy:
            for asset in assets[-SEEN:]:
                near = [1.0] + [dice.gauss(0, 0.2) for _ in range(DIM - 1)]
                copy.write_row([asset, str(near), "test", bytes(32)])
        connection.execute("VACUUM ANALYZE")
        yield connection, owner
    databases.drop(url)


def page(
    many: tuple[Connection, UUID], query: str, skip: int, size: int, chosen: Any = None
) -> list[tuple[UUID, str | None, bool]]:
    connection, owner = many
    return connection.execute(
        "SELECT asset_id, version, more"
        " FROM indexer_v1.search_page(%s, %s::vector, %s, %s, %s, %s)",
        [query, str([1.0] + [0.0] * (DIM - 1)), [owner], json.dumps(chosen or {}), skip, size],
    ).fetchall()


@pytest.mark.parametrize(
    ("query", "size", "total"),
    [("ocr:发票", 70, READ), ("发票", 97, READ + SEEN - BOTH), ("发票", 1000, READ + SEEN - BOTH)],
)
def test_pages_repeat_nothing_and_lose_nothing(
    many: tuple[Connection, UUID], query: str, size: int, total: int
) -> None:
    found: list[UUID] = []
    while True:
        rows = page(many, query, len(found), size)
        found += [row[0] for row in rows]
        more = {row[2] for row in rows}
        if more != {True}:
            break
        assert len(rows) == size
    assert more == {False}
    assert len(found) == len(set(found)) == total
    assert [row[0] for row in page(many, query, 0, 5000)] == found, "in one page, the same order"


def test_the_first_page_is_the_searchs_own(many: tuple[Connection, UUID]) -> None:
    connection, owner = many
    first = connection.execute(
        "SELECT asset_id FROM indexer_v1.search('发票', %s::vector, %s)",
        [str([1.0] + [0.0] * (DIM - 1)), [owner]],
    ).fetchall()
    assert [row[0] for row in page(many, "发票", 0, 50)] == [row[0] for row in first]


def test_beyond_the_end(many: tuple[Connection, UUID]) -> None:
    assert page(many, "发票", 1_000_000, 100) == []
    assert page(many, "支票", 0, 100, {"type": "VIDEO"}) == []


def test_a_version_changes_with_what_immich_shows(many: tuple[Connection, UUID]) -> None:
    connection, _ = many

    def version() -> str | None:
        rows = page(many, "ocr:发票", 0, 1)
        return rows[0][1]

    asset = page(many, "ocr:发票", 0, 1)[0][0]
    seen = [version()]
    assert version() == seen[0]
    for change in (
        'UPDATE asset SET "isFavorite" = true WHERE id = %s',
        'INSERT INTO asset_exif ("assetId") VALUES (%s)',
        "UPDATE asset_exif SET description = 'x' WHERE \"assetId\" = %s",
    ):
        connection.execute(change.encode(), [asset])
        seen.append(version())
    assert None not in seen
    assert len(set(seen)) == 4


def test_how_much_is_missing(database: str) -> None:
    with connect(database) as connection:
        migrate(connection)

        def missing(task: str) -> float:
            row = connection.execute("SELECT indexer_v1.missing_share(%s)", [task]).fetchone()
            assert row
            return float(row[0])

        assert (missing("ocr"), missing("clip")) == (0, 0)
        assets = add_assets(connection, 4)
        connection.execute(
            'INSERT INTO smart_search ("assetId", embedding)'
            " SELECT id, array_fill(1, ARRAY[512])::vector FROM unnest(%s) AS id",
            [assets],
        )
        connection.execute(
            "INSERT INTO ocr_search SELECT id, CASE WHEN n < 3 THEN '发票' ELSE '' END"
            " FROM unnest(%s) WITH ORDINALITY AS t(id, n)",
            [assets],
        )
        assert (missing("ocr"), missing("clip")) == (1, 1)
        results.use_clip_model(connection, "test", 2)
        connection.execute(
            "INSERT INTO indexer_v1.clip (asset_id, embedding, model, content_hash)"
            " VALUES (%s, '[1,2]', 'test', sha256(''))",
            [assets[0]],
        )
        connection.execute(
            "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model,"
            " content_hash) VALUES (%s, '', '[]', '', 't', 'm', sha256(''))",
            [assets[0]],
        )
        assert (missing("ocr"), missing("clip")) == (0.5, 0.75)
