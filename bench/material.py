"""What is worked on: the samples as Immich's previews, texts, and weights where there are none."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pillow_heif
from PIL import Image, ImageOps

from immich_indexer.runtime import SAMPLES

_SHORT_SIDE = 1440
_QUALITY = 80

# cn_clip's README, and what people look for.
TEXTS = (
    "杰尼龟",
    "海边的日落",
    "红色的圆",
    "去年在南京拍的火车票",
    "一只橘猫趴在窗台上晒太阳",
    "发票 2024",
    "雪山下的湖",
    "孩子第一次骑自行车的照片",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample photo as Immich would have made its preview."""

    path: Path
    kind: str
    lines: tuple[str, ...]


def previews(folder: Path) -> list[Sample]:
    """Make JPEGs of the shipped samples, as Immich makes previews: quality 80, 1440 pixels."""
    pillow_heif.register_heif_opener()
    samples = []
    for entry in json.loads((SAMPLES / "truth.json").read_text("utf-8")):
        image = ImageOps.exif_transpose(Image.open(SAMPLES / entry["file"])).convert("RGB")
        scale = min(1.0, _SHORT_SIDE / min(image.size))
        image = image.resize((round(image.width * scale), round(image.height * scale)))
        path = folder / Path(entry["file"]).with_suffix(".jpg").name
        image.save(path, "JPEG", quality=_QUALITY)
        samples.append(Sample(path, entry["kind"], tuple(entry["lines"])))
    return samples


def stamped(jpeg: bytes, number: int) -> bytes:
    """The same picture in a file that nobody has seen yet: with a comment (marker COM)."""
    comment = f"copy {number}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def texts(count: int, number: int) -> list[str]:
    """New texts of usual length, others for each `number`."""
    return [f"{TEXTS[i % len(TEXTS)]} {number}{i}" for i in range(count)]


def write_random_weights(name: str, folder: Path) -> None:
    """Write random weights of cn_clip's own class, in a form that its loader takes.

    Speed and memory are those of the public weights; what is computed is noise.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_write_random_weights, args=(name, folder)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError("random weights can't be made; see above")


def _write_random_weights(name: str, folder: Path) -> None:
    from indexer.models.clip_loader import FILES
    from indexer.models.clip_torch import import_cn_clip

    utils = import_cn_clip().utils
    import torch

    torch.manual_seed(0)
    model = utils.create_model(utils._MODEL_INFO[name]["struct"])
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, folder / FILES[name][1])


def cycle(photos: Sequence[int], count: int, start: int) -> list[int]:
    """`count` of the photos, from `start` on, again from the first after the last."""
    return [photos[(start + i) % len(photos)] for i in range(count)]
