"""One claimed batch: read and decode each photo once, infer, say how each job ended."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby

from indexer.models.batching import EngineClosed
from indexer.models.images import Photo
from indexer.models.types import (
    Embedding,
    ImageError,
    Lane,
    Line,
    ModelUnavailable,
    OcrOptions,
    TimeLimitError,
)
from indexer.previews import previews
from indexer.queue import Failure, Job, Outcome, Task
from indexer.results import FileStamp, Text, Unchanged, Vector
from indexer.settings import Settings
from indexer.shared import SharedEngine

log = logging.getLogger(__name__)

# Decoded photos that wait for inference, per batch: enough to keep it busy, few enough for memory.
_AHEAD = 8
_AHEAD_BYTES = 96_000_000


@dataclass(frozen=True, slots=True)
class _Started:
    """A photo whose inference is under way."""

    photo: Photo
    file: FileStamp
    options: OcrOptions
    jobs: list[Job]
    inferences: dict[Task, Future[list[Line]] | Future[Embedding]]


class Processor:
    """Turns claimed jobs into outcomes. One per process; any number of threads may call it."""

    def __init__(self, settings: Settings, engine: SharedEngine) -> None:
        self._settings = settings
        self._engine = engine
        self._previews = previews(settings)

    def run(
        self, jobs: Sequence[Job], options: OcrOptions, stop: threading.Event
    ) -> Iterator[Outcome]:
        """Work through a batch; yields outcomes as they come.

        When `stop` is set no further photo is begun; its jobs have no outcome.

        Raises:
            MediaAwayError: the media folder, or the gateway that has it, is away.
            ModelUnavailable: a model can't be loaded.
            TimeLimitError: of several photos in one inference, one took too long, or all.
        """
        photos = [list(group) for _, group in groupby(jobs, key=lambda job: job.asset_id)]
        ahead: list[_Started] = []
        try:
            for mine in photos:
                if stop.is_set():
                    break
                started = self._start(mine, options)
                if isinstance(started, list):
                    yield from started
                    continue
                ahead.append(started)
                while len(ahead) >= _AHEAD or _bytes(ahead) > _AHEAD_BYTES:
                    yield from self._collect(ahead.pop(0))
            while ahead:
                yield from self._collect(ahead.pop(0))
        except ModelUnavailable:
            for begun in ahead:  # one model is away: what the other has done is kept
                with suppress(ModelUnavailable):
                    yield from self._collect(begun)
            raise

    def close(self) -> None:
        """Let go of connections."""
        self._previews.close()

    def _start(self, jobs: list[Job], options: OcrOptions) -> _Started | list[Outcome]:
        """Read and decode a photo, and ask for what its jobs need of it."""
        path = jobs[0].path
        if path is None:
            return _all(jobs, Failure("the photo has no preview", "no preview", permanent=True))
        try:
            preview = self._previews.read(jobs[0].asset_id, path)
            photo = self._engine.decode(
                preview.data,
                max_bytes=self._settings.max_image_bytes,
                max_pixels=self._settings.max_image_pixels,
            ).result()
        except OSError as error:
            reason = f"can't read {path}: {error.strerror or type(error).__name__}"
            return _all(jobs, Failure(reason, "unreadable file", permanent=False))
        except ImageError as error:
            return _all(jobs, Failure(str(error), "unreadable image", permanent=True))
        except TimeLimitError as error:
            return _all(jobs, Failure(str(error), "too slow", permanent=False))
        except (concurrent.futures.CancelledError, EngineClosed):
            return []  # the engine was closed: the jobs are given back
        inferences = {
            job.task: self._infer(job, photo, options)
            for job in jobs
            if not self._unchanged(job, photo, options)
        }
        return _Started(photo, preview.file, options, jobs, inferences)

    def _infer(
        self, job: Job, photo: Photo, options: OcrOptions
    ) -> Future[list[Line]] | Future[Embedding]:
        if job.task == "ocr":
            return self._engine.read_text(photo, options, Lane.BULK, force=job.force)
        return self._engine.embed_image(photo, Lane.BULK, force=job.force)

    def _unchanged(self, job: Job, photo: Photo, options: OcrOptions) -> bool:
        return (
            not job.force
            and job.known_hash == photo.sha256
            and job.known_model == self._model(job, options)
        )

    def _model(self, job: Job, options: OcrOptions) -> str:
        if job.task == "ocr":
            return self._engine.ocr_model(options)
        return self._engine.clip_info.name

    def _collect(self, started: _Started) -> Iterator[Outcome]:
        outage: ModelUnavailable | None = None
        for job in started.jobs:
            inference = started.inferences.get(job.task)
            if inference is None:
                yield Outcome(job, Unchanged(started.file))
                continue
            try:
                result = inference.result()
            except ModelUnavailable as error:
                outage = error
                continue
            except TimeLimitError as error:
                if not error.alone:
                    raise
                yield Outcome(job, Failure(str(error), "too slow", permanent=False))
                continue
            except (concurrent.futures.CancelledError, EngineClosed):
                continue  # the engine was closed: the job has no outcome and is given back
            except Exception as error:
                log.exception("inference failed asset=%s task=%s", job.asset_id, job.task)
                reason = f"the model failed: {type(error).__name__}: {error}"
                yield Outcome(job, Failure(reason, "model", permanent=False))
                continue
            sha256, model = started.photo.sha256, self._model(job, started.options)
            if isinstance(result, list):
                yield Outcome(job, Text(result, model, sha256, started.file))
            else:
                yield Outcome(job, Vector(result, model, sha256))
        if outage:
            raise outage


def _bytes(ahead: list[_Started]) -> int:
    return sum(started.photo.image.width * started.photo.image.height * 3 for started in ahead)


def _all(jobs: list[Job], failure: Failure) -> list[Outcome]:
    return [Outcome(job, failure) for job in jobs]
