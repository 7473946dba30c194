"""Stands for the engine where a test is about what happens around inference, not in it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from indexer.models import images
from indexer.models.images import Photo
from indexer.models.types import ClipInfo, Embedding, Lane, Line, OcrOptions

LINE = Line("发票", (0, 0, 1, 0, 1, 1, 0, 1), 0.9, 0.9)


class Inferences:
    """Says what it was asked, and answers as the test wants.

    Attributes:
        asked: task, size and whether forced, in order.
        answer: makes the result of a task for a photo, in a thread of its own; may wait, raise, or
            return an exception.
        problem: why CLIP can't be served.
    """

    device = "cpu"
    clip_info = ClipInfo("stand-in", 64, 64)

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hashes: list[tuple[str, bytes]] = []
        self.answer: Callable[[str, Photo], Any] = self.result
        self.problem: str | None = None
        self._threads = ThreadPoolExecutor(32)
        self._lock = threading.Lock()

    def result(self, task: str, photo: Photo) -> Any:
        return [LINE] if task == "ocr" else np.full(64, 0.125, np.float32)

    def ocr_model(self, options: OcrOptions) -> str:
        return "reader"

    def clip_problem(self) -> str | None:
        return self.problem

    def decode(self, data: bytes, **limits: int) -> Future[Photo]:
        return self._threads.submit(lambda: images.decode(data, **limits))

    def read_text(
        self, photo: Photo, options: OcrOptions, lane: Lane, *, force: bool = False
    ) -> Future[list[Line]]:
        return self._submit("ocr", photo, force)

    def embed_image(self, photo: Photo, lane: Lane, *, force: bool = False) -> Future[Embedding]:
        return self._submit("clip", photo, force)

    def drop_bulk(self) -> None:
        """All that is asked for is under way at once."""

    def _submit(self, task: str, photo: Photo, force: bool) -> Future[Any]:
        with self._lock:
            self.asked.append(f"{task} {photo.width}x{photo.height}{' forced' if force else ''}")
            self.hashes.append((task, photo.sha256))
        return self._threads.submit(self.answer, task, photo)
