"""Boxes of an edited photo, as Immich keeps them: those of the unedited one."""

from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from immich.events import Edit, FakeImmich
from pg.migrate import migrate
from pg.query import fetch_value

Point = tuple[float, float]
WIDTH, HEIGHT = 400, 300
# Of a line at the upper left of the unedited picture, where it begins first.
LINE: list[Point] = [(40.0, 30.0), (140.0, 36.0), (138.0, 60.0), (38.0, 54.0)]


def as_shown(points: list[Point], edits: tuple[Edit, ...]) -> list[float]:
    """What Immich 3.1 answers to ``GET /api/assets/{id}/ocr``: transformOcrBoundingBox."""
    width, height = float(WIDTH), float(HEIGHT)
    for edit in edits:
        at = edit.parameters
        if edit.action == "crop":
            points = [(x - float(at["x"]), y - float(at["y"])) for x, y in points]
            width, height = float(at["width"]), float(at["height"])
        elif edit.action == "mirror":
            points = [
                (width - x, y) if at["axis"] == "horizontal" else (x, height - y) for x, y in points
            ]
        for _ in range(int(at.get("angle", 0)) // 90):  # a quarter clockwise
            points = [(height - y, x) for x, y in points]
            width, height = height, width
    turns = next((int(e.parameters["angle"]) // 90 for e in edits if e.action == "rotate"), 0)
    points = points[4 - turns :] + points[: 4 - turns]
    return [share for x, y in points for share in (x / width, y / height)]


@pytest.fixture
def asset(immich: FakeImmich) -> UUID:
    migrate(immich.db)
    found = immich.upload(b"never decoded")
    immich.set_exif(found, exifImageWidth=WIDTH, exifImageHeight=HEIGHT)
    return found


CROP = Edit.crop(20, 10, 200, 150)


@pytest.mark.parametrize(
    "edits",
    [
        (),
        (CROP,),
        (Edit.rotate(90),),
        (Edit.rotate(180),),
        (Edit.rotate(270),),
        (Edit.mirror("horizontal"),),
        (Edit.mirror("vertical"),),
        (CROP, Edit.rotate(90), Edit.mirror("horizontal")),
        (CROP, Edit.rotate(270), Edit.mirror("vertical")),
        (CROP, Edit.mirror("horizontal"), Edit.rotate(90)),
    ],
    ids=lambda edits: " ".join(edit.action for edit in edits) or "none",
)
@pytest.mark.parametrize("sideways", [False, True])
def test_immich_shows_the_line_where_it_was_read(
    immich: FakeImmich, asset: UUID, edits: tuple[Edit, ...], sideways: bool
) -> None:
    if sideways:
        immich.set_exif(asset, orientation="6", exifImageWidth=HEIGHT, exifImageHeight=WIDTH)
    immich.record_edits(asset, edits)
    read = as_shown(LINE, edits)
    kept = fetch_value(immich.db, "SELECT indexer_v1.unedited_box(%s, %s)", [asset, Jsonb(read)])
    expected = [share for x, y in LINE for share in (x / WIDTH, y / HEIGHT)]
    assert kept == pytest.approx(expected, abs=1e-6)


def test_without_the_size_there_is_no_box(immich: FakeImmich, asset: UUID) -> None:
    immich.set_exif(asset, exifImageWidth=None)
    read = as_shown(LINE, ())
    assert (
        fetch_value(immich.db, "SELECT indexer_v1.unedited_box(%s, %s)", [asset, Jsonb(read)])
        is None
    )
