"""A worker that a picture of the word POISON kills, as a crash inside a decoder would.

Run as a program, with the environment of `immich-indexer worker`.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from immich_indexer.cli import cli
from indexer.models import images

POISON = b"POISON"
_decode = images.decode


def decode(data: bytes, **limits: Any) -> Any:
    if data.startswith(POISON):
        os.kill(os.getpid(), signal.SIGKILL)
    return _decode(data, **limits)


if __name__ == "__main__":
    images.decode = decode
    cli(["worker"])
