"""A worker that hangs on pictures 77 pixels wide: in the decoder, or where text is read.

Run as a program, with the environment of `immich-indexer worker`, and HANG=decoder or HANG=ocr.
Other pictures have no text.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from immich_indexer.cli import cli
from indexer.models import engine, images

WIDTH = 77
_decode = images.decode


def _hang_on(photo: images.Photo, where: str) -> None:
    if photo.width == WIDTH and os.environ["HANG"] == where:
        threading.Event().wait()


def decode(data: bytes, **limits: Any) -> Any:
    photo = _decode(data, **limits)
    _hang_on(photo, "decoder")
    return photo


class Reader:
    on_cpu = True

    def __init__(self, **_: Any) -> None:
        pass

    def read(self, photo: images.Photo, _: Any) -> list[Any]:
        _hang_on(photo, "ocr")
        return []


if __name__ == "__main__":
    images.decode = decode
    engine.OcrReader = Reader  # type: ignore[assignment,misc]
    cli(["worker"])
