"""Pictures for the page: previews, shrunk once and kept in memory as long as there is room."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.inference import Inference
from indexer.media import Media
from indexer.models import images
from indexer.models.types import ImageError
from indexer.previews import find_preview
from indexer.settings import Settings

log = logging.getLogger(__name__)

Size = Literal["thumbnail", "preview"]

# Width and height in pixels that a picture is shrunk to fit into.
_BOXES: dict[Size, tuple[int, int]] = {"thumbnail": (960, 480), "preview": (2560, 1440)}

# About 2,000 thumbnails.
_CACHE_BYTES = 64 * 2**20
_KNOWN_SIZES = 20_000

# A decoded image may take 3 bytes for each of MAX_IMAGE_PIXELS: few at once.
_THREADS = 2


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG, and the ETag of this state of it."""

    etag: str
    jpeg: bytes


class Thumbnails:
    """Reads previews through the media map."""

    def __init__(self, settings: Settings, inference: Inference) -> None:
        self._settings = settings
        self._inference = inference
        self._media = Media.parse(settings.media_map, settings.photos_dir)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="thumbnail")
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._making: dict[str, asyncio.Task[bytes]] = {}
        self._away = False
        self._turns = asyncio.Semaphore(_THREADS)
        self._sizes: OrderedDict[str, tuple[int, int]] = OrderedDict()

    async def of_file(self, path: str, size: Size) -> Picture:
        """Return the picture of a preview.

        Args:
            path: of the preview, as Immich's database has it.

        Raises:
            OSError: it can't be read here, or leads out of the folder of previews.
            ImageError, InferenceError: it can't be decoded; says why.
        """

        def find() -> tuple[Path, str]:
            here = find_preview(self._media, path)
            status = here.stat()
            return here, f"{path}\n{status.st_mtime_ns}\n{status.st_size}"

        def read() -> bytes:
            return images.read(here, max_bytes=self._settings.max_image_bytes)

        here, state = await asyncio.to_thread(find)
        etag = _etag(state, size)
        return Picture(etag, await self._made(etag, read, size))

    async def of_bytes(self, data: bytes, size: Size) -> Picture:
        """Return the picture of an image file that somebody else sent.

        Raises:
            ImageError, InferenceError: it can't be decoded; says why.
        """
        etag = _etag(hashlib.sha256(data).hexdigest(), size)
        return Picture(etag, await self._made(etag, lambda: data, size))

    async def sizes(self, paths: list[str]) -> list[tuple[int, int] | None]:
        """Return width and height of previews in pixels; None where that can't be told."""

        def read() -> list[tuple[int, int] | None]:
            return [self._size(path) for path in paths]

        return await asyncio.get_running_loop().run_in_executor(self._threads, read)

    def note_away(self, error: OSError) -> None:
        """Say in the log, once, that pictures can't be read here."""
        if not self._away:
            self._away = True
            log.warning("previews can't be read here (MEDIA_MAP), Immich is asked: %s", error)

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _made(self, key: str, read: Callable[[], bytes], size: Size) -> bytes:
        """Shrink a picture once, however many ask for it at the same time."""
        if (jpeg := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return jpeg
        making = self._making.get(key)
        if making is None:
            making = asyncio.create_task(self._make(read, size))
            self._making[key] = making
            making.add_done_callback(lambda done: self._keep(key, done))
        # Somebody who goes away takes nothing from the others.
        return await asyncio.shield(making)

    async def _make(self, read: Callable[[], bytes], size: Size) -> bytes:
        box = _BOXES[size]
        loop = asyncio.get_running_loop()
        async with self._turns:
            data = await loop.run_in_executor(self._threads, read)
            photo = await self._inference.decode(data, short_side=box[1])
            return await loop.run_in_executor(self._threads, images.shrunk, photo, box)

    def _keep(self, key: str, made: asyncio.Task[bytes]) -> None:
        del self._making[key]
        if made.cancelled() or made.exception() is not None:
            return
        self._kept[key] = made.result()
        self._kept_bytes += len(made.result())
        while self._kept_bytes > _CACHE_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)

    def _size(self, path: str) -> tuple[int, int] | None:
        try:
            here = find_preview(self._media, path)
            key = f"{path}\n{here.stat().st_mtime_ns}"
            if key not in self._sizes:
                self._sizes[key] = images.read_size(here)
                if len(self._sizes) > _KNOWN_SIZES:
                    self._sizes.popitem(last=False)
            return self._sizes[key]
        except (OSError, ImageError, KeyError):  # KeyError: another thread has just dropped it
            return None


def _etag(state: str, size: Size) -> str:
    return f'"{hashlib.sha256(f"{state} {size} {_BOXES[size]}".encode()).hexdigest()[:32]}"'
