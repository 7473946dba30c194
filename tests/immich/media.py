"""What Immich makes of a photo: previews, edited previews, and search tokens of its text."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

pillow_heif.register_heif_opener()

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_RUNS = re.compile(rf"[{_CJK}]+|[^\x00-\x20{_CJK}]+")


@dataclass(frozen=True)
class Edit:
    """One entry of Immich's editor.

    Attributes:
        action: as in ``asset_edit.action``.
        parameters: crop ``x y width height`` in pixels of the upright original, rotate ``angle``
            clockwise, mirror ``axis``.
    """

    action: Literal["crop", "rotate", "mirror"]
    parameters: dict[str, int | str]

    @classmethod
    def crop(cls, x: int, y: int, width: int, height: int) -> Edit:
        return cls("crop", {"x": x, "y": y, "width": width, "height": height})

    @classmethod
    def rotate(cls, angle: Literal[90, 180, 270]) -> Edit:
        return cls("rotate", {"angle": angle})

    @classmethod
    def mirror(cls, axis: Literal["horizontal", "vertical"]) -> Edit:
        return cls("mirror", {"axis": axis})


def shows(crop: Mapping[str, float], box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether half of a line, or more, is in the cropped picture.

    Args:
        crop: parameters of the edit, in pixels.
        box: corners of the line, shares of the size.
        size: width and height of the unedited picture.
    """
    left, right = min(box[0::2]) * size[0], max(box[0::2]) * size[0]
    top, bottom = min(box[1::2]) * size[1], max(box[1::2]) * size[1]
    wide = min(right, crop["x"] + crop["width"]) - max(left, crop["x"])
    high = min(bottom, crop["y"] + crop["height"]) - max(top, crop["y"])
    return max(0.0, wide) * max(0.0, high) >= (right - left) * (bottom - top) / 2


def upright(data: bytes) -> Image.Image | None:
    """The picture, turned upright; None where Immich couldn't make thumbnails either."""
    try:
        return ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    except (UnidentifiedImageError, OSError):
        return None


def preview(image: Image.Image, short_side: int = 1440) -> bytes:
    """JPEG q80, its ICC profile kept, short side 1440, never enlarged (immich.md §1)."""
    scale = min(1.0, short_side / min(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    out = io.BytesIO()
    image.convert("RGB").resize(size).save(
        out, "JPEG", quality=80, icc_profile=image.info.get("icc_profile")
    )
    return out.getvalue()


def thumbnail(image: Image.Image) -> bytes:
    """WebP, short side 250."""
    small = image.convert("RGB")
    small.thumbnail((250, 250))
    out = io.BytesIO()
    small.save(out, "WEBP", quality=80)
    return out.getvalue()


def apply(image: Image.Image, edits: Sequence[Edit]) -> Image.Image:
    """The picture as Immich's editor shows it."""
    for edit in edits:
        values = edit.parameters
        if edit.action == "crop":
            x, y = int(values["x"]), int(values["y"])
            image = image.crop((x, y, x + int(values["width"]), y + int(values["height"])))
        elif edit.action == "rotate":
            image = image.rotate(-int(values["angle"]), expand=True)
        elif values["axis"] == "horizontal":
            image = ImageOps.mirror(image)
        else:
            image = ImageOps.flip(image)
    return image


def search_text(lines: Sequence[str]) -> str:
    """``ocr_search.text``: CJK as bigrams, other text on whitespace (immich.md §3).

    A single CJK character stands alone; kana and Hangul count as CJK, full-width signs don't.
    """
    tokens: list[str] = []
    for line in lines:
        for run in _RUNS.findall(line):
            if re.match(f"[{_CJK}]", run) and len(run) > 1:
                tokens += [run[i : i + 2] for i in range(len(run) - 1)]
            else:
                tokens.append(run)
    return " ".join(tokens)
