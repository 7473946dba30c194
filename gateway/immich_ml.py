"""Immich's machine-learning contract: what it asks, and the forms in which it wants the answers.

Source: requests recorded from Immich 3.1 and ``machine-learning/immich_ml`` in
immich-app/immich (``main.py``, ``schemas.py``). The older form of OCR is that of the fork
eric-gitta-moore/immich (``machine-learning.repository.ts``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from gateway.errors import Unprocessable
from indexer.immich import clean_name
from indexer.models.faces import PACKS
from indexer.models.images import Photo
from indexer.models.types import Embedding, Face, FaceOptions, Line, OcrOptions
from indexer.settings import Settings

FACES = "facial-recognition"
LEGACY_OCR_MODEL = "ocr"

T = TypeVar("T")


class Entry(msgspec.Struct, rename="camel"):
    """One model that a task asks for."""

    model_name: Annotated[str, Meta(min_length=1, max_length=200)]
    options: dict[str, Any] | None = None


class _Detection(msgspec.Struct, rename="camel"):
    min_score: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_resolution: Annotated[int, Meta(ge=32, le=16384)] | None = None


class _Recognition(msgspec.Struct, rename="camel"):
    min_score: Annotated[float, Meta(ge=0, le=1)] | None = None


Entries = Mapping[str, object]
"""By task: its types and their models, in any form that encodes to what Immich sends."""


@dataclass(frozen=True, slots=True)
class Clip:
    """``clip``: of a picture or of a text."""

    kind: Literal["visual", "textual"]
    model_name: str


@dataclass(frozen=True, slots=True)
class Ocr:
    """``ocr``; `legacy` in the older fork's form."""

    options: OcrOptions
    legacy: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request asks for.

    Attributes:
        clip, ocr, faces: tasks that are served here, where asked for.
        elsewhere: entries of every other task, as they came.
    """

    clip: Clip | None
    ocr: Ocr | None
    faces: FaceOptions | None
    elsewhere: Entries

    @property
    def here(self) -> bool:
        """True where something is to be done by this server."""
        return any(task is not None for task in (self.clip, self.ocr, self.faces))

    def __str__(self) -> str:
        tasks = [f"clip.{self.clip.kind}"] if self.clip else []
        tasks += ["ocr"] if self.ocr else []
        tasks += [FACES] if self.faces else []
        return ",".join([*tasks, *self.elsewhere])


def parse_entries(raw: bytes, settings: Settings) -> Asked:
    """Parse the ``entries`` part.

    What a request leaves out of an OCR task's options is taken from `settings`.

    Raises:
        Unprocessable: not JSON, not of the form, no task, or a task that makes no sense.
    """
    try:
        entries = msgspec.json.decode(raw, type=dict[str, dict[str, msgspec.Raw]])
        here = ["clip", "ocr", *([FACES] if settings.faces_by == "insightface" else [])]
        mine = {
            task: {kind: msgspec.json.decode(entry, type=Entry) for kind, entry in types.items()}
            for task in here
            if (types := entries.pop(task, {}))
        }
    except msgspec.DecodeError as error:
        raise Unprocessable(f"The entries have the wrong form: {error}.") from None
    if not (mine or any(entries.values())):
        raise Unprocessable("The entries name no task.")
    return Asked(
        clip=_clip(mine["clip"]) if "clip" in mine else None,
        ocr=_ocr(mine["ocr"], settings) if "ocr" in mine else None,
        faces=_faces(mine[FACES]) if FACES in mine else None,
        elsewhere=entries,
    )


def _clip(types: Mapping[str, Entry]) -> Clip:
    match list(types.items()):
        case [("visual" | "textual" as kind, entry)]:
            return Clip("visual" if kind == "visual" else "textual", entry.model_name)
        case _:
            raise Unprocessable(
                "Task clip takes one of the types visual and textual, "
                f"not {', '.join(sorted(types))}: both would be answered under the same name."
            )


def _ocr(types: Mapping[str, Entry], settings: Settings) -> Ocr:
    detection, recognition = types.get("detection"), types.get("recognition")
    unknown = types.keys() - {"detection", "recognition"}
    legacy = detection is None and recognition and recognition.model_name == LEGACY_OCR_MODEL
    if recognition is None or unknown or not (detection or legacy):
        raise Unprocessable(
            "Task ocr takes the types detection and recognition together, "
            f"not {', '.join(sorted(types))}."
        )
    found = _options(detection.options if detection else None, _Detection, "detection")
    read = _options(recognition.options, _Recognition, "recognition")
    return Ocr(
        OcrOptions(
            min_box_score=_or(found.min_score, settings.ocr_min_box_score),
            min_text_score=_or(read.min_score, settings.ocr_min_text_score),
            max_resolution=_or(found.max_resolution, settings.ocr_max_resolution),
        ),
        legacy=bool(legacy),
    )


def _faces(types: Mapping[str, Entry]) -> FaceOptions:
    if types.keys() != {"detection", "recognition"}:
        raise Unprocessable(
            f"Task {FACES} takes the types detection and recognition together, "
            f"not {', '.join(sorted(types))}."
        )
    pack, other = (clean_name(types[kind].model_name) for kind in ("detection", "recognition"))
    if pack not in PACKS or pack != other:
        raise Unprocessable(
            f"Task {FACES} takes one of {', '.join(PACKS)} for both of its types, "
            f"not {pack} and {other}."
        )
    found = _options(types["detection"].options, _Detection, "detection", FACES)
    return FaceOptions(pack) if found.min_score is None else FaceOptions(pack, found.min_score)


def _options(given: dict[str, Any] | None, form: type[T], type_name: str, task: str = "ocr") -> T:
    try:
        return msgspec.convert(given or {}, form)
    except msgspec.ValidationError as error:
        raise Unprocessable(f"Task {task}, type {type_name}: options: {error}.") from None


def _or(given: T | None, default: T) -> T:
    return default if given is None else given


def clip_answer(embedding: Embedding) -> str:
    """Return a vector as Immich wants it: a string that holds a JSON array.

    Immich hands the string to PostgreSQL as it is. Each number is the shortest that reads back
    as the same float32.
    """
    return f"[{','.join(map(str, embedding))}]"


def faces_answer(faces: list[Face]) -> list[dict[str, Any]]:
    """Return faces as Immich wants them: boxes in whole pixels, embeddings as `clip_answer`."""
    return [
        {
            "boundingBox": {"x1": face.x1, "y1": face.y1, "x2": face.x2, "y2": face.y2},
            "embedding": clip_answer(face.embedding),
            "score": face.score,
        }
        for face in faces
    ]


def ocr_answer(lines: list[Line]) -> dict[str, Any]:
    """Return today's form: four parallel lists, eight box numbers (0..1) for each line."""
    return {
        "text": [line.text for line in lines],
        "box": [number for line in lines for number in line.box],
        "boxScore": [line.box_score for line in lines],
        "textScore": [line.text_score for line in lines],
    }


def legacy_ocr_answer(lines: list[Line], photo: Photo) -> dict[str, Any]:
    """Return the older fork's form: boxes are upright, in whole pixels of the image received."""
    boxes = []
    for line in lines:
        xs, ys = line.box[0::2], line.box[1::2]
        boxes.append(
            {
                "x1": round(min(xs) * photo.width),
                "y1": round(min(ys) * photo.height),
                "x2": round(max(xs) * photo.width),
                "y2": round(max(ys) * photo.height),
            }
        )
    return {
        "ocr": " ".join(line.text for line in lines),
        "result": {
            "texts": [line.text for line in lines],
            "scores": [f"{line.text_score:.2f}" for line in lines],
            "boxes": boxes,
        },
    }
