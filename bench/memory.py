"""How much memory the models take, over photos of all sizes and shapes.

    python -m bench.memory --images 1000

Reads and embeds photos of 1 to 24 megapixels, small ones, strips and panoramas, several at a time,
as a worker does, and looks at the process's memory meanwhile. It should rise at first, and then no
more. Linux only. The weights are the public ones where CLIP_DOWNLOAD_ROOT has them, else random
ones of the same size.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from bench.material import write_random_weights
from immich_indexer.runtime import load_settings
from indexer.models.clip_loader import FILES
from indexer.models.engine import Engine
from indexer.models.types import Lane, OcrOptions
from indexer.settings import Settings

_PATIENCE_SECONDS = 600.0
_AT_ONCE = 12
_FIGURES = 10
_IDLE_SECONDS = 1.0


class Figure(msgspec.Struct):
    """Memory of the process at one moment, in MB.

    Attributes:
        own: what only this process has (RssAnon).
        files: files that are mapped, weights above all: the system takes it back when it likes.
        peak: the most that both ever were together.
    """

    when: str
    own: int
    files: int
    peak: int


@click.command()
@click.option("--images", default=1000, show_default=True, help="How many photos.")
@click.option("--seed", default=1, show_default=True, help="Of their sizes.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def main(images: int, seed: int, as_json: bool) -> None:
    """Measure the memory of OCR and CLIP over photos of all sizes. Settings as ever."""
    settings = load_settings()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = settings.clip_download_root.expanduser()
        if settings.clip_model in FILES and not (root / FILES[settings.clip_model][1]).exists():
            write_random_weights(settings.clip_model, folder)
            root = folder
        settings = msgspec.structs.replace(
            settings,
            clip_download_root=root,
            clip_download="off",
            ocr_idle_seconds=_IDLE_SECONDS,
            clip_image_idle_seconds=_IDLE_SECONDS,
            clip_text_idle_seconds=_IDLE_SECONDS,
        )
        _apart(_draw, folder, images, seed)
        _apart(_convert, settings)
        figures, kinds, seconds = measure(settings, sorted(folder.glob("*.jpg")))
    if as_json:
        found = {"models": kinds, "images": images, "seconds": seconds, "figures": figures}
        click.echo(json.dumps(msgspec.to_builtins(found)))
    else:
        Console().print(_table(figures, f"{images} photos in {seconds:.0f} s, {kinds}"))


def measure(settings: Settings, photos: list[Path]) -> tuple[list[Figure], dict[str, str], float]:
    """Read and embed photos; returns memory over time, what computed, and for how long."""
    figures = [_look("before")]
    engine = Engine(settings)
    try:
        engine.embed_text("海边的日落", Lane.INTERACTIVE).result(_PATIENCE_SECONDS)
        figures.append(_look("queries only"))
        started = time.perf_counter()
        under_way: deque[Future[Any]] = deque()
        for number, path in enumerate(photos, start=1):
            photo = engine.decode(
                path.read_bytes(),
                max_bytes=settings.max_image_bytes,
                max_pixels=settings.max_image_pixels,
            ).result(_PATIENCE_SECONDS)
            under_way.append(engine.read_text(photo, OcrOptions(), Lane.BULK))
            under_way.append(engine.embed_image(photo, Lane.BULK))
            while len(under_way) > _AT_ONCE:
                under_way.popleft().result(_PATIENCE_SECONDS)
            if number % max(1, len(photos) // _FIGURES) == 0:
                figures.append(_look(f"{number} photos"))
        while under_way:
            under_way.popleft().result(_PATIENCE_SECONDS)
        seconds = time.perf_counter() - started
        figures.append(_look("all done"))
        kinds = engine.stats()["loaded"]
        while engine.stats()["loaded"]:
            time.sleep(0.1)
        time.sleep(0.5)  # until it is given back
        figures.append(_look("idle, unloaded"))
        return figures, kinds, seconds
    finally:
        engine.close()


def _look(when: str) -> Figure:
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)

    def megabytes(name: str) -> int:
        return int(fields[name].split()[0]) >> 10

    return Figure(when, megabytes("RssAnon"), megabytes("RssFile"), megabytes("VmHWM"))


def _apart(work: Callable[..., None], *args: Any) -> None:
    """In a process of its own, whose memory isn't ours."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=args)
    process.start()
    process.join()
    if process.exitcode:
        raise click.ClickException("what is measured can't be prepared; see above")


def _convert(settings: Settings) -> None:
    """Load once, so that what is kept beside the weights is there."""
    engine = Engine(settings)
    engine.embed_text("海", Lane.INTERACTIVE).result(_PATIENCE_SECONDS)
    engine.close()


def _draw(folder: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(count):
        width, height = _size(rng)
        patches = rng.integers(60, 200, (6, 6, 3), np.uint8)
        image = Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(image)
        for line in range(int(rng.integers(0, 25))):
            font = ImageFont.load_default(
                max(10, int(min(width, height) * rng.uniform(0.015, 0.06)))
            )
            place = (rng.uniform(0, 0.7) * width, rng.uniform(0, 0.95) * height)
            draw.text(place, f"Invoice {number}-{line} total 1,{number:03d}.50", "white", font)
        image.save(folder / f"{number:05d}.jpg", quality=80)


def _size(rng: np.random.Generator) -> tuple[int, int]:
    kind = rng.random()
    if kind < 0.6:  # previews, and cameras' own
        short = int(rng.choice([1080, 1440, 1440, 1440, 3000, 4000]))
        ratio = float(rng.choice([4 / 3, 3 / 2, 16 / 9, 1.0, 19.5 / 9]))
    else:  # whatever people keep
        short = int(np.exp(rng.uniform(np.log(40), np.log(2500))))
        ratio = float(np.exp(rng.exponential(0.5)))
    sides = (min(int(short * ratio), 20_000), short)
    return sides if rng.random() < 0.5 else sides[::-1]


def _table(figures: list[Figure], title: str) -> Table:
    made = Table("when", "own MB", "mapped files MB", "peak MB", title=title)
    for figure in figures:
        made.add_row(figure.when, str(figure.own), str(figure.files), str(figure.peak))
    return made


if __name__ == "__main__":
    if not os.path.exists("/proc/self/status"):
        raise SystemExit("bench.memory needs Linux")
    main()
