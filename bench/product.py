"""The product's engine by itself: bare inference, without HTTP, queue and database.

Runs in a process of its own (`Contender`). Where nothing else is said, methods return seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from bench.material import texts
from bench.measure import Clock
from indexer.models.engine import Engine
from indexer.models.images import Photo, decode
from indexer.models.types import Embedding, Lane, Line, OcrOptions
from indexer.settings import Settings

PATIENCE_SECONDS = 600.0

Kind = Literal["image", "text", "ocr"]


class Product:
    """An engine and what it is to work on.

    Args:
        settings: the settings in force.
        photos: files to work on; methods take their numbers.
        clock: what seconds are measured by.
        engine: None: a new one.
    """

    def __init__(
        self,
        settings: Settings,
        photos: Sequence[Path],
        clock: Clock,
        engine: Engine | None = None,
    ) -> None:
        self._clock = clock
        self.settings = settings
        self.engine = engine or Engine(settings)
        self._photos = [path.read_bytes() for path in photos]
        self._decoded: dict[int, Photo] = {}
        self._options = OcrOptions()

    def images(self, photos: Sequence[int]) -> float:
        """Embed decoded photos, all asked for at once."""
        pictures = [self._picture(number) for number in photos]
        started = self._clock()
        _wait([self._embed(picture) for picture in pictures])
        return self._clock() - started

    def texts(self, texts: list[str]) -> float:
        """Embed texts, all asked for at once; new ones, the engine remembers."""
        started = self._clock()
        _wait([self.engine.embed_text(text, Lane.INTERACTIVE) for text in texts])
        return self._clock() - started

    def read(self, photos: Sequence[int]) -> float:
        """Read the text in decoded photos, all asked for at once."""
        pictures = [self._picture(number) for number in photos]
        started = self._clock()
        _wait([self._read(picture) for picture in pictures])
        return self._clock() - started

    def photos(self, photos: Sequence[int]) -> float:
        """Embed and read photos, from their bytes."""
        started = self._clock()
        under_way: list[Future[Any]] = []
        for number in photos:
            photo = self._decode(self._photos[number])
            under_way += [self._embed(photo), self._read(photo)]
        _wait(under_way)
        return self._clock() - started

    def one(self, kind: Kind, photo: int, number: int) -> float:
        """Do what one request asks for, from the bytes of a photo, or a text that is new."""
        if kind == "text":
            return self.texts(texts(1, number))
        started = self._clock()
        decoded = self._decode(self._photos[photo])
        _wait([self._embed(decoded) if kind == "image" else self._read(decoded)])
        return self._clock() - started

    def lines(self, path: Path) -> list[str]:
        """Read the text in a picture; not measured."""
        found = self._read(self._decode(path.read_bytes())).result(PATIENCE_SECONDS)
        return [line.text for line in found]

    def longest_line(self, number: int) -> str:
        """The longest line in a photo; '' where there is none."""
        lines = self._read(self._picture(number)).result(PATIENCE_SECONDS)
        return max((line.text for line in lines), key=len, default="")

    def about(self) -> dict[str, str]:
        """What the models that are loaded run on, and in which precision."""
        import torch

        device = self.engine.device
        found = {"device": device, **self.engine.stats()["loaded"]}
        if device.startswith("cuda"):
            found["gpu"] = torch.cuda.get_device_name(device)
        return found

    def close(self) -> None:
        """End the engine."""
        self.engine.close()

    def _picture(self, number: int) -> Photo:
        if number not in self._decoded:
            self._decoded[number] = self._decode(self._photos[number])
        return self._decoded[number]

    # Of the class itself: what `SharedEngine` adds is no part of bare inference.

    def _embed(self, photo: Photo) -> Future[Embedding]:
        return Engine.embed_image(self.engine, photo, Lane.BULK)

    def _read(self, photo: Photo) -> Future[list[Line]]:
        return Engine.read_text(self.engine, photo, self._options, Lane.BULK)

    def _decode(self, data: bytes) -> Photo:
        return decode(
            data,
            max_bytes=self.settings.max_image_bytes,
            max_pixels=self.settings.max_image_pixels,
        )


def _wait(under_way: Sequence[Future[Any]]) -> None:
    for future in under_way:
        future.result(PATIENCE_SECONDS)
