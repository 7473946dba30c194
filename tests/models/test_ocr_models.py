"""Which models read text: by name, from a folder; what is wrong with them is said."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

import immich_indexer
from indexer.models import images, ocr_models
from indexer.models.cores import Share
from indexer.models.engine import Engine
from indexer.models.ocr import OcrReader
from indexer.models.types import Lane, ModelUnavailable, OcrOptions
from indexer.settings import Settings, SettingsError

SIGN = Path(immich_indexer.__file__).parent / "samples" / "shape-red-circle-exit.jpg"
PATIENCE = 120.0


def sign() -> images.Photo:
    return images.decode(SIGN.read_bytes(), max_bytes=10**8, max_pixels=10**8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The default models, as a person's own files."""
    default = ocr_models.find(ocr_models.DEFAULT)
    (tmp_path / "mine").mkdir()
    shutil.copy(default.detector, tmp_path / "mine" / "det.onnx")
    shutil.copy(default.recogniser, tmp_path / "mine" / "rec.onnx")
    return tmp_path / "mine"


def without_characters(path: Path) -> list[str]:
    """Take the characters out of a recogniser; returns them."""
    import onnx

    model = onnx.load(str(path))
    (entry,) = (one for one in model.metadata_props if one.key == "character")
    characters = str(entry.value).splitlines()
    del model.metadata_props[:]
    onnx.save(model, str(path))
    return characters


def test_models_from_a_folder_read(folder: Path) -> None:
    models = ocr_models.find(str(folder))
    assert models.characters is None
    reader = OcrReader(share=Share(1, 1), models=models, openvino="auto")
    assert [line.text for line in reader.read(sign(), OcrOptions())] == ["出口"]


def test_characters_from_a_file(folder: Path) -> None:
    characters = without_characters(folder / "rec.onnx")
    with pytest.raises(ValueError, match="character"):
        OcrReader(share=Share(1, 1), models=ocr_models.find(str(folder)))
    (folder / "keys.txt").write_text("\n".join(characters) + "\n", "utf-8")
    reader = OcrReader(share=Share(1, 1), models=ocr_models.find(str(folder)))
    assert [line.text for line in reader.read(sign(), OcrOptions())] == ["出口"]


def test_other_characters_than_the_recogniser_s_are_refused(folder: Path) -> None:
    characters = without_characters(folder / "rec.onnx")
    (folder / "keys.txt").write_text("\n".join(characters[1:]) + "\n", "utf-8")
    engine = Engine(Settings(clip_model="stand-in", ocr_model=str(folder)))
    try:
        reading = engine.read_text(sign(), OcrOptions(), Lane.INTERACTIVE)
        with pytest.raises(ModelUnavailable, match=r"but 6622 are listed\): look at the files in "):
            reading.result(PATIENCE)
    finally:
        engine.close()


def test_the_name_changes_with_the_files(folder: Path) -> None:
    def name() -> str:
        return Engine(Settings(ocr_model=str(folder))).ocr_model(OcrOptions())

    before = name()
    assert before.startswith("mine-")
    assert name() == before
    without_characters(folder / "rec.onnx")
    assert name() != before
    assert Engine(Settings()).ocr_name == "rapidocr-onnxruntime-1.4.4"


def test_a_folder_that_lacks_a_file_is_refused_at_the_start(folder: Path) -> None:
    (folder / "rec.onnx").unlink()
    with pytest.raises(SettingsError, match=r"OCR_MODEL is '.*mine', in which there is no rec"):
        Engine(Settings(ocr_model=str(folder)))
    with pytest.raises(SettingsError, match=r"it takes PP-OCRv4, PP-OCRv6, or a folder with det"):
        Engine(Settings(ocr_model=str(folder / "nothing")))


def test_the_successor_reads_where_it_is_installed() -> None:
    if importlib.util.find_spec("rapidocr") is None:
        pytest.skip("rapidocr isn't installed: pip install '.[ocr-v6]'")
    models = ocr_models.find(ocr_models.SUCCESSOR)
    reader = OcrReader(share=Share(1, 1), models=models, openvino="auto")
    assert [line.text for line in reader.read(sign(), OcrOptions())] == ["出口"]
    assert models.name.startswith("PP-OCRv6-rapidocr-")


def test_without_the_successor_it_is_said_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"isn't installed: pip install '\.\[ocr-v6\]'"):
        ocr_models.find(ocr_models.SUCCESSOR)
