"""The engine, for coroutines: waits with a limit, checks answers."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from typing import TypeVar

import numpy as np
from litestar.exceptions import ServiceUnavailableException

from gateway.errors import InferenceError
from indexer.models.batching import EngineBusy, EngineClosed
from indexer.models.engine import Engine
from indexer.models.faces import DIM as FACE_DIM
from indexer.models.images import SHORT_SIDE, Photo
from indexer.models.types import (
    ClipInfo,
    Embedding,
    Face,
    FaceOptions,
    ImageError,
    Lane,
    Line,
    ModelUnavailable,
    OcrOptions,
    TimeLimitError,
)
from indexer.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

# Immich's server gives up on an answer after about 300 s (undici's headersTimeout).
WAIT_SECONDS = 280.0


class Inference:
    """Everything is asked for in the interactive lane: somebody is waiting for it."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine

    @property
    def clip_info(self) -> ClipInfo:
        """The CLIP model that is served, loaded or not."""
        return self._engine.clip_info

    async def decode(self, data: bytes, *, short_side: int = SHORT_SIDE) -> Photo:
        """Decode an image file; see `images.decode`.

        Raises:
            ImageError: the bytes can't be read as an image; says why.
            InferenceError: it took too long.
        """
        future = self._engine.decode(
            data,
            max_bytes=self._settings.max_image_bytes,
            max_pixels=self._settings.max_image_pixels,
            short_side=short_side,
        )
        return await _answer_of(future, "Decoding")

    async def read_text(self, photo: Photo, options: OcrOptions) -> list[Line]:
        """Read the text in an image.

        Raises:
            ModelUnavailable, InferenceError
        """
        return await _answer_of(self._engine.read_text(photo, options, Lane.INTERACTIVE), "OCR")

    async def embed_image(self, photo: Photo) -> Embedding:
        """Embed an image with CLIP; shape (dim,), float32, of length 1.

        Raises:
            ModelUnavailable, InferenceError
        """
        return self._checked(
            await _answer_of(self._engine.embed_image(photo, Lane.INTERACTIVE), "CLIP")
        )

    async def embed_text(self, text: str) -> Embedding:
        """Embed a text with CLIP; shape (dim,), float32, of length 1.

        Raises:
            ModelUnavailable, InferenceError
        """
        return self._checked(
            await _answer_of(self._engine.embed_text(text, Lane.INTERACTIVE), "CLIP")
        )

    async def find_faces(self, photo: Photo, options: FaceOptions) -> list[Face]:
        """Find the faces in an image.

        Raises:
            ModelUnavailable, InferenceError
        """
        faces = await _answer_of(
            self._engine.find_faces(photo, options, Lane.INTERACTIVE), "Face recognition"
        )
        for face in faces:
            # Immich's column takes this many and no others, and all of a photo's faces fail.
            if face.embedding.shape != (FACE_DIM,) or not np.isfinite(face.embedding).all():
                raise InferenceError(
                    f"The face models {options.pack} gave a vector of shape {face.embedding.shape} "
                    f"where {FACE_DIM} finite numbers were due; check the files."
                )
        return faces

    async def clip_problem(self) -> str | None:
        """Why CLIP can't be served now, or None. Looks at the disk, so off the event loop."""
        return await asyncio.to_thread(self._engine.clip_problem)

    def _checked(self, embedding: Embedding) -> Embedding:
        # Immich keeps a query's vector for its next 100 searches, and a picture's for good.
        expected = (self.clip_info.dim,)
        if embedding.shape != expected or not np.isfinite(embedding).all():
            raise InferenceError(
                f"CLIP gave a vector of shape {embedding.shape} where {expected} finite numbers "
                "were due. It isn't passed on; check the weights file and CLIP_MODEL."
            )
        return embedding


async def _answer_of(future: Future[T], model: str) -> T:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            return await asyncio.wrap_future(future)
    except TimeoutError:
        raise ServiceUnavailableException(
            f"{model} had no turn within {WAIT_SECONDS:.0f} s; too much is waiting before it."
        ) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if future.cancelled() and task is not None and not task.cancelling():
            raise ServiceUnavailableException(f"{model} is shutting down.") from None
        raise
    except (EngineBusy, EngineClosed) as error:
        raise ServiceUnavailableException(f"{model}: {error}.") from None
    except (ModelUnavailable, ImageError):
        raise
    except TimeLimitError as error:
        raise InferenceError(f"{model} failed on this input: {error}.") from None
    except Exception as error:
        log.exception("inference failed model=%s", model)
        raise InferenceError(
            f"{model} failed on this input ({type(error).__name__}); the gateway's log says more."
        ) from error
