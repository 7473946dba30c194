"""Who runs when: one engine per process owns the models and their threads."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, TypedDict

from indexer.models import cores, images, memory, ocr_models
from indexer.models.batching import BatchThread, EngineClosed, Life, Observe, Run, ThreadStats
from indexer.models.clip_loader import ClipLoader
from indexer.models.clip_torch import resolve_device
from indexer.models.faces import FaceFinder
from indexer.models.images import Photo
from indexer.models.ocr import OcrReader
from indexer.models.types import (
    ClipInfo,
    Embedding,
    Embeddings,
    Face,
    FaceOptions,
    Lane,
    Line,
    ModelUnavailable,
    OcrOptions,
    Side,
    TimeLimitError,
)
from indexer.models.watchdog import Watchdog
from indexer.settings import Settings

log = logging.getLogger(__name__)

MAX_IMAGES = 128
MAX_TEXTS = 32
CACHED_TEXTS = 1024

# What reads and embeds pictures gives way to a person's query (and to Immich, on the same machine).
# A text during a backfill, on two cores: 83 ms in place of 121, with as many photos a second.
_NICE = 10

# Decoding takes 3 to 8 bytes a pixel: few at once, and an image that is larger only alone.
_DECODERS = 4
_DECODING_PIXELS = 50_000_000


class EngineStats(TypedDict):
    """See `Engine.stats`."""

    ocr: ThreadStats
    clip_image: ThreadStats
    clip_text: ThreadStats
    faces: ThreadStats
    cached_texts: int
    loaded: dict[str, str]
    """Which models are in memory, and what computes them in which precision."""


class Engine:
    """The models of a process, for all its threads; made once and passed down.

    Text is read, pictures are embedded, texts are embedded and faces are found side by side, in
    threads of their own, each with an interactive lane ahead of a bulk lane (`BatchThread` has the
    rules). On the CPU those that take pictures share out the cores: as many compute at once, with
    as many threads, as there are cores for, in the order they asked. Texts wait for no core: they
    are a person's query, and short.

    Futures fail with ModelUnavailable (can't be loaded; says what to do), EngineBusy (too many
    interactive requests are waiting), EngineClosed, TimeLimitError (took longer than
    MAX_IMAGE_SECONDS), or what the model raised for this input. Bulk requests wait in the call
    itself while their lane is full.

    Where a thread hangs for good, every future fails with ModelUnavailable from then on, and
    `on_stuck` is called, once: only a new process helps.
    """

    def __init__(
        self,
        settings: Settings,
        observe: Observe = lambda *_: None,
        on_stuck: Callable[[], None] | None = None,
    ) -> None:
        """Load nothing and start nothing yet.

        Args:
            observe: told of every batch.
            on_stuck: called from a thread of the engine's.

        Raises:
            SettingsError: CLIP_MODEL or OCR_MODEL names no model.
        """
        self._on_stuck = on_stuck
        self._settings = settings
        memory.use_little()
        self._cores = cores.Budget(settings.threads or cores.available())
        self._share = cores.share(self._cores.count)
        self._clip = ClipLoader(settings, self._cores.count)
        self._ocr_models = ocr_models.find(settings.ocr_model)
        self._ocr_reader: OcrReader | None = None
        self._loading = threading.Lock()
        self._watchdog = watchdog = Watchdog(settings.max_image_seconds, self._stuck)
        self._pixels = cores.Budget(_DECODING_PIXELS)
        self._decoding: set[Future[Photo]] = set()
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")
        self._ocr = BatchThread(
            "ocr",
            self._prepare_ocr,
            watchdog,
            max_batch=1,
            workers=self._share.workers,
            life=Life(settings.ocr_idle_seconds, self._unload_ocr),
            observe=observe,
            nice=_NICE,
        )
        self._clip_image = BatchThread(
            "clip-image",
            self._prepare_clip_image,
            watchdog,
            max_batch=MAX_IMAGES,
            workers=self._share.workers,
            life=Life(settings.clip_image_idle_seconds, lambda: self._unload_clip("image")),
            observe=observe,
            nice=_NICE,
        )
        self._clip_text = BatchThread(
            "clip-text",
            self._prepare_clip_text,
            watchdog,
            max_batch=MAX_TEXTS,
            life=Life(settings.clip_text_idle_seconds, lambda: self._unload_clip("text")),
            observe=observe,
        )
        self._face_finder = FaceFinder(settings, self._share.threads)
        self._faces = BatchThread(
            "faces",
            self._prepare_faces,
            watchdog,
            max_batch=1,
            observe=observe,
            nice=_NICE,
        )
        self._texts: OrderedDict[str, Embedding] = OrderedDict()
        self._texts_lock = threading.Lock()

    @property
    def clip_info(self) -> ClipInfo:
        """The CLIP model that is served, loaded or not."""
        return self._clip.info

    @property
    def ocr_name(self) -> str:
        """Name and version of what reads text."""
        return self._ocr_models.name

    def ocr_model(self, options: OcrOptions) -> str:
        """What a text was read with, options included; recorded with every result."""
        return (
            f"{self.ocr_name} {options.max_resolution}px"
            f" box>={options.min_box_score:g} text>={options.min_text_score:g}"
        )

    @property
    def device(self) -> str:
        """What the models run on: ``cpu``, ``cuda``, ``cuda:1``. Imports torch to find out."""
        return resolve_device(self._settings.device)

    def clip_problem(self) -> str | None:
        """Say why CLIP can't be served now and which file to put where; None when it can.

        Cheap enough to ask often; finds a file that was put there meanwhile. Where the weights
        are missing and CLIP_DOWNLOAD allows it, asking starts their download.
        """
        return self._clip.problem()

    def decode(
        self, data: bytes, *, max_bytes: int, max_pixels: int, short_side: int = images.SHORT_SIDE
    ) -> Future[Photo]:
        """Decode an image file; see `images.decode`. Fails with ImageError."""
        future: Future[Photo] = Future()
        self._decoding.add(future)
        future.add_done_callback(self._decoding.discard)

        def give_up(late: TimeLimitError) -> None:
            with suppress(InvalidStateError):
                future.set_exception(late)

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                with self._watchdog.watch("decoding", 1, give_up) as watched:
                    photo = images.decode(
                        data,
                        max_bytes=max_bytes,
                        max_pixels=max_pixels,
                        short_side=short_side,
                        hold=lambda pixels: watched.waiting_for(self._pixels.take(pixels)),
                    )
            except Exception as error:
                with suppress(InvalidStateError):
                    future.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    future.set_result(photo)

        try:
            self._decoders.submit(work)
        except RuntimeError:
            future.set_exception(EngineClosed("the engine is closed"))
        return future

    def read_text(self, photo: Photo, options: OcrOptions, lane: Lane) -> Future[list[Line]]:
        """Read the text in a photo."""
        return self._ocr.submit((photo, options), lane)

    def embed_image(self, photo: Photo, lane: Lane) -> Future[Embedding]:
        """Embed a photo: float32, shape (dim,), of length 1."""
        return self._clip_image.submit(photo, lane)

    def embed_text(self, text: str, lane: Lane) -> Future[Embedding]:
        """Embed a text: float32, shape (dim,), of length 1; read-only, the latest are cached."""
        with self._texts_lock:
            cached = self._texts.get(text)
            if cached is not None:
                self._texts.move_to_end(text)
        if cached is None:
            return self._clip_text.submit(text, lane)
        future: Future[Embedding] = Future()
        future.set_result(cached)
        return future

    def find_faces(self, photo: Photo, options: FaceOptions, lane: Lane) -> Future[list[Face]]:
        """Find the faces in a photo, the surest first."""
        return self._faces.submit((photo, options), lane)

    def faces_problem(self, pack: str) -> str | None:
        """Say why a pack of face models can't be used and what to do; None when it can."""
        return self._face_finder.problem(pack)

    def stats(self) -> EngineStats:
        """Return how much waits, runs, and was done, by model and lane."""
        return {
            "ocr": self._ocr.stats(),
            "clip_image": self._clip_image.stats(),
            "clip_text": self._clip_text.stats(),
            "faces": self._faces.stats(),
            "cached_texts": len(self._texts),
            "loaded": self._loaded(),
        }

    def preload(self) -> None:
        """Have what PRELOAD names loaded, in threads of its own: at the start of a process."""
        if self._settings.preload != "none":
            self._clip_text.preload()
        if self._settings.preload == "all":
            self._clip_image.preload()
            self._ocr.preload()

    def promote(self, future: Future[Any]) -> None:
        """Move a request that waits in the bulk lane to the interactive one."""
        self._ocr.promote(future)
        self._clip_image.promote(future)

    def drop_bulk(self) -> None:
        """Fail what waits in the bulk lane with EngineClosed: nobody but workers waits for it."""
        self._ocr.drop_bulk()
        self._clip_image.drop_bulk()

    def close(self) -> None:
        """Wait for what is running, fail what is waiting with EngineClosed. Can be repeated."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        for thread in (self._ocr, self._clip_image, self._clip_text, self._faces):
            thread.close()

    def _stuck(self, what: str) -> None:
        log.error("%s and can't be ended: only a new process helps", what)
        why = f"{what}: this process has to be started anew"
        for thread in (self._ocr, self._clip_image, self._clip_text, self._faces):
            thread.abandon(why)
        for future in list(self._decoding):  # what hangs may hold all that may be decoded at once
            with suppress(InvalidStateError):
                future.set_exception(ModelUnavailable(why))
        if self._on_stuck:
            self._on_stuck()

    def _prepare_ocr(
        self,
    ) -> tuple[Run[tuple[Photo, OcrOptions], list[Line]], AbstractContextManager[object]]:
        reader = self._reader()

        def run(requests: list[tuple[Photo, OcrOptions]]) -> Sequence[list[Line]]:
            return [reader.read(photo, options) for photo, options in requests]

        return run, self._turn(reader.on_cpu)

    def _prepare_clip_image(
        self,
    ) -> tuple[Run[Photo, Embedding], AbstractContextManager[object]]:
        model = self._clip.get("image")

        def run(photos: list[Photo]) -> Sequence[Embedding]:
            return _rows(model.embed_images([photo.image for photo in photos]))

        return run, self._turn(model.on_cpu)

    def _prepare_clip_text(self) -> tuple[Run[str, Embedding], AbstractContextManager[object]]:
        model = self._clip.get("text")

        def run(texts: list[str]) -> Sequence[Embedding]:
            embeddings = _rows(model.embed_texts(texts))
            with self._texts_lock:
                self._texts.update(zip(texts, embeddings, strict=True))
                while len(self._texts) > CACHED_TEXTS:
                    self._texts.popitem(last=False)
            return embeddings

        return run, nullcontext()

    def _prepare_faces(
        self,
    ) -> tuple[Run[tuple[Photo, FaceOptions], list[Face]], AbstractContextManager[object]]:
        def run(requests: list[tuple[Photo, FaceOptions]]) -> Sequence[list[Face]]:
            return [self._face_finder.find(photo, options) for photo, options in requests]

        return run, self._turn(self._face_finder.on_cpu)

    def _reader(self) -> OcrReader:
        with self._loading:
            if self._ocr_reader is None:
                try:
                    self._ocr_reader = OcrReader(
                        share=self._share,
                        detection=cores.wide_share(self._cores.count),
                        models=self._ocr_models,
                        device=self._settings.device,
                        openvino=self._settings.openvino,
                        precision=self._settings.precision,
                    )
                except Exception as error:
                    raise ModelUnavailable(
                        f"OCR can't be loaded ({error}): {self._ocr_models.remedy}"
                    ) from error
            return self._ocr_reader

    def _unload_ocr(self) -> None:
        self._ocr_reader = None
        memory.give_back()

    def _unload_clip(self, side: Side) -> None:
        self._clip.unload(side)
        memory.give_back()

    def _loaded(self) -> dict[str, str]:
        reader = self._ocr_reader
        return ({"ocr": reader.kind} if reader else {}) | self._clip.kinds()

    def _turn(self, on_cpu: bool) -> AbstractContextManager[object]:
        return self._cores.take(self._share.threads) if on_cpu else nullcontext()


def _rows(embeddings: Embeddings) -> list[Embedding]:
    """Copies, so that one kept embedding doesn't keep its batch; read-only, as they are shared."""
    rows = [row.copy() for row in embeddings]
    for row in rows:
        row.flags.writeable = False
    return rows
