"""Engines that differ from the real one in one point, where a test needs that point."""

from concurrent.futures import Future
from typing import Any

import numpy as np

from indexer.models.engine import Engine
from indexer.models.images import Photo
from indexer.models.types import ClipInfo, Embedding, Lane, Line, OcrOptions


class EngineDouble:
    """The real engine, to begin with."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class StockSized(EngineDouble):
    """Serves under the name and with the vector length of a public model.

    Its vectors are the stand-in's, padded with zeros to the length: still of length 1.
    """

    def __init__(self, engine: Engine, info: ClipInfo, *, length: int | None = None) -> None:
        super().__init__(engine)
        self.clip_info = info
        self._length = length or info.dim

    def embed_image(self, photo: Photo, lane: Lane) -> Future[Embedding]:
        return self._padded(self._engine.embed_image(photo, lane))

    def embed_text(self, text: str, lane: Lane) -> Future[Embedding]:
        return self._padded(self._engine.embed_text(text, lane))

    def _padded(self, future: Future[Embedding]) -> Future[Embedding]:
        padded: Future[Embedding] = Future()

        def pad(done: Future[Embedding]) -> None:
            vector = np.zeros(self._length, np.float32)
            known = done.result()[: self._length]
            vector[: len(known)] = known
            padded.set_result(vector)

        future.add_done_callback(pad)
        return padded


class Failing(EngineDouble):
    """Every inference ends with the given error; None: it never ends."""

    def __init__(self, engine: Engine, error: BaseException | None) -> None:
        super().__init__(engine)
        self._error = error
        self.asked: list[Future[Any]] = []

    def clip_problem(self) -> str | None:
        return str(self._error)

    def _failed(self) -> Future[Any]:
        future: Future[Any] = Future()
        self.asked.append(future)
        if self._error is not None:
            future.set_exception(self._error)
        return future

    def read_text(self, photo: Photo, options: OcrOptions, lane: Lane) -> Future[list[Line]]:
        return self._failed()

    def embed_image(self, photo: Photo, lane: Lane) -> Future[Embedding]:
        return self._failed()

    def embed_text(self, text: str, lane: Lane) -> Future[Embedding]:
        return self._failed()


class Recording(EngineDouble):
    """Keeps what it was asked."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.photos: list[Photo] = []
        self.options: list[OcrOptions] = []
        self.lanes: list[Lane] = []

    def read_text(self, photo: Photo, options: OcrOptions, lane: Lane) -> Future[list[Line]]:
        self.photos.append(photo)
        self.options.append(options)
        self.lanes.append(lane)
        return self._engine.read_text(photo, options, lane)

    def embed_image(self, photo: Photo, lane: Lane) -> Future[Embedding]:
        self.photos.append(photo)
        self.lanes.append(lane)
        return self._engine.embed_image(photo, lane)
