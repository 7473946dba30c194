"""The test Immich does what the reference records of the real one."""

import subprocess
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

import psycopg
import pytest
from PIL import Image

from immich.base import Variant
from immich.events import Edit, FakeImmich
from immich.media import search_text
from indexer.models.types import Line

BOTH = pytest.mark.parametrize("variant", ["3.1", "2.3"])


def picture(colour: str = "red", size: tuple[int, int] = (300, 200)) -> bytes:
    out = BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def line(text: str, x: float = 0.1, y: float = 0.1) -> Line:
    box = (x, y, x + 0.2, y, x + 0.2, y + 0.1, x, y + 0.1)
    return Line(text, box, 0.9, 0.8)


def all_of(immich: FakeImmich, query: str, *values: Any) -> list[tuple[Any, ...]]:
    return immich.db.execute(query.encode(), values).fetchall()


def texts(immich: FakeImmich) -> list[str]:
    return [text for (text,) in all_of(immich, "SELECT text FROM ocr_search")]


@pytest.fixture
def history(immich: FakeImmich) -> FakeImmich:
    """An Immich whose statements on assets and files are recorded, with their transactions."""
    immich.db.execute(
        """
        CREATE TABLE history (
            n serial, xid xid8 DEFAULT pg_current_xact_id(), what text, rows jsonb);
        CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            changed jsonb;
        BEGIN
            IF TG_LEVEL = 'ROW' THEN
                changed := to_jsonb(coalesce(NEW, OLD));
            END IF;
            INSERT INTO history (what, rows) VALUES (TG_OP || ' ' || TG_TABLE_NAME, changed);
            RETURN NULL;
        END $$;
        """
    )
    for table in ("asset", "asset_file", "asset_edit", "smart_search", "asset_ocr", "ocr_search"):
        if all_of(immich, "SELECT to_regclass(%s)", table) != [(None,)]:
            immich.db.execute(
                f"CREATE TRIGGER record AFTER INSERT OR UPDATE OR DELETE ON {table}"
                " FOR EACH ROW EXECUTE FUNCTION record()".encode()
            )
            immich.db.execute(
                f"CREATE TRIGGER record_truncate AFTER TRUNCATE ON {table}"
                " FOR EACH STATEMENT EXECUTE FUNCTION record()".encode()
            )
    return immich


def transactions(immich: FakeImmich) -> list[list[str]]:
    """What was recorded since the last call, a list for each transaction."""
    found = all_of(
        immich,
        "SELECT array_agg(what ORDER BY n) FROM history GROUP BY xid ORDER BY min(n)",
    )
    immich.db.execute("DELETE FROM history")
    return [list(row[0]) for row in found]


@BOTH
def test_upload(history: FakeImmich, variant: Variant) -> None:
    asset = history.upload(picture(size=(3000, 2000)), name="票.png")
    seen = transactions(history)
    files = seen.index(["INSERT asset_file", "INSERT asset_file"])
    assert seen[0] == ["INSERT asset"]
    assert seen[files + 1 :] == [["UPDATE asset"]]
    with Image.open(history.preview_path(asset)) as preview:
        assert (preview.format, preview.size) == ("JPEG", (2160, 1440))
    assert all_of(history, 'SELECT "originalFileName", type FROM asset') == [("票.png", "IMAGE")]

    assert history.upload(picture(size=(3000, 2000))) == asset
    assert transactions(history) == []


@BOTH
def test_upload_of_a_broken_file_has_no_preview(immich: FakeImmich, variant: Variant) -> None:
    immich.upload(b"not a photo")
    assert all_of(immich, "SELECT count(*) FROM asset_file") == [(0,)]
    assert all_of(immich, "SELECT count(*) FROM asset") == [(1,)]


@BOTH
def test_video(immich: FakeImmich, variant: Variant) -> None:
    asset = immich.upload_video(picture())
    assert immich.preview_path(asset).exists()
    kinds = {kind for (kind,) in all_of(immich, "SELECT type FROM asset_file")}
    assert {"preview", "thumbnail"} <= kinds
    assert all_of(immich, "SELECT type FROM asset") == [("VIDEO",)]


def test_media_seen_at_another_place(database: str, tmp_path: Path) -> None:
    immich = FakeImmich(database, tmp_path, location=PurePosixPath("/data"))
    asset = immich.upload(picture())
    paths = [path for (path,) in all_of(immich, "SELECT path FROM asset_file")]
    assert all(path.startswith("/data/thumbs/") for path in paths)
    assert immich.preview_path(asset).is_relative_to(tmp_path)
    assert immich.preview_path(asset).exists()
    immich.close()


def test_regenerated_thumbnails_blank_the_search_text(history: FakeImmich) -> None:
    asset = history.upload(picture())
    history.save_ocr(asset, [line("增值税发票")])
    before = history.preview_path(asset).stat().st_mtime_ns
    transactions(history)
    history.regenerate_thumbnails(asset)
    assert transactions(history) == [["UPDATE ocr_search"]]
    assert texts(history) == [""]
    assert history.preview_path(asset).stat().st_mtime_ns > before


def test_crop_and_undo(history: FakeImmich) -> None:
    asset = history.upload(picture(size=(400, 400)))
    history.save_ocr(asset, [line("增值税发票"), line("金额", x=0.7, y=0.7)])
    plain = history.preview_path(asset)
    transactions(history)

    history.edit(asset, Edit.crop(0, 0, 200, 100), Edit.rotate(90))
    assert transactions(history) == [
        ["INSERT asset_edit", "INSERT asset_edit", "UPDATE asset"],
        ["UPDATE asset_ocr", "UPDATE asset_ocr", "UPDATE ocr_search"],
        ["INSERT asset_file", "INSERT asset_file", "INSERT asset_file"],
        ["UPDATE asset"],
        ["UPDATE asset"],
    ]
    edited = history.preview_path(asset, edited=True)
    with Image.open(edited) as preview:
        assert preview.size == (100, 200)
    assert plain.exists()
    assert plain != edited
    assert texts(history) == ["增值税发票"]
    shown = 'SELECT text FROM asset_ocr WHERE "isVisible" ORDER BY text COLLATE "C"'
    assert all_of(history, shown) == [("增值税发票",)]
    assert all_of(history, 'SELECT "isEdited", width, height FROM asset') == [(True, 100, 200)]

    history.undo_edit(asset)
    assert transactions(history) == [
        ["DELETE asset_edit", "DELETE asset_edit", "UPDATE asset"],
        ["UPDATE asset_ocr", "UPDATE ocr_search"],
        ["DELETE asset_file", "DELETE asset_file", "DELETE asset_file"],
        ["UPDATE asset"],
        ["UPDATE asset"],
    ]
    assert not edited.exists()
    assert texts(history) == ["金额"]  # what was hidden, and only that
    assert all_of(history, 'SELECT "isEdited", width, height FROM asset') == [(False, 400, 400)]


def test_an_edit_without_a_crop_blanks_the_search_text(history: FakeImmich) -> None:
    asset = history.upload(picture(size=(400, 400)))
    history.save_ocr(asset, [line("增值税发票")])
    transactions(history)
    history.edit(asset, Edit.rotate(90))
    assert transactions(history)[1] == ["UPDATE ocr_search"]
    assert texts(history) == [""]
    # Edited once more, the files are where they were; of one colour, it has the same thumbhash.
    history.edit(asset, Edit.rotate(180))
    assert transactions(history) == [
        ["DELETE asset_edit", "UPDATE asset", "INSERT asset_edit", "UPDATE asset"],
        ["UPDATE ocr_search"],
        ["UPDATE asset"],
    ]


@BOTH
def test_trash_restore_delete(history: FakeImmich, variant: Variant) -> None:
    first, second = history.upload(picture("red")), history.upload(picture("blue"))
    history.save_embedding(first, [0.5] * 512)
    path = history.preview_path(first)
    transactions(history)
    history.trash(first, second)
    assert transactions(history) == [["UPDATE asset", "UPDATE asset"]]
    history.restore(second)
    assert transactions(history) == [["UPDATE asset"]]
    history.delete(first)
    seen = transactions(history)
    assert seen[0] == ["UPDATE asset"]
    assert sorted(seen[1]) == [
        *("DELETE asset", "DELETE asset_file", "DELETE asset_file", "DELETE smart_search")
    ]
    assert not path.exists()
    assert all_of(history, "SELECT id, status::text FROM asset") == [(second, "active")]


@BOTH
def test_machine_learning_results(history: FakeImmich, variant: Variant) -> None:
    asset = history.upload(picture())
    transactions(history)
    history.save_embedding(asset, [0.25] * 512)
    history.save_embedding(asset, [0.5] * 512)
    assert transactions(history) == [["INSERT smart_search"], ["UPDATE smart_search"]]
    history.save_ocr(asset, [line("发票 No.12"), line("合计")])
    assert sorted(transactions(history)[0]) == [
        *("INSERT asset_ocr", "INSERT asset_ocr", "INSERT ocr_search")
    ]
    assert texts(history) == ["发票 No.12 合计"]
    assert [found.text for found in history.ocr_lines(asset).values()] == ["发票 No.12", "合计"]
    history.save_ocr(asset, [])
    assert texts(history) == []
    assert all_of(history, 'SELECT "ocrAt" IS NOT NULL FROM asset_job_status') == [(True,)]


def test_ocr_all_truncates(history: FakeImmich) -> None:
    history.save_ocr(history.upload(picture()), [line("发票")])
    transactions(history)
    history.ocr_all()
    assert transactions(history) == [["TRUNCATE asset_ocr", "TRUNCATE ocr_search"]]
    assert all_of(history, 'SELECT "ocrAt" IS NOT NULL FROM asset_job_status') == [(True,)]


def test_smart_search_all_deletes(history: FakeImmich) -> None:
    asset = history.upload(picture())
    history.save_embedding(asset, [0.5] * 512)
    transactions(history)
    history.smart_search_all()
    assert transactions(history) == [["DELETE smart_search"]]
    history.save_embedding(asset, [0.5] * 512)


def test_another_clip_model(immich: FakeImmich) -> None:
    asset = immich.upload(picture())
    immich.save_embedding(asset, [0.5] * 512)
    immich.change_clip_model("cn-clip/ViT-B-16__openai", 512)
    assert all_of(immich, "SELECT count(*) FROM smart_search") == [(0,)]
    immich.change_clip_model("cn-clip/ViT-L-14__openai", 768)
    with pytest.raises(psycopg.errors.DataException):
        immich.save_embedding(asset, [0.5] * 512)
    immich.save_embedding(asset, [0.5] * 768)
    assert all_of(immich, "SELECT value FROM system_metadata WHERE key = 'system-config'") == [
        ({"machineLearning": {"clip": {"modelName": "cn-clip/ViT-L-14__openai"}}},)
    ]
    assert all_of(immich, "SELECT count(*) FROM pg_indexes WHERE indexname = 'clip_index'") == [
        (1,)
    ]


@BOTH
def test_tags(immich: FakeImmich, variant: Variant) -> None:
    asset = immich.upload(picture())
    immich.tag(asset, "reprocess/ocr")
    immich.tag(asset, "旅行")
    assert immich.tags(asset) == ["reprocess/ocr", "旅行"]
    closure = (
        "SELECT a.value, d.value FROM tag_closure JOIN tag a ON a.id = id_ancestor"
        " JOIN tag d ON d.id = id_descendant WHERE d.value LIKE 'reprocess%%' ORDER BY 1, 2"
    )
    assert all_of(immich, closure) == [
        ("reprocess", "reprocess"),
        ("reprocess", "reprocess/ocr"),
        ("reprocess/ocr", "reprocess/ocr"),
    ]
    immich.untag(asset, "reprocess/ocr")
    immich.refresh_metadata(asset)
    assert immich.tags(asset) == ["旅行"]


def test_tag_taken_off_behind_immichs_back_comes_again(immich: FakeImmich) -> None:
    asset = immich.upload(picture())
    tag = immich.tag(asset, "reprocess/ocr")
    immich.db.execute('DELETE FROM tag_asset WHERE "tagId" = %s', [tag])
    immich.set_exif(asset, tags=[])  # which the sidecar outlives
    immich.refresh_metadata(asset)
    assert immich.tags(asset) == ["reprocess/ocr"]


@BOTH
def test_people_albums_and_stacks(immich: FakeImmich, variant: Variant) -> None:
    bob = immich.add_user("bob")
    mine, his = immich.upload(picture("red")), immich.upload(picture("blue"), owner=bob)
    immich.partner(bob, immich.owner)
    immich.album("旅行", [mine, his])
    immich.stack(mine, immich.upload(picture("green")))
    immich.add_face(mine, immich.add_person("小明"))
    immich.set_exif(mine, city="杭州", rating=5)
    immich.set_visibility(his, "locked")
    immich.set_favorite(mine)
    rows = all_of(
        immich,
        'SELECT a.visibility::text, a."isFavorite", e.city, count(aa.*), count(f.*)'
        ' FROM asset a JOIN asset_exif e ON e."assetId" = a.id'
        ' LEFT JOIN album_asset aa ON aa."assetId" = a.id'
        ' LEFT JOIN asset_face f ON f."assetId" = a.id WHERE a.id = ANY (%s)'
        " GROUP BY a.id, e.city ORDER BY 1",
        [mine, his],
    )
    assert rows == [("locked", False, None, 1, 0), ("timeline", True, "杭州", 1, 1)]
    assert all_of(immich, 'SELECT "inTimeline" FROM partner') == [(True,)]


@BOTH
def test_backup_and_restore(immich: FakeImmich, variant: Variant) -> None:
    asset = immich.upload(picture())
    immich.save_ocr(asset, [line("增值税发票")])
    immich.save_embedding(asset, [0.5] * 512)
    backup = immich.dump()
    immich.save_ocr(asset, [])
    immich.upload(picture("blue"))
    immich.restore_backup(backup)
    assert texts(immich) == ["增值 值税 税发 发票"]
    assert all_of(immich, "SELECT id FROM asset") == [(asset,)]
    assert all_of(immich, "SELECT count(*) FROM smart_search") == [(1,)]
    immich.trash(asset)


def test_restore_stops_at_the_first_error(immich: FakeImmich) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        immich.restore_backup(b"SELECT 1 / 0;\nCREATE TABLE never ();\n")
    assert b"division by zero" in caught.value.stderr
    assert all_of(immich, "SELECT to_regclass('never')") == [(None,)]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("增值税发票", "增值 值税 税发 发票"),
        ("好", "好"),
        ("hello world", "hello world"),
        ("共12元", "共 12 元"),
        ("全角！ＡＢ", "全角 ！ＡＢ"),
        ("カタカナとkana", "カタ タカ カナ ナと kana"),
        ("한국어\ttab", "한국 국어 tab"),
        ("宽　空格", "宽 　 空格"),
        ("𠀀𠀁", "𠀀𠀁"),
        ("  ", ""),
    ],
)
def test_search_tokens(text: str, tokens: str) -> None:
    assert search_text([text]) == tokens


def test_ids_are_in_the_order_of_time(immich: FakeImmich) -> None:
    ((first, second),) = all_of(
        immich,
        "SELECT immich_uuid_v7('2024-01-01'), immich_uuid_v7('2024-01-01 00:00:00.001')",
    )
    assert first < second
    assert isinstance(first, UUID)
    assert first.version == 7


def test_changes_move_the_update_id(immich: FakeImmich) -> None:
    asset = immich.upload(picture())
    ((before,),) = all_of(immich, 'SELECT "updateId" FROM asset')
    immich.set_favorite(asset)
    ((after,),) = all_of(immich, 'SELECT "updateId" FROM asset')
    assert after != before
