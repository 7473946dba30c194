"""What several ask for is computed once, and in a hurry where one of them is a person."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from PIL import Image

from indexer.models.images import Photo
from indexer.models.types import Lane, OcrOptions
from indexer.settings import Settings
from indexer.shared import SharedEngine

PATIENCE = 30.0


class Desk:
    """An engine whose reader and embedder note whose turn it was, and can be held up."""

    def __init__(self, engine: SharedEngine) -> None:
        self.engine = engine
        self.order: list[int] = []
        self.go_on = threading.Event()
        self.begun = threading.Event()

    def run(self, requests: list[Any]) -> list[Any]:
        for request in requests:
            photo = request[0] if isinstance(request, tuple) else request
            self.begun.set()
            assert self.go_on.wait(PATIENCE)
            self.order.append(photo.sha256[0])
        return [np.ones(4, np.float32) for _ in requests]


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk(SharedEngine(Settings(clip_model="stand-in", threads=1), None))
    for thread in (made.engine._ocr, made.engine._clip_image):
        thread._prepare = lambda: (made.run, nullcontext())  # type: ignore[method-assign]
        thread._max_batch = 1
    yield made
    made.go_on.set()
    made.engine.close()


def photo(number: int) -> Photo:
    return Photo(bytes([number]) * 32, 1, 1, Image.new("RGB", (1, 1)))


def ask(desk: Desk, task: str, number: int, lane: Lane) -> Future[Any]:
    if task == "ocr":
        return desk.engine.read_text(photo(number), OcrOptions(), lane)
    return desk.engine.embed_image(photo(number), lane)


@pytest.mark.parametrize("task", ["ocr", "clip"])
def test_what_a_person_joins_goes_first(desk: Desk, task: str) -> None:
    bulk = [ask(desk, task, number, Lane.BULK) for number in (1, 2, 3, 4)]
    assert desk.begun.wait(PATIENCE)
    joined = ask(desk, task, 3, Lane.INTERACTIVE)
    assert joined is bulk[2]
    desk.go_on.set()
    for future in bulk:
        future.result(PATIENCE)
    assert desk.order == [1, 3, 2, 4]


def test_what_runs_already_is_only_waited_for(desk: Desk) -> None:
    bulk = [ask(desk, "ocr", number, Lane.BULK) for number in (1, 2)]
    assert desk.begun.wait(PATIENCE)
    assert ask(desk, "ocr", 1, Lane.INTERACTIVE) is bulk[0]
    desk.go_on.set()
    for future in bulk:
        future.result(PATIENCE)
    assert desk.order == [1, 2]


def test_bulk_joins_in_no_hurry(desk: Desk) -> None:
    bulk = [ask(desk, "ocr", number, Lane.BULK) for number in (1, 2, 3)]
    assert desk.begun.wait(PATIENCE)
    ask(desk, "ocr", 3, Lane.BULK)
    desk.go_on.set()
    for future in bulk:
        future.result(PATIENCE)
    assert desk.order == [1, 2, 3]
    assert not desk.engine._urgent
    assert not desk.engine._computing
