"""Every event of Immich leads to the right jobs, or to none, and none can be made to fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any
from uuid import UUID

import psycopg
import pytest
from PIL import Image

from immich.base import Variant, load_schema
from immich.events import Edit, FakeImmich
from indexer import queue
from indexer.models.types import Line
from pg.connect import Connection, connect
from pg.migrate import migrate
from pg.query import fetch_value

BOTH = [("clip", False), ("ocr", False)]
COLOURS = itertools.count(0x102030)
BOX = (0.1, 0.1, 0.3, 0.1, 0.3, 0.2, 0.1, 0.2)


def picture() -> bytes:
    """Each another one."""
    out = BytesIO()
    Image.new("RGB", (60, 40), f"#{next(COLOURS):06x}").save(out, "PNG")
    return out.getvalue()


def jobs(immich: FakeImmich, asset: UUID | None = None) -> list[tuple[Any, ...]]:
    """Task and force of the jobs since the last look."""
    found = immich.db.execute(
        "DELETE FROM indexer_v1.job WHERE %(asset)s::uuid IS NULL OR asset_id = %(asset)s"
        " RETURNING task, force",
        {"asset": asset},
    ).fetchall()
    return sorted(found)


@pytest.fixture(scope="module", params=["3.1", "2.3"])
def immich(
    request: pytest.FixtureRequest, databases: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeImmich]:
    """An Immich of each layout, indexed, for all tests that leave its tables as they are."""
    variant: Variant = request.param

    def build(connection: Connection) -> None:
        load_schema(connection, variant)
        migrate(connection)

    url = databases.fresh(f"indexed {variant}", build)
    found = FakeImmich(url, tmp_path_factory.mktemp("media"), variant=variant)
    yield found
    found.close()
    databases.drop(url)


@pytest.fixture
def asset(immich: FakeImmich) -> UUID:
    """A photo that has been indexed."""
    return indexed(immich)


def indexed(immich: FakeImmich) -> UUID:
    made = immich.upload(picture())
    immich.save_ocr(made, [Line("发票", BOX, 0.9, 0.9)])
    jobs(immich)
    return made


# What makes jobs


def test_upload(immich: FakeImmich) -> None:
    immich.upload(picture())
    assert jobs(immich) == BOTH


def test_upload_of_a_video(immich: FakeImmich) -> None:
    immich.upload_video(picture())
    assert jobs(immich) == BOTH


def test_jobs_are_there_with_the_preview(immich: FakeImmich) -> None:
    """Before Immich's own ML calls: the thumbhash comes afterwards."""
    seen: list[list[tuple[Any, ...]]] = []

    class Watched(FakeImmich):
        def _make_thumbnails(self, *arguments: Any, **named: Any) -> None:
            super()._make_thumbnails(*arguments, **named)
            seen.append(jobs(self))

    immich = Watched(immich.url, immich.media_dir, variant=immich.variant)
    immich.upload(picture())
    immich.close()
    assert seen == [BOTH]


def test_edit_and_undo(immich: FakeImmich, asset: UUID) -> None:
    if immich.variant == "2.3":
        pytest.skip("Immich 2.3 can't edit")
    path = "SELECT indexer_v1.preview_path(%s)"
    original = fetch_value(immich.db, path, [asset])
    immich.edit(asset, Edit.crop(0, 0, 20, 20))
    assert jobs(immich) == BOTH
    assert fetch_value(immich.db, path, [asset]) == str(immich.preview_path(asset, edited=True))
    immich.edit(asset, Edit.rotate(90))
    assert jobs(immich) == BOTH
    immich.undo_edit(asset)
    assert jobs(immich) == BOTH
    assert fetch_value(immich.db, path, [asset]) == original


def test_a_new_thumbhash_under_the_same_path(immich: FakeImmich, asset: UUID) -> None:
    immich.db.execute("UPDATE asset SET thumbhash = 'x' WHERE id = %s", [asset])
    assert jobs(immich) == BOTH


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("reprocess/ocr", [("ocr", True)]),
        ("reprocess/clip", [("clip", True)]),
        ("reprocess", [("clip", True), ("ocr", True)]),
        ("reprocess/failed", []),
        ("reprocess/faces", []),
        ("旅行/上海", []),
    ],
)
def test_tags(
    immich: FakeImmich,
    asset: UUID,
    tag: str,
    expected: list[tuple[str, bool]],
) -> None:
    immich.tag(asset, tag)
    assert jobs(immich) == expected


# What makes none

NO_EVENT: dict[str, Callable[[FakeImmich, UUID], object]] = {
    "the same again": lambda immich, asset: immich.upload(
        immich._original_path(asset).read_bytes()
    ),
    "no preview": lambda immich, asset: immich.upload(b"not an image"),
    "thumbnails regenerated": lambda immich, asset: immich.regenerate_thumbnails(asset),
    "trash": lambda immich, asset: immich.trash(asset),
    "restore": lambda immich, asset: (immich.trash(asset), immich.restore(asset)),
    "archive": lambda immich, asset: immich.set_visibility(asset, "archive"),
    "lock": lambda immich, asset: immich.set_visibility(asset, "locked"),
    "favourite": lambda immich, asset: immich.set_favorite(asset),
    "exif": lambda immich, asset: immich.set_exif(asset, city="上海"),
    "metadata": lambda immich, asset: immich.refresh_metadata(asset),
    "smart search: all": lambda immich, asset: immich.smart_search_all(),
    "ocr: all": lambda immich, asset: immich.ocr_all(),
    "embedding": lambda immich, asset: immich.save_embedding(asset, [0.2] * 512),
    "ocr": lambda immich, asset: immich.save_ocr(asset, []),
    "face": lambda immich, asset: immich.add_face(asset, immich.add_person("小明")),
    "album": lambda immich, asset: immich.album("假期", [asset]),
    "stack": lambda immich, asset: immich.stack(asset),
    "clip model": lambda immich, asset: immich.change_clip_model("cn-clip/RN50__openai", 1024),
    "on disk": lambda immich, asset: immich.change_on_disk(asset, picture()),
    "other files": lambda immich, asset: immich.db.execute(
        "UPDATE asset_file SET path = path || 'x' WHERE \"assetId\" = %s AND type = 'thumbnail'",
        [asset],
    ),
    "upsert of the same": lambda immich, asset: immich._upsert_files(
        asset, {"preview": str(immich.preview_path(asset).relative_to(immich.media_dir))}
    ),
}


@pytest.mark.parametrize("event", NO_EVENT)
def test_no_event(immich: FakeImmich, asset: UUID, variant: Variant, event: str) -> None:
    NO_EVENT[event](immich, asset)
    assert jobs(immich) == []


def test_delete(immich: FakeImmich) -> None:
    gone, kept = immich.upload(picture()), immich.upload(picture())
    immich.delete(gone)
    assert jobs(immich, gone) == []
    assert jobs(immich, kept) == BOTH


def test_a_user_who_goes(immich: FakeImmich) -> None:
    bob = immich.add_user("bob")
    immich.upload(picture(), owner=bob)
    immich.db.execute('DELETE FROM "user" WHERE id = %s', [bob])
    assert jobs(immich) == []


def test_what_is_rolled_back_never_was(immich: FakeImmich, asset: UUID) -> None:
    with immich.db.transaction(force_rollback=True):
        immich.db.execute("UPDATE asset SET thumbhash = 'x'")
    assert jobs(immich) == []


def test_one_statement_for_many(immich: FakeImmich) -> None:
    assets = [immich.upload(picture()) for _ in range(8)]
    jobs(immich)
    immich.db.execute("UPDATE asset SET thumbhash = 'x' WHERE id = ANY (%s)", [assets])
    assert len(jobs(immich)) == 16


# Nothing here may fail an upload, nor hold it up


@pytest.fixture
def warnings(indexed_immich: FakeImmich) -> list[str]:
    heard: list[str] = []
    indexed_immich.db.add_notice_handler(lambda note: heard.append(note.message_primary or ""))
    indexed_immich.db.execute("SET statement_timeout = '30s'")  # less than for ever
    return heard


BROKEN = {
    "raises": "CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql"
    " AS $$ BEGIN RAISE 'on purpose'; END $$;"
    " CREATE TRIGGER boom BEFORE INSERT ON indexer_v1.job EXECUTE FUNCTION boom()",
    "functions lost": "DROP FUNCTION indexer_v1.enqueue",
    "table lost": "DROP TABLE indexer_v1.job",
    "column lost": "ALTER TABLE indexer_v1.job DROP COLUMN revision",
    "rows refused": "ALTER TABLE indexer_v1.job ADD CONSTRAINT never CHECK (false) NOT VALID",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_failing_trigger_does_not_fail_immich(
    indexed_immich: FakeImmich, warnings: list[str], how: str
) -> None:
    immich = indexed_immich
    before = immich.upload(picture())
    with connect(immich.url) as connection:
        connection.execute(BROKEN[how].encode())
    asset = immich.upload(picture())
    immich.edit(asset, Edit.rotate(90))
    immich.undo_edit(asset)
    immich.tag(asset, "reprocess")
    immich.delete(before)
    assert immich.db.execute("SELECT id FROM asset").fetchall() == [(asset,)]
    assert any(text.startswith("immich-indexer: INSERT asset_file") for text in warnings)


def test_a_tag_put_on_again_while_it_is_taken_off_is_not_overlooked(immich: FakeImmich) -> None:
    """By a metadata refresh, whose transaction others don't see into."""
    asset = immich.upload(picture())
    tag = immich.tag(asset, "reprocess/ocr", sidecar=False)
    put = 'INSERT INTO tag_asset ("assetId", "tagId") VALUES (%s, %s)'
    off = 'DELETE FROM tag_asset WHERE "assetId" = %s AND "tagId" = %s'
    requests = (
        "SELECT count(*) FROM indexer_v1.reprocess WHERE asset_id = %s AND status = 'waiting'"
    )
    with connect(immich.url) as ours, connect(immich.url) as theirs:

        def finish() -> None:
            ours.execute(
                "UPDATE indexer_v1.reprocess SET status = 'done', finished_at = now()"
                " WHERE asset_id = %s",
                [asset],
            )

        with theirs.transaction():
            theirs.execute(off, [asset, tag])
            theirs.execute(put, [asset, tag])
            finish()
            assert fetch_value(ours, "SELECT indexer_v1.settle_tags()") == 0
        assert fetch_value(ours, "SELECT indexer_v1.settle_tags()") == 1
        assert immich.tags(asset) == []

        theirs.execute(put, [asset, tag])
        finish()
        theirs.execute(off, [asset, tag])
        with ours.transaction():
            assert fetch_value(ours, "SELECT indexer_v1.settle_tags()") == 1
            theirs.execute(put, [asset, tag])  # nobody waits for anybody
        assert immich.tags(asset) == ["reprocess/ocr"]
        assert fetch_value(ours, requests, [asset]) == 1
    immich.delete(asset)


def test_what_a_failing_trigger_missed_is_found_later(
    indexed_immich: FakeImmich, warnings: list[str]
) -> None:
    with connect(indexed_immich.url) as connection:
        connection.execute("ALTER TABLE indexer_v1.job ADD CHECK (false) NOT VALID")
        asset = indexed_immich.upload(picture())
        connection.execute("ALTER TABLE indexer_v1.job DROP CONSTRAINT job_check")
        assert queue.backfill(connection) == 2
    assert jobs(indexed_immich, asset) == BOTH


@pytest.mark.parametrize(
    "lock",
    [
        "SELECT FROM indexer_v1.job FOR UPDATE",
        "INSERT INTO indexer_v1.reprocess (asset_id) SELECT id FROM asset",
        "LOCK TABLE indexer_v1.job IN ACCESS EXCLUSIVE MODE",
    ],
)
def test_a_lock_of_ours_does_not_hold_immich_up(
    indexed_immich: FakeImmich, warnings: list[str], lock: str
) -> None:
    """The upload returns while the lock is still held, which would be for ever."""
    immich = indexed_immich
    asset = immich.upload(picture())
    with connect(immich.url) as connection, connection.transaction():
        connection.execute(lock.encode())
        immich.db.execute("UPDATE asset SET thumbhash = 'x' WHERE id = %s", [asset])
        with connect(immich.url) as other:
            other.execute("SET lock_timeout = '5s'")
            if "LOCK TABLE" not in lock:
                assert queue.take_missed(other) == 0  # and who sweeps doesn't wait either
    assert warnings == [
        "immich-indexer: UPDATE asset queued later: canceling statement due to lock timeout"
    ]
    thumbhash = immich.db.execute("SELECT thumbhash FROM asset").fetchall()
    assert thumbhash == [(b"x",)]
    with connect(immich.url) as connection:
        connection.execute("DELETE FROM indexer_v1.job")
        assert queue.take_missed(connection) == 1
        assert queue.take_missed(connection) == 0
    assert [task for task, _ in jobs(immich, asset)] == ["clip", "ocr"]


def test_one_that_is_held_does_not_keep_other_missed_ones_waiting(
    indexed_immich: FakeImmich,
) -> None:
    immich = indexed_immich
    held, free, gone = (immich.upload(picture()) for _ in range(3))
    jobs(immich)
    immich.db.execute("INSERT INTO indexer_v1.job VALUES (%s, 'ocr')", [held])
    missed = "INSERT INTO indexer_v1.missed SELECT unnest(%s::uuid[])"
    immich.db.execute(missed, [[held, free, free, gone]])
    immich.delete(gone)
    with connect(immich.url) as connection, connection.transaction():
        connection.execute("SELECT FROM indexer_v1.job FOR UPDATE")
        with connect(immich.url) as sweeper:
            while jobs(immich, free) != BOTH:
                queue.take_missed(sweeper)
            assert immich.db.execute("SELECT FROM indexer_v1.job").rowcount == 1
    with connect(immich.url) as sweeper:
        while queue.take_missed(sweeper):
            pass
    assert jobs(immich) == BOTH
    assert immich.db.execute("SELECT FROM indexer_v1.missed").rowcount == 0


def test_immichs_own_lock_timeout_is_left_alone(
    indexed_immich: FakeImmich, warnings: list[str]
) -> None:
    immich = indexed_immich
    with immich.db.transaction():
        immich.db.execute("SET LOCAL lock_timeout = '7s'")
        immich.upload(picture())
        assert fetch_value(immich.db, "SHOW lock_timeout") == "7s"


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE asset ALTER COLUMN thumbhash TYPE text USING thumbhash::text",
        "ALTER TABLE asset DROP COLUMN thumbhash",
        'ALTER TABLE asset_file ALTER COLUMN "isEdited" TYPE integer USING 0,'
        ' ALTER COLUMN "isEdited" DROP DEFAULT',
        'ALTER TABLE asset_file DROP COLUMN "isProgressive"',
        'ALTER TABLE asset_file ADD COLUMN "new" text',
        'ALTER TABLE asset_file RENAME COLUMN "isTransparent" TO transparent',
        "ALTER TYPE asset_visibility_enum ADD VALUE 'new'",
        "TRUNCATE smart_search, asset_ocr, ocr_search",
        "ALTER TABLE smart_search ALTER COLUMN embedding TYPE vector(768)",
    ],
)
def test_immichs_migrations_are_not_blocked(indexed_immich: FakeImmich, change: str) -> None:
    """Rule 2: nothing of ours depends on a column of Immich's."""
    try:
        if "isEdited" in change:
            indexed_immich.db.execute('ALTER TABLE asset_file ALTER "isEdited" DROP DEFAULT')
        indexed_immich.db.execute(change.encode())
    except psycopg.errors.DependentObjectsStillExist as error:
        pytest.fail(str(error))


def test_triggers_survive_a_dropped_column(indexed_immich: FakeImmich) -> None:
    immich = indexed_immich
    asset = indexed(immich)
    immich.db.execute('ALTER TABLE asset_file DROP COLUMN "isEdited"')
    immich.db.execute("ALTER TABLE asset DROP COLUMN thumbhash")
    immich.db.execute("UPDATE asset_file SET path = path || '2' WHERE type = 'preview'")
    assert jobs(immich) == BOTH
    immich.set_favorite(asset)
    assert jobs(immich) == []
