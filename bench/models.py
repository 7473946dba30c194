"""Sections of the table: the models, beside the libraries as their READMEs show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.library import Library
from bench.material import cycle, texts
from bench.measure import Row, rates
from bench.product import Product
from bench.stage import LIBRARY, Stage

# It takes pictures one by one, so a few tell as much as many.
_LIBRARY_IMAGES = 2
_AT_ONCE = (1, 8, 32)


def clip(stage: Stage) -> Iterator[Row]:
    """Pictures in memory → embeddings."""
    stage.prepare_clip()
    photos = range(len(stage.samples))

    def library(number: int) -> float:
        chosen = cycle(photos, _LIBRARY_IMAGES, number)
        return len(chosen) / stage.library.call(Library.images, chosen)

    def product(name: str, at_once: int) -> Callable[[int], float]:
        return lambda number: (
            at_once
            / stage.product(name).call(Product.images, cycle(photos, at_once, number * at_once))
        )

    for at_once in _AT_ONCE:
        found = stage.in_turns(
            {LIBRARY: library} | {name: product(name, at_once) for name in stage.products}
        )
        yield from _rows(
            stage, "CLIP", f"{at_once} at once", "images/s", found, auto=4.0, exact=1.25
        )


def text(stage: Stage) -> Iterator[Row]:
    """Texts → embeddings; the library gets the same batches."""
    stage.prepare_clip()

    def library(at_once: int) -> Callable[[int], float]:
        return lambda number: at_once / stage.library.call(Library.texts, texts(at_once, number))

    def product(name: str, at_once: int) -> Callable[[int], float]:
        return lambda number: (
            at_once / stage.product(name).call(Product.texts, texts(at_once, number))
        )

    for at_once in _AT_ONCE:
        found = stage.in_turns(
            {LIBRARY: library(at_once)} | {name: product(name, at_once) for name in stage.products}
        )
        yield from _rows(stage, "text", f"{at_once} at once", "texts/s", found, auto=4.0, exact=2.0)


def ocr(stage: Stage) -> Iterator[Row]:
    """Pictures in memory → lines, by kind of picture, and all of these together."""
    kinds = list(dict.fromkeys(sample.kind for sample in stage.samples))
    names = (LIBRARY, *stage.products)

    def read(name: str, kind: str) -> Callable[[int], float]:
        photos = stage.photos(kind)
        if name == LIBRARY:
            return lambda _: stage.library.call(Library.read, photos)
        return lambda _: stage.product(name).call(Product.read, photos)

    # Kind by kind, the contenders one after another.
    seconds = stage.in_turns({(kind, name): read(name, kind) for kind in kinds for name in names})
    for kind in kinds:
        photos = len(stage.photos(kind))
        found = {name: [photos / took for took in seconds[kind, name]] for name in names}
        yield from _rows(stage, "OCR", kind, "images/s", found)
    total = sum(len(stage.photos(kind)) for kind in kinds)
    rounds = range(len(seconds[kinds[0], LIBRARY]))
    found = {
        name: [total / sum(seconds[kind, name][i] for kind in kinds) for i in rounds]
        for name in names
    }
    yield from _rows(stage, "OCR", "all of these", "images/s", found, auto=2.5, exact=1.7)


def photo(stage: Stage) -> Iterator[Row]:
    """Whole photos, from their files: decoded, embedded and read."""
    stage.prepare_clip()
    photos = stage.photos()
    size = max(2, stage.plan.photos // 2)

    def library(number: int) -> float:
        chosen = cycle(photos, size, number * size)
        return size / stage.library.call(Library.photos, chosen)

    def product(name: str) -> Callable[[int], float]:
        return lambda number: (
            size / stage.product(name).call(Product.photos, cycle(photos, size, number * size))
        )

    found = stage.in_turns({LIBRARY: library} | {name: product(name) for name in stage.products})
    yield from _rows(stage, "photo", "file to results", "photos/s", found, auto=3.0)


def _rows(
    stage: Stage,
    section: str,
    case: str,
    unit: str,
    found: dict[str, list[float]],
    **goals: float,
) -> Iterator[Row]:
    """Every precision of the product against the library; goals by their names."""
    for name in stage.products:
        yield rates(
            section, case, name, unit, found[name], LIBRARY, found[LIBRARY], goals.get(name)
        )
