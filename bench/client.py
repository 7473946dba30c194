"""Asks `/predict` as Immich does, with as many clients as wanted."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.material import stamped, texts
from bench.product import PATIENCE_SECONDS, Kind
from gateway.forms import write_form

_OCR = {"modelName": "PP-OCRv5_mobile"}


class Clients:
    """Clients of one gateway.

    Args:
        url: of the gateway.
        clip_model: as the gateway serves it.
        photos: files to send; every request sends one that the gateway hasn't seen.
    """

    def __init__(self, url: str, clip_model: str, photos: Sequence[Path]) -> None:
        self._address = urlsplit(url).netloc
        self._photos = [path.read_bytes() for path in photos]
        self._numbers = itertools.count(1_000_000)
        model = {"modelName": f"cn-clip/{clip_model}"}
        self._entries: dict[Kind, dict[str, Any]] = {
            "image": {"clip": {"visual": model}},
            "text": {"clip": {"textual": model}},
            "ocr": {"ocr": {"detection": _OCR, "recognition": _OCR}},
        }

    def ask(self, kind: Kind, photo: int) -> float:
        """One request of one client; returns seconds."""
        (seconds,), _ = self.ask_together(kind, [photo], clients=1)
        return seconds

    def ask_together(
        self, kind: Kind, photos: Sequence[int], *, clients: int
    ) -> tuple[list[float], float]:
        """One request for each photo, from so many clients at once.

        Returns:
            The seconds that each took, and that all took together.
        """
        requests = [self._request(kind, photo) for photo in photos]
        with ExitStack() as stack, ThreadPoolExecutor(clients) as threads:
            # Immich keeps its connections, so making them isn't measured.
            connections = [stack.enter_context(self._connected()) for _ in range(clients)]

            def work(client: int) -> list[float]:
                mine = requests[client::clients]
                return [_send(connections[client], *request) for request in mine]

            started = time.perf_counter()
            seconds = [took for each in threads.map(work, range(clients)) for took in each]
            return seconds, time.perf_counter() - started

    @contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(self._address, timeout=PATIENCE_SECONDS)
        connection.connect()
        with closing(connection):
            yield connection

    def _request(self, kind: Kind, photo: int) -> tuple[bytes, str]:
        number = next(self._numbers)
        entries = json.dumps(self._entries[kind]).encode()
        if kind == "text":
            return write_form({"entries": entries, "text": texts(1, number)[0].encode()})
        return write_form({"entries": entries, "image": stamped(self._photos[photo], number)})


def _send(connection: http.client.HTTPConnection, body: bytes, content_type: str) -> float:
    started = time.perf_counter()
    connection.request("POST", "/predict", body, {"Content-Type": content_type})
    answer = connection.getresponse()
    content = answer.read()
    seconds = time.perf_counter() - started
    if answer.status != 200:
        raise RuntimeError(f"/predict answers {answer.status}: {content[:300].decode()}")
    return seconds
