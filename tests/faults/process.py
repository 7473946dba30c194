"""`immich-indexer` with an engine of the tests' and one fault: run as `python -m faults.process`.

Everything is done to the product from outside: its statements and functions are watched, and at a
named step the process kills, freezes or ends itself, as the environment says::

    FAULT=writing:kill      at which step, and what then: kill, stop, term
    FAULT_DIR=folder        a file in it, named by the hash of a picture, says what that picture
                            does: raise, dawdle, hang, memory, crash
    RECONCILE_SECONDS, PROBE_SECONDS, OUTAGE_SECONDS, IDLE_SECONDS
                            shorter pauses than the product's
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psycopg

from faults.pictures import embedding_of, lines_of
from immich_indexer import runtime
from immich_indexer.cli import cli
from indexer import listener, queue, reconcile, worker
from indexer.models import images
from indexer.models.images import Photo
from indexer.shared import SharedEngine
from pg import connect

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}

# Statements that end a step.
STATEMENTS = {
    "indexer_v1.claim(": "claimed",
    "indexer_v1.hold(": "held",
    "INSERT INTO indexer_v1.ocr": "writing",
    "indexer_v1.acknowledge(": "acknowledging",
}
STEPS = ("claimed", "read", "inferred", "held", "writing", "acknowledging", "acknowledged")


class Fault:
    """Happens once, at its step."""

    def __init__(self, spelled: str) -> None:
        self._step, _, action = spelled.partition(":")
        self._signal = SIGNALS.get(action)
        self._lock = threading.Lock()

    def at(self, step: str) -> None:
        if step == self._step and self._lock.acquire(blocking=False) and self._signal:
            os.kill(os.getpid(), self._signal)


class Engine(SharedEngine):
    """Says what `pictures` says, at once; lanes, batches and what is shared are the product's."""

    @property
    def device(self) -> str:
        return "cpu"

    def clip_problem(self) -> str | None:
        return None

    def _prepare_ocr(self) -> Any:
        def run(requests: list[Any]) -> list[Any]:
            for photo, _ in requests:
                misbehave(photo)
            return [lines_of(photo.sha256) for photo, _ in requests]

        return run, nullcontext()

    def _prepare_clip_image(self) -> Any:
        def run(photos: list[Photo]) -> list[Any]:
            for photo in photos:
                misbehave(photo)
            return [embedding_of(photo.sha256) for photo in photos]

        return run, nullcontext()


def misbehave(photo: Photo) -> None:
    match what_is_wrong_with(photo):
        case "raise":
            raise RuntimeError("on purpose")
        case "dawdle":
            time.sleep(0.1)
        case "hang":
            threading.Event().wait()
        case "memory":
            # A gigabyte more than the process has now is all that there is.
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + 2**30
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            hoard = []
            while True:
                hoard.append(bytearray(2**27))


def what_is_wrong_with(photo: Photo) -> str:
    try:
        return (Path(os.environ["FAULT_DIR"]) / photo.sha256.hex()).read_text()
    except FileNotFoundError:
        return ""


def watch(fault: Fault) -> None:
    """Let the fault know of every step."""

    def after(function: Callable[..., Any], step: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            fault.at(step)
            return result

        return wrapped

    def before(function: Callable[..., Any], step: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            fault.at(step)
            return function(*arguments, **named)

        return wrapped

    def decode(data: bytes, **limits: Any) -> Photo:
        photo = original_decode(data, **limits)
        if what_is_wrong_with(photo) == "crash":
            ctypes.string_at(0)  # a segmentation fault, as in a decoder's C code
        return photo

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(cursor: Any, statement: Any, *arguments: Any, **named: Any) -> Any:
            result = function(cursor, statement, *arguments, **named)
            for text, step in STATEMENTS.items():
                if text in str(statement) and cursor.rowcount:
                    fault.at(step)
            return result

        return run

    original_decode = images.decode
    images.decode = after(decode, "read")
    queue.finish = after(before(queue.finish, "inferred"), "acknowledged")
    psycopg.Cursor.execute = watched(psycopg.Cursor.execute)  # type: ignore[method-assign]
    psycopg.Cursor.executemany = watched(psycopg.Cursor.executemany)  # type: ignore[method-assign]


def shorten_pauses() -> None:
    if seconds := os.environ.get("RECONCILE_SECONDS"):
        reconcile.INTERVAL_SECONDS = float(seconds)
    if seconds := os.environ.get("PROBE_SECONDS"):
        listener._PROBE_SECONDS = listener._ANSWER_SECONDS = float(seconds)
    if seconds := os.environ.get("OUTAGE_SECONDS"):
        worker._OUTAGE_SECONDS = float(seconds)
    if seconds := os.environ.get("IDLE_SECONDS"):
        connect._IDLE_IN_TRANSACTION = f"SET idle_in_transaction_session_timeout = '{seconds}s'"


if __name__ == "__main__":
    shorten_pauses()
    watch(Fault(os.environ.get("FAULT", "")))
    runtime.SharedEngine = Engine  # type: ignore[misc]
    cli(sys.argv[1:])
