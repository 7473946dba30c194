"""Which models read text: those in RapidOCR's wheel, its successor's, or a person's own files.

All are PP-OCR's as RapidOCR publishes them: they take the same pictures and give the same kind of
answer, so `ocr.OcrReader` runs any of them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import NamedTuple

from indexer.settings import SettingsError

DEFAULT = "PP-OCRv4"
SUCCESSOR = "PP-OCRv6"

_DETECTOR = "det.onnx"
_RECOGNISER = "rec.onnx"
_CHARACTERS = "keys.txt"


class OcrModels(NamedTuple):
    """Files of a detector and a recogniser that belong together.

    Attributes:
        name: recorded with every result: text read with other models can be found and read again.
        characters: what the recogniser knows, a line each; None: the file itself says so.
        remedy: what to do when they can't be loaded.
    """

    name: str
    detector: Path
    recogniser: Path
    characters: Path | None
    remedy: str


def find(wanted: str) -> OcrModels:
    """Find the files of a model.

    Args:
        wanted: `DEFAULT`, `SUCCESSOR`, or a folder, see OCR_MODEL.

    Raises:
        SettingsError: there are none; says what to install or to put where.
    """
    if wanted == DEFAULT:
        folder = _package("rapidocr_onnxruntime") / "models"
        return OcrModels(
            "rapidocr-onnxruntime-1.4.4",
            folder / "ch_PP-OCRv4_det_infer.onnx",
            folder / "ch_PP-OCRv4_rec_infer.onnx",
            None,
            "reinstall rapidocr-onnxruntime",
        )
    if wanted == SUCCESSOR:
        return _successor()
    return _of_folder(Path(wanted).expanduser())


def _successor() -> OcrModels:
    install = "pip install '.[ocr-v6]'"
    if importlib.util.find_spec("rapidocr") is None:
        raise SettingsError(f"OCR_MODEL is {SUCCESSOR}, whose package isn't installed: {install}")
    folder = _package("rapidocr") / "models"
    models = OcrModels(
        f"{SUCCESSOR}-rapidocr-{importlib.metadata.version('rapidocr')}",
        folder / "PP-OCRv6_det_small.onnx",
        folder / "PP-OCRv6_rec_small.onnx",
        None,
        "reinstall rapidocr",
    )
    for path in (models.detector, models.recogniser):
        if not path.is_file():
            raise SettingsError(
                f"OCR_MODEL is {SUCCESSOR}, but this version of rapidocr doesn't bring "
                f"{path.name}: {install}"
            )
    return models


def _of_folder(folder: Path) -> OcrModels:
    if not folder.is_dir():
        raise SettingsError(
            f"OCR_MODEL is {str(folder)!r}: it takes {DEFAULT}, {SUCCESSOR}, or a folder with "
            f"{_DETECTOR} and {_RECOGNISER}"
        )
    for name in (_DETECTOR, _RECOGNISER):
        if not (folder / name).is_file():
            raise SettingsError(f"OCR_MODEL is {str(folder)!r}, in which there is no {name}")
    detector, recogniser, characters = (
        folder / name for name in (_DETECTOR, _RECOGNISER, _CHARACTERS)
    )
    files = [path for path in (detector, recogniser, characters) if path.is_file()]
    return OcrModels(
        f"{folder.name}-{_digest(*((path, path.stat().st_mtime_ns) for path in files))[:12]}",
        detector,
        recogniser,
        characters if characters in files else None,
        f"look at the files in {folder}",
    )


@functools.lru_cache(maxsize=4)
def _digest(*files: tuple[Path, int]) -> str:
    """Of what is in the files; with their times, which it is cached by."""
    whole = hashlib.sha256()
    for path, _ in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _package(name: str) -> Path:
    """Folder of an installed package; imports nothing."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SettingsError(f"{name} isn't installed: pip install -c constraints.txt .")
    return Path(spec.origin).parent
