"""Attached to a (test) Immich: every event of `immich.md` §2, redoing, mending, leaving.

Real OCR, the stand-in CLIP, a real worker in threads; Immich's side is played by `FakeImmich`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from immich.base import load_schema
from immich.events import Edit, FakeImmich
from immich.media import search_text
from immich_indexer.runtime import SAMPLES, prepare
from indexer.media import Media
from indexer.models import engine
from indexer.models.clip_loader import ClipLoader
from indexer.models.images import decode
from indexer.models.types import Lane, Line, OcrOptions, Side
from indexer.reconcile import find_changed_files, reconcile
from indexer.settings import Settings
from indexer.shared import SharedEngine
from indexer.worker import Worker
from pg.connect import connect
from pg.detach import detach
from pg.query import fetch_value

PATIENCE_SECONDS = 90.0  # the first test loads the models
IMMICHS_OCR = OcrOptions(0.5, 0.8, 736)  # Immich's defaults
OUR_TRIGGERS = "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgname LIKE 'immich_indexer%%')"
STAND_IN = "cn-clip/stand-in__openai"


class House:
    """An Immich with a worker beside it."""

    def __init__(self, url: str, immich: FakeImmich) -> None:
        self.url = url
        self.immich = immich
        immich.change_clip_model(STAND_IN, 64)
        asked = Settings(
            db_url=url,
            media_map=f"{immich.location}={immich.media_dir}",
            clip_download="off",
            poll_seconds=1,
        )
        self.settings, _ = prepare(url, asked, choose_clip_model=True)
        self.engine = SharedEngine(self.settings, url)
        self.worker = Worker(self.settings, url, self.engine)
        self.db = connect(url)

    def ask(self, statement: str, *values: Any) -> Any:
        return fetch_value(self.db, statement, values)

    def wait_for(self, statement: str, *values: Any) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.ask(statement, *values):
            assert time.monotonic() < deadline, f"never came true: {statement}"
            time.sleep(0.05)

    def settle(self) -> None:
        self.wait_for(
            "SELECT NOT EXISTS (SELECT FROM indexer_v1.job WHERE dead_at IS NULL)"
            " AND NOT EXISTS (SELECT FROM indexer_v1.write_back)"
        )

    def wait_for_tags(self, asset: UUID, *tags: str) -> None:
        """A sidecar that is just being written may bring a tag back once more."""
        self.wait_for(
            "SELECT coalesce(array_agg(t.value::text ORDER BY t.value), '{}') = %s"
            ' FROM tag_asset a JOIN tag t ON t.id = a."tagId" WHERE a."assetId" = %s',
            list(tags),
            asset,
        )

    def inferences(self) -> tuple[int, int]:
        stats = self.engine.stats()
        return sum(stats["ocr"]["done"].values()), sum(stats["clip_image"]["done"].values())

    def close(self) -> None:
        self.worker.stop()
        self.engine.close()
        self.db.close()


@pytest.fixture(scope="module", autouse=True)
def models_are_loaded_once() -> Iterator[None]:
    """By the first engine; the others get the same, where it took most of a test's time."""
    loaded: dict[str, Any] = {}
    reader, load = engine.OcrReader, ClipLoader._load

    def read(**how: Any) -> Any:
        key = repr(how)
        return loaded[key] if key in loaded else loaded.setdefault(key, reader(**how))

    def embed(loader: ClipLoader, side: Side) -> Any:
        key = f"{loader.path} {side}"
        return loaded[key] if key in loaded else loaded.setdefault(key, load(loader, side))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "OcrReader", read)
        patch.setattr(ClipLoader, "_load", embed)
        yield


@pytest.fixture
def house(database: str, immich: FakeImmich) -> Iterator[House]:
    made = House(database, immich)
    made.worker.start()
    yield made
    made.close()


def test_immichs_choices_are_taken_over(house: House) -> None:
    assert house.settings.clip_model == "stand-in"
    asset = house.immich.upload(SAMPLES / "parking-small.jpg")
    house.settle()
    model = house.ask("SELECT model FROM indexer_v1.ocr WHERE asset_id = %s", asset)
    assert model == house.engine.ocr_model(IMMICHS_OCR)


def test_an_upload_is_inferred_once_whoever_asks(house: House) -> None:
    immich = house.immich
    asset = immich.upload(SAMPLES / "parking-small.jpg")
    photo = decode(immich.preview_path(asset).read_bytes(), max_bytes=10**9, max_pixels=10**9)
    # Immich asks through the gateway while the worker is at it, and again later.
    for _ in range(2):
        lines = house.engine.read_text(photo, IMMICHS_OCR, Lane.INTERACTIVE)
        embedding = house.engine.embed_image(photo, Lane.INTERACTIVE)
        assert lines.result(PATIENCE_SECONDS)
        assert embedding.result(PATIENCE_SECONDS).shape == (64,)
        house.settle()
    assert house.inferences() == (1, 1)
    # Another process, with nothing in memory, finds them in the database.
    other = SharedEngine(house.settings, house.url)
    assert other.read_text(photo, IMMICHS_OCR, Lane.INTERACTIVE).result(PATIENCE_SECONDS)
    assert other.embed_image(photo, Lane.INTERACTIVE).result(PATIENCE_SECONDS).shape == (64,)
    assert sum(other.stats()["ocr"]["done"].values()) == 0
    other.close()


def test_what_the_gateway_computed_first_is_taken_over_by_the_worker(house: House) -> None:
    house.worker.stop()
    asset = house.immich.upload(SAMPLES / "parking-small.jpg")
    photo = decode(house.immich.preview_path(asset).read_bytes(), max_bytes=10**9, max_pixels=10**9)
    gateway = SharedEngine(house.settings, house.url)
    gateway.read_text(photo, IMMICHS_OCR, Lane.INTERACTIVE).result(PATIENCE_SECONDS)
    house.wait_for("SELECT EXISTS (SELECT FROM indexer_v1.inference)")
    gateway.close()
    later = Worker(house.settings, house.url, house.engine)
    later.start()
    house.settle()
    later.stop()
    assert house.inferences() == (0, 1)
    assert house.ask("SELECT text <> '' FROM indexer_v1.ocr WHERE asset_id = %s", asset)


def test_thumbnails_made_again_leave_no_empty_search_text(house: House) -> None:
    immich = house.immich
    asset = immich.upload(SAMPLES / "parking-small.jpg")
    house.settle()
    photo = decode(immich.preview_path(asset).read_bytes(), max_bytes=10**9, max_pixels=10**9)
    immich.save_ocr(asset, house.engine.read_text(photo, IMMICHS_OCR, Lane.INTERACTIVE).result())
    before = house.ask('SELECT text FROM ocr_search WHERE "assetId" = %s', asset)
    immich.regenerate_thumbnails(asset)
    house.wait_for("SELECT text <> '' FROM ocr_search WHERE \"assetId\" = %s", asset)
    after = house.ask('SELECT text FROM ocr_search WHERE "assetId" = %s', asset)
    assert sorted(after.split()) == sorted(before.split())
    # and nothing was read again for it
    house.settle()
    assert house.inferences() == (1, 1)


def test_lines_that_a_crop_hid_are_not_all_that_is_left_when_it_is_undone(house: House) -> None:
    immich = house.immich
    asset = immich.upload(SAMPLES / "parking-small.jpg")
    house.settle()
    # Texts that look whole, whatever is missing of them.
    lines = [
        Line(t, (0.1, y, 0.3, y, 0.3, y + 0.1, 0.1, y + 0.1), 0.9, 0.9)
        for t, y in (("上", 0.1), ("下", 0.7))
    ]
    immich.save_ocr(asset, lines)
    text = 'SELECT text FROM ocr_search WHERE "assetId" = %s'
    immich.edit(asset, Edit.crop(0, 0, 300, 200))
    assert house.ask(text, asset) == "上"
    immich.undo_edit(asset)
    house.wait_for(f"SELECT ({text}) = '上 下'", asset)


def test_a_redone_edited_photo_has_its_lines_where_immich_keeps_them(house: House) -> None:
    immich = house.immich
    asset = immich.upload(SAMPLES / "parking-small.jpg")
    house.settle()
    photo = decode(immich.preview_path(asset).read_bytes(), max_bytes=10**9, max_pixels=10**9)
    whole = house.engine.read_text(photo, IMMICHS_OCR, Lane.INTERACTIVE).result()
    immich.save_ocr(asset, whole)
    immich.edit(asset, Edit.crop(0, 0, 440, 165))
    house.settle()
    house.db.execute(
        "INSERT INTO indexer_v1.reprocess (asset_id, task) VALUES (%s, 'ocr')", [asset]
    )
    house.wait_for("SELECT bool_and(status = 'done') FROM indexer_v1.reprocess")
    house.settle()
    rows = house.db.execute(
        'SELECT "isVisible", text, x1, y1, x3, y3 FROM asset_ocr WHERE "assetId" = %s', [asset]
    ).fetchall()
    shown = {row[1]: row[2:] for row in rows if row[0]}
    hidden = {row[1] for row in rows if not row[0]}
    before = {line.text: (*line.box[:2], *line.box[4:6]) for line in whole}
    assert "停车缴费凭证" in shown
    assert shown["停车缴费凭证"] == pytest.approx(before["停车缴费凭证"], abs=0.02)
    assert hidden
    assert {*shown} | hidden >= {*before}
    assert not {*shown} & hidden
    tokens = house.ask('SELECT text FROM ocr_search WHERE "assetId" = %s', asset)
    assert sorted(tokens.split()) == sorted(search_text(list(shown)).split())


def test_an_edited_photo_is_indexed_as_edited_and_gets_its_embedding(house: House) -> None:
    immich = house.immich
    asset = immich.upload(SAMPLES / "shape-red-circle-exit.jpg")
    house.settle()
    first = house.ask("SELECT content_hash FROM indexer_v1.clip WHERE asset_id = %s", asset)
    immich.edit(asset, Edit("crop", {"x": 0, "y": 0, "width": 300, "height": 300}))
    house.settle()
    edited = house.ask("SELECT content_hash FROM indexer_v1.clip WHERE asset_id = %s", asset)
    assert edited != first
    assert house.ask('SELECT count(*) FROM smart_search WHERE "assetId" = %s', asset) == 1
    immich.undo_edit(asset)
    house.settle()
    undone = house.ask("SELECT content_hash FROM indexer_v1.clip WHERE asset_id = %s", asset)
    assert undone == first


@pytest.mark.parametrize("variant", ["3.1", "2.3"])
def test_a_tag_has_a_photo_redone_and_goes(house: House) -> None:
    immich = house.immich
    asset = immich.upload(SAMPLES / "parking-small.jpg")
    house.settle()
    immich.tag(asset, "reprocess/ocr")
    house.wait_for(
        "SELECT count(*) = 1 AND bool_and(status = 'done' AND tag_id IS NULL)"
        " FROM indexer_v1.reprocess WHERE asset_id = %s",
        asset,
    )
    house.settle()
    assert house.inferences()[0] == 2
    assert immich.tags(asset) == []
    immich.refresh_metadata(asset)  # puts back what Immich remembers elsewhere
    assert immich.tags(asset) == []
    # Its next sidecar is without it, too.
    immich.write_sidecar(asset)
    immich.refresh_metadata(asset)
    assert immich.tags(asset) == []
    # The new result is Immich's too, as Immich itself would have written it.
    lines = house.ask(
        "SELECT jsonb_array_length(lines) FROM indexer_v1.ocr WHERE asset_id = %s", asset
    )
    assert house.ask('SELECT count(*) FROM asset_ocr WHERE "assetId" = %s', asset) == lines
    assert house.ask("SELECT text <> '' FROM ocr_search WHERE \"assetId\" = %s", asset)


def test_a_tag_that_could_not_be_served_leaves_another(house: House) -> None:
    immich = house.immich
    asset = immich.upload(SAMPLES / "parking-small.jpg")
    house.settle()
    preview = immich.preview_path(asset)
    sound = preview.read_bytes()
    preview.write_bytes(b"not an image")
    immich.tag(asset, "reprocess/clip")
    house.wait_for(
        "SELECT bool_and(status LIKE 'failed: clip: %%' AND tag_id IS NULL)"
        " FROM indexer_v1.reprocess WHERE asset_id = %s",
        asset,
    )
    house.wait_for_tags(asset, "reprocess/failed")
    # Once it can be served, that one goes, too.
    preview.write_bytes(sound)
    immich.tag(asset, "reprocess/clip")
    house.wait_for_tags(asset)


def test_redone_embeddings_go_to_immich_only_if_they_are_of_its_model(house: House) -> None:
    immich = house.immich
    asset = immich.upload(SAMPLES / "parking-small.jpg")
    house.settle()
    house.db.execute(
        "INSERT INTO indexer_v1.reprocess (asset_id, task) VALUES (%s, 'clip')", [asset]
    )
    house.wait_for('SELECT EXISTS (SELECT FROM smart_search WHERE "assetId" = %s)', asset)
    immich.smart_search_all()
    immich.set_system_config({"machineLearning": {"clip": {"modelName": "ViT-B-32__openai"}}})
    house.worker.stop()
    later = Worker(house.settings, house.url, house.engine)
    later.start()
    house.db.execute(
        "INSERT INTO indexer_v1.reprocess (asset_id, task) VALUES (%s, 'clip')", [asset]
    )
    house.wait_for("SELECT bool_and(status = 'done') FROM indexer_v1.reprocess")
    house.settle()
    later.stop()
    assert house.ask("SELECT count(*) FROM smart_search") == 0


def test_immichs_truncates_cost_the_index_nothing(house: House) -> None:
    asset = house.immich.upload(SAMPLES / "parking-small.jpg")
    house.settle()
    house.immich.ocr_all()
    house.immich.smart_search_all()
    house.settle()
    assert house.ask("SELECT count(*) FROM indexer_v1.ocr WHERE asset_id = %s", asset) == 1
    assert house.inferences() == (1, 1)


def test_a_file_changed_at_the_same_path_is_found(house: House) -> None:
    asset = house.immich.upload(SAMPLES / "parking-small.jpg")
    house.settle()
    media = Media.parse(house.settings.media_map)
    assert find_changed_files(house.db, media) == 0
    house.immich.change_on_disk(asset, (SAMPLES / "shape-red-circle-exit.jpg").read_bytes())
    assert find_changed_files(house.db, media) == 1
    house.settle()
    assert "出口" in house.ask("SELECT text FROM indexer_v1.ocr WHERE asset_id = %s", asset)
    assert find_changed_files(house.db, media, threading.Event()) == 0


def test_healing_after_a_restore_of_immich(house: House) -> None:
    immich = house.immich
    asset = immich.upload(SAMPLES / "parking-small.jpg")
    house.settle()
    house.worker.stop()
    # What a backup older than our install does (rule 5): the schema public goes, with it every
    # foreign key to it, every vector column and every function that mentions one.
    house.db.execute("DROP SCHEMA public CASCADE")
    house.db.execute("CREATE SCHEMA public")
    load_schema(house.db, "3.1")
    repairs = reconcile(house.db, house.settings, house.engine.ocr_model)
    assert repairs is not None
    assert repairs.healed == 5
    assert repairs.triggers == 7
    assert house.ask("SELECT count(*) FROM indexer_v1.ocr WHERE asset_id = %s", asset) == 0
    again = reconcile(house.db, house.settings, house.engine.ocr_model)
    assert again is not None
    assert (again.healed, again.triggers) == (0, 0)
    later = Worker(house.settings, house.url, house.engine)
    later.start()
    new = FakeImmich(house.url, Path(immich.media_dir))
    found = new.upload(SAMPLES / "shape-red-circle-exit.jpg")
    house.settle()
    later.stop()
    rows = house.db.execute("SELECT asset_id FROM indexer_v1.search('出口')").fetchall()
    assert rows == [(found,)]


def test_a_trigger_function_that_fails_does_not_fail_an_upload(house: House) -> None:
    immich = house.immich
    house.worker.stop()
    house.db.execute(
        "CREATE OR REPLACE FUNCTION indexer_v1.enqueue(asset_ids uuid[], tasks text[] DEFAULT"
        " '{ocr,clip}', priority integer DEFAULT 0, force boolean DEFAULT false) RETURNS bigint"
        " LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken on purpose'; END $$"
    )
    asset = immich.upload(SAMPLES / "parking-small.jpg")
    immich.edit(asset, Edit("rotate", {"angle": 90}))
    immich.trash(asset)
    immich.restore(asset)
    immich.tag(asset, "reprocess/ocr")
    assert house.ask('SELECT count(*) FROM asset_file WHERE "assetId" = %s', asset) == 6
    assert house.ask("SELECT count(*) FROM indexer_v1.job") == 0
    # Whole again, what was missed is found.
    house.db.execute("DELETE FROM indexer_v1.migration WHERE name LIKE 'functions/40%%'")
    repairs = reconcile(house.db, house.settings, house.engine.ocr_model)
    assert repairs is not None
    assert (repairs.jobs, repairs.tags) == (2, 1)
    immich.delete(asset)


def test_detach_removes_every_trace(house: House) -> None:
    immich = house.immich
    immich.upload(SAMPLES / "parking-small.jpg")
    house.settle()
    house.worker.stop()
    removed = detach(house.db)
    assert "schema indexer_v1" in removed
    assert len([line for line in removed if line.startswith("trigger")]) == 7
    assert not house.ask("SELECT to_regnamespace('indexer_v1') IS NOT NULL")
    assert not house.ask(
        "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgname LIKE 'immich_indexer%%')"
    )
    immich.upload(SAMPLES / "shape-red-circle-exit.jpg")  # Immich goes on
    assert detach(house.db) == []


def test_detach_can_keep_the_results(house: House) -> None:
    asset = house.immich.upload(SAMPLES / "parking-small.jpg")
    house.settle()
    house.worker.stop()
    detach(house.db, keep_data=True)
    assert not house.ask(
        "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgname LIKE 'immich_indexer%%')"
    )
    house.immich.upload(SAMPLES / "shape-red-circle-exit.jpg")
    prepare(house.url, house.settings, choose_clip_model=True)
    assert house.ask("SELECT count(*) FROM indexer_v1.ocr WHERE asset_id = %s", asset) == 1
    reconcile(house.db, house.settings, house.engine.ocr_model)
    jobs = house.ask("SELECT count(*) FROM indexer_v1.job")
    assert jobs == 2  # what came meanwhile, and only that
