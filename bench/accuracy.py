"""Section of the table: how much of the text is read rightly, beside RapidOCR with its defaults.

By kind of photo, then with photos made worse in ways that real ones are: tilted, tiny, faint, far
away in a large photo. What is true is in the samples' truth.json.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageOps

from bench.library import Library
from bench.material import Sample
from bench.measure import Row, shares
from bench.product import Product
from bench.stage import LIBRARY, Stage

# One of each sort, with Chinese, digits and Latin letters between them.
_SPOILT = (
    "receipt-supermarket.jpg",
    "menu-taiwan.jpg",
    "sign-road.jpg",
    "screenshot-payment.jpg",
    "medicine-box.jpg",
    "invoice.jpg",
)

_PAPER = (128, 128, 128)


def _turned(degrees: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.rotate(
        degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=_PAPER
    )


def _small(share: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: ImageOps.scale(image, share, Image.Resampling.LANCZOS)


def _faint(image: Image.Image) -> Image.Image:
    return image.point([round(128 + (value - 128) * 0.15) for value in range(256)] * 3)


def _far_away(image: Image.Image) -> Image.Image:
    """The picture is a third as high as the photo that it is in."""
    image = ImageOps.contain(image, (960, 480))
    photo = Image.new("RGB", (1920, 1440), _PAPER)
    photo.paste(image, (480, 480))
    return photo


SPOILED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "tilted by 10°": _turned(10),
    "tilted by 45°": _turned(45),
    "half as large": _small(0.5),
    "a third as large": _small(1 / 3),
    "faint: 15 % contrast": _faint,
    "far away": _far_away,
}


def accuracy(stage: Stage) -> Iterator[Row]:
    """Characters that are right, of those that are there or were read, whichever are more."""
    with_text = [sample for sample in stage.samples if sample.lines]
    by_kind: dict[str, list[Sample]] = {}
    for sample in with_text:
        by_kind.setdefault(sample.kind, []).append(sample)
    by_kind["all of these"] = with_text
    by_kind["traditional"] = [s for s in with_text if s.path.name == "menu-taiwan.jpg"]
    worse = [sample for sample in with_text if sample.path.name in _SPOILT]
    for name, spoil in SPOILED.items():
        by_kind[name] = []
        for number, sample in enumerate(worse):
            path = sample.path.with_name(f"{len(by_kind)}-{number}.jpg")
            spoil(Image.open(sample.path)).save(path, "JPEG", quality=80)
            by_kind[name].append(replace(sample, path=path))

    read: dict[tuple[str, Path], list[str]] = {}

    def lines(name: str, path: Path) -> list[str]:
        if (name, path) not in read:
            read[name, path] = (
                stage.library.call(Library.lines, path)
                if name == LIBRARY
                else stage.product(name).call(Product.lines, path)
            )
        return read[name, path]

    for kind, samples in by_kind.items():
        found = {
            name: share_right((s.lines, lines(name, s.path)) for s in samples)
            for name in (LIBRARY, *stage.products)
        }
        for name in stage.products:
            yield shares("accuracy", kind, name, found[name], LIBRARY, found[LIBRARY])


def share_right(pairs: Iterable[tuple[Iterable[str], Iterable[str]]]) -> float:
    """Of texts that are there and were read, together: 0 to 1.

    Characters are counted, not their order: what is a line, and which comes first, isn't always
    clear. Full-width forms are as good as others, and spaces don't count.
    """
    right = at_most = 0
    for there, seen in pairs:
        expected, found = characters(there), characters(seen)
        right += (expected & found).total()
        at_most += max(expected.total(), found.total())
    return right / at_most


def characters(texts: Iterable[str]) -> Counter[str]:
    """How often each is in the texts."""
    return Counter("".join(unicodedata.normalize("NFKC", "".join(texts)).split()))
