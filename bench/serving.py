"""Sections of the table: the product as it is served, beside the bare inference it is made of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count

from bench.library import Library
from bench.material import cycle, texts
from bench.measure import Row, latencies, latency, rates
from bench.product import Kind
from bench.service import Service
from bench.stage import LIBRARY, Stage

_BARE = "bare inference"
_SERVE = "serve"
_CLIENTS = (1, 4, 16)
_REQUESTS: dict[Kind, str] = {"image": "CLIP image", "text": "CLIP text", "ocr": "OCR"}

# More than a worker gets done while the queries are asked; what is left is taken away again.
_BACKLOG = 400
_PAUSE_SECONDS = 0.1


def worker(stage: Stage) -> Iterator[Row]:
    """Whole photos through the queue and the worker, into the database."""
    stage.prepare_clip()
    photos = stage.photos()
    size = stage.plan.photos

    def bare(number: int) -> float:
        return size / stage.service.call(Service.photos, cycle(photos, size, number * size))

    def through_worker(number: int) -> float:
        return size / stage.service.call(Service.index, cycle(photos, size, number * size))

    def library(number: int) -> float:
        chosen = cycle(photos, size, number * size)
        return size / stage.library.call(Library.photos, chosen)

    found = stage.in_turns({_BARE: bare, "worker": through_worker, LIBRARY: library})
    for against, goal in ((_BARE, 0.95), (LIBRARY, None)):
        yield rates(
            "worker",
            f"{size} new photos",
            "worker",
            "photos/s",
            found["worker"],
            against,
            found[against],
            goal,
        )


def searchable(stage: Stage) -> Iterator[Row]:
    """One new photo: from the commit of its row until a search finds it."""
    lines = {photo: stage.service.call(Service.longest_line, photo) for photo in stage.photos()}
    readable = [photo for photo, line in lines.items() if line]

    def bare(number: int) -> float:
        return stage.service.call(Service.photos, cycle(readable, 1, number))

    def found_by_search(number: int) -> float:
        (photo,) = cycle(readable, 1, number)
        return stage.service.call(Service.searchable, photo, lines[photo])

    found = stage.in_turns({_BARE: bare, _SERVE: found_by_search}, times=3)
    yield latencies("searchable", "commit to found", _SERVE, found[_SERVE], _BARE, found[_BARE], 50)


def predict(stage: Stage) -> Iterator[Row]:
    """`/predict` over HTTP, under several clients."""
    stage.prepare_clip()
    for kind, case in _REQUESTS.items():
        yield from _predict(stage, kind, case)


def _predict(stage: Stage, kind: Kind, case: str) -> Iterator[Row]:
    photos = stage.photos()
    each = stage.plan.requests
    waits: dict[int, list[float]] = {clients: [] for clients in _CLIENTS}
    numbers = count()

    def bare(number: int) -> float:
        return statistics.mean(
            stage.service.call(Service.one, kind, photo, next(numbers))
            for photo in cycle(photos, each, number * each)
        )

    def serve(clients: int) -> Callable[[int], float]:
        def ask(number: int) -> float:
            chosen = cycle(photos, clients * each, number * each)
            seconds, together = stage.clients.ask_together(kind, chosen, clients=clients)
            if number:
                waits[clients] += seconds
            return statistics.mean(seconds) if clients == 1 else together

        return ask

    def library(number: int) -> float:
        chosen = cycle(photos, each, number * each)
        if kind == "text":
            return statistics.mean(
                stage.library.call(Library.texts, texts(1, photo)) for photo in chosen
            )
        if kind == "image":
            return stage.library.call(Library.images, chosen) / each
        return stage.library.call(Library.read, chosen) / each

    found = stage.in_turns(
        {_BARE: bare, LIBRARY: library} | {str(clients): serve(clients) for clients in _CLIENTS}
    )
    yield latencies("/predict", f"{case}, 1 client", _SERVE, found["1"], _BARE, found[_BARE], 5)
    per_second = [1 / seconds for seconds in found[LIBRARY]]
    for clients in _CLIENTS:
        asked = each if clients == 1 else clients * each
        took = [seconds * each for seconds in found["1"]] if clients == 1 else found[str(clients)]
        under = f"{case}, {clients} client{'s' if clients > 1 else ''}"
        yield rates(
            "/predict",
            under,
            _SERVE,
            "requests/s",
            [asked / seconds for seconds in took],
            LIBRARY,
            per_second,
        )
        if clients > 1:
            yield latency("/predict", under, _SERVE, waits[clients])


def query(stage: Stage) -> Iterator[Row]:
    """A text that somebody searches for is embedded, at rest and while a backfill runs."""
    stage.prepare_clip()
    numbers = count(2_000_000)  # other texts than the clients': the engine remembers

    def ask() -> float:
        return stage.service.call(Service.query, texts(1, next(numbers))[0])

    def library(number: int) -> float:
        return stage.library.call(Library.texts, texts(1, number))

    found = stage.in_turns({_SERVE: lambda _: ask(), LIBRARY: library}, times=3)
    yield latencies("query", "at rest", _SERVE, found[_SERVE], LIBRARY, found[LIBRARY])
    photos = stage.photos()
    stage.service.call(Service.start_backfill, cycle(photos, _BACKLOG, 0))
    inside, over_http = [], []
    for number in range(stage.plan.queries):
        time.sleep(_PAUSE_SECONDS)
        inside.append(ask())
        time.sleep(_PAUSE_SECONDS)
        over_http.append(stage.clients.ask("text", number % len(photos)))
    if not stage.service.call(Service.waiting):
        raise RuntimeError("the backfill ended before the queries did: raise _BACKLOG")
    stage.service.call(Service.end_backfill)
    yield latency("query", "during a backfill", _SERVE, inside, 20)
    yield latency("query", "during a backfill, over HTTP", _SERVE, over_http)
