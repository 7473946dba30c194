"""What the page asks for: photos without a query, what to filter by, how the index is, events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from assets import add_asset, add_assets, add_owner

from immich.base import Variant
from immich.events import FakeImmich
from indexer.status import look
from pg.connect import Connection, connect
from pg.migrate import create_library_tables, migrate
from pg.query import fetch_value

JPEG = (Path(__file__).parents[2] / "immich_indexer/samples/shape-red-circle.jpg").read_bytes()


@pytest.fixture
def db(indexed_database: str) -> Iterator[Connection]:
    with connect(indexed_database) as connection:
        yield connection


def photos(db: Connection, **arguments: Any) -> list[UUID]:
    names = ", ".join(f"{name} => %({name})s" for name in arguments)
    rows = db.execute(f"SELECT asset_id FROM indexer_v1.photos({names})".encode(), arguments)
    return [row[0] for row in rows]


def test_photos_are_the_newest_first_and_only_those_that_may_be_shown(db: Connection) -> None:
    owner, other = add_owner(db), add_owner(db)
    mine = add_assets(db, 5, owner=owner)
    for age, asset in enumerate(mine):
        taken = datetime(2024, 5, 1, tzinfo=UTC) - timedelta(days=age)
        db.execute('UPDATE asset SET "fileCreatedAt" = %s WHERE id = %s', [taken, asset])
    theirs = add_assets(db, 2, owner=other)
    for visibility in ("hidden", "locked"):
        add_asset(db, owner=owner, visibility=visibility)
    trashed = add_asset(db, owner=owner)
    db.execute('UPDATE asset SET "deletedAt" = now() WHERE id = %s', [trashed])

    assert photos(db, owners=[owner]) == mine
    assert photos(db, owners=[owner], max_results=2, skip=1) == mine[1:3]
    assert set(photos(db)) == {*mine, *theirs}
    assert photos(db, asset_ids=[theirs[0], mine[3], trashed], owners=[owner]) == [mine[3]]
    assert photos(db, asset_ids=[]) == []
    before = json.dumps({"takenBefore": "2024-04-29T00:00:00Z"})
    assert photos(db, owners=[owner], filter=before) == mine[2:]


@pytest.mark.parametrize("variant", ["3.1", "2.3"])
def test_filters_offer_what_the_viewer_has(indexed_immich: FakeImmich, variant: Variant) -> None:
    immich = indexed_immich
    mine = immich.upload(JPEG)
    other = immich.add_user("other")
    immich.upload(JPEG, owner=other)
    immich.set_exif(mine, city="南京", country="中国", make="华为", model="P60")
    album = immich.album("收据", [mine])
    immich.album("theirs", owner=other)
    person = immich.add_person("小明")
    immich.add_person("")
    immich.add_person("stranger", owner=other)
    immich.tag(mine, "家/账单")
    with connect(immich.url) as db:
        mine_only = [[immich.owner], immich.owner]
        choices = fetch_value(db, "SELECT indexer_v1.filter_choices(%s, %s)", mine_only)
        assert choices == {
            "videos": False,
            "favorites": False,
            "archived": False,
            "albums": [{"id": str(album), "name": "收据"}],
            "people": [{"id": str(person), "name": "小明"}],
            "tags": choices["tags"],
            "places": [{"country": "中国", "city": "南京"}],
            "cameras": [{"make": "华为", "model": "P60"}],
        }
        assert [tag["name"] for tag in choices["tags"]] == ["家", "家/账单"]
        immich.set_favorite(mine)
        immich.set_visibility(mine, "archive")
        choices = fetch_value(db, "SELECT indexer_v1.filter_choices(%s, %s)", mine_only)
        assert (choices["favorites"], choices["archived"]) == (True, True)
        immich.set_visibility(mine, "locked")
        choices = fetch_value(db, "SELECT indexer_v1.filter_choices(%s, %s)", mine_only)
        assert (choices["favorites"], choices["places"], choices["cameras"]) == (False, [], [])


def test_a_folder_offers_nothing_that_it_does_not_have(empty_database: str) -> None:
    with connect(empty_database) as db:
        create_library_tables(db)
        migrate(db)
        choices = fetch_value(db, "SELECT indexer_v1.filter_choices(NULL, NULL)")
    assert choices == {
        "videos": False, "favorites": False, "archived": False,
        "albums": [], "people": [], "tags": [], "places": [], "cameras": [],
    }  # fmt: skip


# How the index is


def add_text(db: Connection, asset: UUID) -> None:
    db.execute(
        "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash)"
        " VALUES (%s, '', '[]', '', 'bigram', 'm', sha256('x'))",
        [asset],
    )


def test_status_counts_everybodys_photos_or_some_owners(db: Connection) -> None:
    owner = add_owner(db)
    mine = add_assets(db, 4, owner=owner)
    theirs = add_assets(db, 3)
    add_text(db, mine[0])
    db.execute("DELETE FROM indexer_v1.job WHERE asset_id = %s AND task = 'ocr'", [mine[0]])
    for asset, task, reason in (
        (mine[1], "ocr", "damaged"),
        (mine[2], "ocr", "damaged"),
        (theirs[0], "ocr", "damaged"),
        (theirs[1], "clip", "too large"),
    ):
        db.execute(
            "UPDATE indexer_v1.job SET dead_at = now(), last_error = %s, attempts = 3"
            " WHERE asset_id = %s AND task = %s",
            [reason, asset, task],
        )
    db.execute(
        "UPDATE indexer_v1.job SET lease_until = now() + interval '1 minute', attempts = 1"
        " WHERE asset_id = %s AND task = 'clip'",
        [mine[0]],
    )
    for seen, rate in (("now()", 1.5), ("now()", 0.5), ("now() - interval '1 minute'", 9)):
        db.execute(
            "INSERT INTO indexer_v1.worker (id, host, pid, device, seen_at, rate)"
            f" VALUES (%s, 'h', 7, 'cpu', {seen}, %s)".encode(),
            [uuid4(), rate],
        )

    everybody = look(db)
    assert (everybody.photos, everybody.read, everybody.embedded) == (7, 1, 0)
    assert everybody.jobs("ocr") == 6
    assert everybody.jobs("ocr", "dead") == 3
    assert everybody.jobs("clip", "running") == 1
    assert everybody.pending("clip") == 6
    assert len(everybody.workers) == 2
    assert everybody.rate == 2.0
    assert everybody.time_left() == timedelta(seconds=3)
    assert [(f.task, f.reason, f.photos, len(f.examples)) for f in everybody.failures] == [
        ("ocr", "damaged", 3, 3),
        ("clip", "too large", 1, 1),
    ]

    def status(owners: list[UUID] | None, shown: list[UUID]) -> Any:
        return fetch_value(db, "SELECT indexer_v1.status(%s, %s)", [owners, shown])

    own = status([owner], [owner])
    assert (own["photos"], own["read"]) == (4, 1)
    assert [(f["reason"], f["photos"]) for f in own["failures"]] == [("damaged", 2)]
    assert {row[0] for row in own["failures"][0]["examples"]} == {str(mine[1]), str(mine[2])}
    # Whoever runs the server counts what failed for others, and isn't shown their photos.
    admin = status(None, [owner])
    assert [(f["reason"], f["photos"], len(f["examples"])) for f in admin["failures"]] == [
        ("damaged", 3, 2),
        ("too large", 1, 0),
    ]
    db.execute("UPDATE asset SET visibility = 'locked' WHERE id = %s", [mine[1]])
    own = status([owner], [owner])
    assert [row[0] for row in own["failures"][0]["examples"]] == [str(mine[2])]
    assert own["failures"][0]["photos"] == 2


# Events


def test_jobs_that_end_and_redone_ones_that_begin_are_announced(
    db: Connection, indexed_database: str
) -> None:
    with connect(indexed_database) as watcher:
        watcher.execute("LISTEN indexer_v1_events")
        jobs = add_assets(db, 120)
        db.execute("DELETE FROM indexer_v1.job WHERE task = 'clip'")

        def claim(limit: int) -> list[tuple[Any, ...]]:
            return db.execute(
                "SELECT token, asset_id, revision FROM"
                " indexer_v1.claim('{ocr}', %s, interval '1 minute', 2)",
                [limit],
            ).fetchall()

        def heard() -> list[tuple[str, int]]:
            found = list(watcher.notifies(timeout=5, stop_after=1))
            found += watcher.notifies(timeout=0.2)
            assert all(len(message.payload.encode()) < 8000 for message in found)
            said = [json.loads(message.payload) for message in found]
            assert all({j[1] for j in event["jobs"]} == {"ocr"} for event in said)
            return [(event["state"], len(event["jobs"])) for event in said]

        bulk = claim(120)
        db.execute(
            "SELECT indexer_v1.acknowledge(%s, %s, %s, %s)",
            [bulk[0][0], [j[1] for j in bulk], ["ocr"] * 120, [j[2] for j in bulk]],
        )
        # Nothing about the beginning: in bulk nobody waits for it.
        assert sorted(heard()) == [("done", 20), ("done", 100)]

        db.execute(
            "INSERT INTO indexer_v1.reprocess (asset_id, task) VALUES (%s, 'ocr')", [jobs[0]]
        )
        for state in ("retrying", "dead"):
            db.execute("UPDATE indexer_v1.job SET next_at = now()")
            ((token, asset, revision),) = claim(1)
            db.execute(
                "SELECT indexer_v1.fail(%s, %s, 'ocr', %s, 'damaged', false, 2)",
                [token, asset, revision],
            )
            assert heard() == [("running", 1), (state, 1)]
