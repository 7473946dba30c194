"""Reading previews: from the mounted media folder, or over HTTP from a gateway that has it."""

from __future__ import annotations

import errno
import logging
import os
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import UUID

import httpx

from indexer.media import Media, MediaAwayError, modified_at
from indexer.models import images
from indexer.models.types import ImageError
from indexer.results import FileStamp
from indexer.settings import Settings, SettingsError

log = logging.getLogger(__name__)

# Of the gateway's answers (`gateway.previews`). A server that doesn't send them isn't one.
MODIFIED_HEADER = "x-preview-modified"
PROBLEM_HEADER = "x-preview-problem"

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Preview:
    """The bytes of an image file, and which file it was."""

    data: bytes
    file: FileStamp


class Previews(Protocol):
    """Where a worker reads."""

    def read(self, asset_id: UUID, path: str) -> Preview:
        """Return the preview of a photo.

        Args:
            path: as Immich's database has it.

        Raises:
            MediaAwayError: none can be read for the moment.
            OSError: this one can't be read.
            ImageError: larger than MAX_IMAGE_BYTES, or no file.
        """

    def close(self) -> None:
        """Let go of connections."""


def previews(settings: Settings) -> Previews:
    """Make what the settings say: PREVIEWS_URL, or the media folder.

    Raises:
        SettingsError: PREVIEWS_URL without PREVIEWS_KEY, or one that is no URL.
    """
    if settings.previews_url:
        return FetchedPreviews(settings)
    folder = None if settings.attached else settings.photos_dir
    return MountedPreviews(Media.parse(settings.media_map, folder), settings.max_image_bytes)


class MountedPreviews:
    """Files of the media folder."""

    def __init__(self, media: Media, max_bytes: int) -> None:
        self._media = media
        self._max_bytes = max_bytes

    def read(self, asset_id: UUID, path: str) -> Preview:  # noqa: ARG002
        """See `Previews`."""
        try:
            here = self._media.locate(path)
            file = FileStamp.of(here)
            return Preview(images.read(here, max_bytes=self._max_bytes), file)
        except OSError:
            self._media.check_present(path)
            raise

    def close(self) -> None:
        """Nothing to close."""


class FetchedPreviews:
    """From the gateway at PREVIEWS_URL; what it can't give for the moment is an outage."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.previews_url.rstrip("/")
        self._max_bytes = settings.max_image_bytes
        if not settings.previews_key:
            raise SettingsError("PREVIEWS_URL needs PREVIEWS_KEY, the one that the gateway has.")
        if not self._url.startswith(("http://", "https://")):
            raise SettingsError("PREVIEWS_URL must look like http://192.168.1.10:3003")
        self._client = httpx.Client(
            headers={"authorization": f"Bearer {settings.previews_key}"},
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=False,
        )

    def read(self, asset_id: UUID, path: str) -> Preview:
        """See `Previews`."""
        try:
            with self._client.stream("GET", f"{self._url}/previews/{asset_id}") as answer:
                if answer.status_code == 404 and PROBLEM_HEADER in answer.headers:
                    raise FileNotFoundError(errno.ENOENT, "the gateway has no such file", path)
                if answer.status_code == 413 and PROBLEM_HEADER in answer.headers:
                    raise ImageError(
                        "the gateway doesn't send this file: it is larger than MAX_IMAGE_BYTES "
                        "there, or no file"
                    )
                modified = answer.headers.get(MODIFIED_HEADER)
                if answer.status_code != 200 or modified is None:
                    raise MediaAwayError(
                        f"{self._url} (PREVIEWS_URL) answered {answer.status_code} and no preview: "
                        f"{self._why(answer.status_code)}"
                    )
                data = self._receive(answer)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise MediaAwayError(
                f"{self._url} (PREVIEWS_URL) doesn't answer ({type(error).__name__}): is the "
                "gateway running, and can it be reached from here?"
            ) from None
        return Preview(data, FileStamp(len(data), datetime.fromisoformat(modified)))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _receive(self, answer: httpx.Response) -> bytes:
        data = bytearray()
        for chunk in answer.iter_raw():
            data += chunk
            if len(data) > self._max_bytes:
                raise ImageError(
                    f"the file is larger than the limit of {self._max_bytes:,} (MAX_IMAGE_BYTES)"
                )
        return bytes(data)

    @staticmethod
    def _why(status: int) -> str:
        if status == 401:
            return "PREVIEWS_KEY isn't the gateway's"
        if status == 501:
            return "PREVIEWS_KEY must be set at the gateway too"
        if status == 503:
            return "its log says what is away there"
        return "is it a gateway of this version?"


def find_preview(media: Media, path: str) -> Path:
    """Where a preview lies that others may see: inside the folder of previews, links followed.

    Raises:
        OSError: no such file, or not in that folder.
    """
    folder = media.folder(path)
    if folder is None:
        raise PermissionError(errno.EACCES, "not in a folder of MEDIA_MAP, nor in thumbs", path)
    here = media.locate(path).resolve(strict=True)
    if not here.is_relative_to(folder.resolve()):
        raise PermissionError(errno.EACCES, "it leads out of the folder of previews", path)
    return here


def open_preview(media: Media, path: str, max_bytes: int) -> tuple[BinaryIO, FileStamp]:
    """Open a file for others; see `find_preview`.

    Raises:
        MediaAwayError: the folder is away.
        OSError: no such file, or not in that folder.
        ImageError: larger than `max_bytes`, or no file.
    """
    try:
        here = find_preview(media, path)
        file = open(here, "rb", opener=images.open_at_once)  # noqa: SIM115 - the caller's
    except OSError:
        if media.folder(path):  # a path that leads elsewhere says nothing of what is mounted
            media.check_present(path)
        raise
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a file")
        if status.st_size > max_bytes:
            raise ImageError(f"larger than the limit of {max_bytes:,} (MAX_IMAGE_BYTES)")
    except BaseException:
        file.close()
        raise
    return file, FileStamp(status.st_size, modified_at(status))
