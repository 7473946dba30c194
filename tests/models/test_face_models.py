"""Faces through InsightFace's own loading and inference, on stand-ins of its models."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from indexer.models.engine import Engine
from indexer.models.faces import PACKS
from indexer.models.images import Photo, decode
from indexer.models.types import FaceOptions, Lane, ModelUnavailable
from indexer.settings import Settings

pytest.importorskip("insightface", reason="pip install '.[faces]'")
import face_stand_ins

Colour = tuple[int, int, int]
RED: Colour = (255, 0, 0)
ORANGE: Colour = (255, 128, 0)  # less sure a face


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("insightface")
    face_stand_ins.write_pack(made / "models" / "buffalo_l", PACKS["buffalo_l"])
    return made


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[Engine]:
    made = Engine(settings(home))
    yield made
    made.close()


def settings(home: Path) -> Settings:
    return Settings(insightface_home=home, clip_model="stand-in", clip_download="off")


def photo(
    *faces: tuple[int, int, Colour], size: tuple[int, int] = (640, 480), enlarged: int = 1
) -> Photo:
    """White, with squares at these places of the detector's grid."""
    image = Image.new("RGB", size, "white")
    for column, row, colour in faces:
        x, y = column * face_stand_ins.SIDE, row * face_stand_ins.SIDE
        ImageDraw.Draw(image).rectangle((x, y, x + 31, y + 31), fill=colour)
    image = image.resize((size[0] * enlarged, size[1] * enlarged), Image.Resampling.NEAREST)
    out = BytesIO()
    image.save(out, "PNG")
    return decode(out.getvalue(), max_bytes=10**9, max_pixels=10**9)


def find(engine: Engine, image: Photo, **options: float) -> list[tuple[list[int], float]]:
    faces = engine.find_faces(image, FaceOptions("buffalo_l", **options), Lane.BULK).result()
    return [([face.x1, face.y1, face.x2, face.y2], round(face.score, 1)) for face in faces]


def test_faces_have_boxes_and_scores(engine: Engine) -> None:
    picture = photo((3, 2, ORANGE), (10, 7, RED))
    red, orange = ([320, 224, 352, 256], 1.0), ([96, 64, 128, 96], 0.7)
    assert find(engine, picture, min_score=0.5) == [red, orange]
    # What one call asks for isn't kept for the next.
    assert find(engine, picture, min_score=0.9) == [red]
    assert find(engine, picture, min_score=0.5) == [red, orange]
    assert find(engine, photo()) == []


def test_boxes_are_of_the_picture_that_was_sent(engine: Engine) -> None:
    # 7 x 480 pixels of height: twice the short side that pictures are decoded at.
    large = photo((10, 7, RED), enlarged=7)
    assert large.image.height < large.height == 7 * 480
    ((box, _),) = find(engine, large)
    assert box == pytest.approx([7 * x for x in (320, 224, 352, 256)], abs=2)


def test_embeddings_are_of_the_aligned_face_as_the_recogniser_gives_them(engine: Engine) -> None:
    red, orange = engine.find_faces(
        photo((3, 2, ORANGE), (10, 7, RED)), FaceOptions(min_score=0.5), Lane.BULK
    ).result()
    for face, colour in ((red, RED), (orange, ORANGE)):
        assert (face.embedding.shape, face.embedding.dtype) == ((512,), np.float32)
        # Red comes first, and (value - 127.5) / 127.5: Immich's normalisation.
        expected = [(value - 127.5) / 127.5 for value in colour]
        assert face.embedding[:3] == pytest.approx(expected, abs=0.15)
    assert np.linalg.norm(red.embedding) > 2


def test_many_faces_at_once(engine: Engine) -> None:
    places = [(column, row, RED) for column in range(0, 20, 2) for row in range(0, 14, 4)]
    faces = engine.find_faces(photo(*places), FaceOptions(), Lane.BULK).result()
    assert sorted((face.x1 // 32, face.y1 // 32) for face in faces) == sorted(
        (column, row) for column, row, _ in places
    )
    assert all(face.embedding.shape == (512,) for face in faces)


def test_missing_files_are_named_and_found_once_they_are_there(home: Path, tmp_path: Path) -> None:
    engine = Engine(settings(tmp_path))
    folder = tmp_path / "models" / "buffalo_l"

    def refused() -> str:
        with pytest.raises(ModelUnavailable) as error:
            find(engine, photo((10, 7, RED)))
        return str(error.value)

    assert f"put det_10g.onnx and w600k_r50.onnx into {folder}" in refused()
    shutil.copytree(home / "models" / "buffalo_l", folder)
    (folder / "w600k_r50.onnx").unlink()
    assert f"put w600k_r50.onnx into {folder}" in refused()
    (folder / "w600k_r50.onnx").write_bytes(b"half a file")
    assert "put whole files into" in refused()
    shutil.copy(folder / "det_10g.onnx", folder / "w600k_r50.onnx")
    assert "w600k_r50.onnx" in refused()
    shutil.copy(home / "models" / "buffalo_l" / "w600k_r50.onnx", folder)
    assert len(find(engine, photo((10, 7, RED)))) == 1
    engine.close()


def test_without_insightface(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install '.[faces]'" in (engine.faces_problem("buffalo_l") or "")
