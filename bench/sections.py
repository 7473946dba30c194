"""The sections of the table: each measures its contenders in turns and yields rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count

from bench.library import Library
from bench.material import cycle, texts
from bench.measure import Figure, Row, latencies, latency, rates
from bench.product import Kind, Product
from bench.service import Service
from bench.stage import Stage

Section = Callable[[Stage], Iterator[Row]]

# It takes pictures one by one, so a few tell as much as a batch.
_LIBRARY_IMAGES = 3
_BATCHES = (1, 8, 32)
_CLIENTS = (1, 4, 16)
_REQUESTS: dict[Kind, str] = {"image": "CLIP image", "text": "CLIP text", "ocr": "OCR"}

# More than a worker gets done while the queries are asked; what is left is taken away again.
_BACKLOG = 400
_PAUSE_SECONDS = 0.1

_LIBRARY = "library"
_BARE = "bare inference"


def clip(stage: Stage) -> Iterator[Row]:
    """Pictures in memory → embeddings."""
    photos = range(len(stage.samples))
    goals = {"auto": 4.0, "exact": 1.25}

    def library(number: int) -> float:
        chosen = cycle(photos, _LIBRARY_IMAGES, number)
        return len(chosen) / stage.library.call(Library.images, chosen)

    for batch in _BATCHES:

        def product(name: str, number: int, batch: int = batch) -> float:
            chosen = cycle(photos, batch, number * batch)
            return batch / stage.product(name).call(Product.images, chosen)

        yield from _beside_library(
            stage, "CLIP", f"{batch} at once", "images/s", library, product, goals
        )


def text(stage: Stage) -> Iterator[Row]:
    """Texts → embeddings; the library gets the same batches."""
    goals = {"auto": 4.0, "exact": 2.0}
    for batch in _BATCHES:

        def library(number: int, batch: int = batch) -> float:
            return batch / stage.library.call(Library.texts, texts(batch, number))

        def product(name: str, number: int, batch: int = batch) -> float:
            return batch / stage.product(name).call(Product.texts, texts(batch, number))

        yield from _beside_library(
            stage, "text", f"{batch} at once", "texts/s", library, product, goals
        )


def ocr(stage: Stage) -> Iterator[Row]:
    """Pictures in memory → lines, by kind of picture, and all of these together."""
    kinds = list(dict.fromkeys(sample.kind for sample in stage.samples))
    names = [_LIBRARY, *stage.products]
    seconds: dict[str, list[float]] = {name: [0.0] * stage.plan.rounds for name in names}
    total = 0
    for kind in kinds:
        photos = stage.photos(kind)

        def library(_: int, photos: list[int] = photos) -> float:
            return stage.library.call(Library.read, photos)

        def product(name: str, photos: list[int] = photos) -> Callable[[int], float]:
            return lambda _: stage.product(name).call(Product.read, photos)

        took = stage.in_turns(
            {_LIBRARY: library} | {name: product(name) for name in stage.products}
        )
        total += len(photos)
        for name, values in took.items():
            seconds[name] = [a + b for a, b in zip(seconds[name], values, strict=True)]
        yield from _ocr_rows(stage, kind, took, len(photos), {})
    yield from _ocr_rows(stage, "all of these", seconds, total, {"auto": 2.5, "exact": 1.7})


def _ocr_rows(
    stage: Stage, case: str, seconds: dict[str, list[float]], photos: int, goals: dict[str, float]
) -> Iterator[Row]:
    found = {name: [photos / value for value in values] for name, values in seconds.items()}
    for name in stage.products:
        yield rates(
            "OCR", case, name, "images/s", found[name], _LIBRARY, found[_LIBRARY], goals.get(name)
        )


def photo(stage: Stage) -> Iterator[Row]:
    """Whole photos, from their files: decoded, embedded and read."""
    photos = stage.photos()
    size = max(2, stage.plan.photos // 4)

    def library(number: int) -> float:
        return size / stage.library.call(Library.photos, cycle(photos, size, number * size))

    def product(name: str, number: int) -> float:
        chosen = cycle(photos, size, number * size)
        return size / stage.product(name).call(Product.photos, chosen)

    yield from _beside_library(
        stage, "photo", "file to results", "photos/s", library, product, {"auto": 3.0}
    )


def worker(stage: Stage) -> Iterator[Row]:
    """Whole photos through the queue and the worker, into the database."""
    photos = stage.photos()
    size = stage.plan.photos

    def bare(number: int) -> float:
        return size / stage.service.call(Service.photos, cycle(photos, size, number))

    def through_worker(number: int) -> float:
        return size / stage.service.call(Service.index, cycle(photos, size, number))

    def library(number: int) -> float:
        chosen = cycle(photos, max(2, size // 4), number)
        return len(chosen) / stage.library.call(Library.photos, chosen)

    found = stage.in_turns({_BARE: bare, "worker": through_worker, _LIBRARY: library})
    case = f"{size} new photos"
    for against, goal in ((_BARE, 0.95), (_LIBRARY, None)):
        yield rates(
            "worker", case, "worker", "photos/s", found["worker"], against, found[against], goal
        )


def searchable(stage: Stage) -> Iterator[Row]:
    """One new photo: from the commit of its row until a search finds it."""
    photos = stage.photos()
    lines = {i: stage.service.call(Service.longest_line, i) for i in photos}
    readable = [i for i in photos if lines[i]]
    found = stage.in_turns(
        {
            _BARE: lambda n: stage.service.call(Service.photos, cycle(readable, 1, n)),
            "searchable": lambda n: stage.service.call(
                Service.searchable, readable[n % len(readable)], lines[readable[n % len(readable)]]
            ),
        },
        times=3,
    )
    yield latencies(
        "searchable", "commit to found", "serve", found["searchable"], _BARE, found[_BARE], 50
    )


def predict(stage: Stage) -> Iterator[Row]:
    """`/predict` over HTTP, under several clients."""
    for kind, case in _REQUESTS.items():
        yield from _one_client(stage, kind, case)
        for clients in _CLIENTS:
            yield from _many_clients(stage, kind, case, clients)


def _one_client(stage: Stage, kind: Kind, case: str) -> Iterator[Row]:
    photos = stage.photos()
    numbers = count()

    def bare(number: int) -> float:
        photo = photos[number % len(photos)]
        return stage.service.call(Service.one, kind, photo, next(numbers))

    found = stage.in_turns(
        {_BARE: bare, "serve": lambda n: stage.clients.ask(kind, photos[n % len(photos)])}, times=5
    )
    yield latencies("/predict", f"{case}, latency", "serve", found["serve"], _BARE, found[_BARE], 5)


def _many_clients(stage: Stage, kind: Kind, case: str, clients: int) -> Iterator[Row]:
    photos = stage.photos()
    waits: list[float] = []
    asked = clients * stage.plan.requests

    def serve(number: int) -> float:
        chosen = cycle(photos, asked, number)
        seconds, together = stage.clients.ask_together(kind, chosen, clients=clients)
        if number:
            waits.extend(seconds)
        return asked / together

    def library(number: int) -> float:
        if kind == "text":
            return 1 / stage.library.call(Library.texts, texts(1, number))
        chosen = cycle(photos, 2, number)
        if kind == "image":
            return len(chosen) / stage.library.call(Library.images, chosen)
        return len(chosen) / stage.library.call(Library.read, chosen)

    found = stage.in_turns({"serve": serve, _LIBRARY: library})
    under = f"{case}, {clients} client{'s' if clients > 1 else ''}"
    yield rates("/predict", under, "serve", "requests/s", found["serve"], _LIBRARY, found[_LIBRARY])
    yield latency("/predict", f"{under}: latency", "serve", waits)


def query(stage: Stage) -> Iterator[Row]:
    """A text that somebody searches for is embedded, at rest and while a backfill runs."""
    numbers = count()

    def ask() -> float:
        return stage.service.call(Service.query, texts(1, 2_000_000 + next(numbers))[0])

    rest = stage.in_turns(
        {
            _BARE: lambda n: stage.service.call(Service.texts, texts(1, 3_000_000 + n)),
            "serve": lambda _: ask(),
            _LIBRARY: lambda n: stage.library.call(Library.texts, texts(1, n)),
        },
        times=3,
    )
    yield latencies("query", "at rest", "serve", rest["serve"], _LIBRARY, rest[_LIBRARY])
    photos = stage.photos()
    stage.service.call(Service.start_backfill, cycle(photos, _BACKLOG, 0))
    inside, over_http = [], []
    for number in range(stage.plan.queries):
        time.sleep(_PAUSE_SECONDS)
        inside.append(ask())
        time.sleep(_PAUSE_SECONDS)
        over_http.append(stage.clients.ask("text", number % len(photos)))
    if not stage.service.call(Service.waiting):
        raise RuntimeError("the backfill ended before the queries did")
    stage.service.call(Service.end_backfill)
    yield latency("query", "during a backfill", "serve", inside, 20)
    yield latency("query", "during a backfill, over HTTP", "serve", over_http)


def memory(stage: Stage) -> Iterator[Row]:
    """The most memory each process has had while the sections above ran."""
    peaks = {name: peak / 1e6 for name, peak in stage.peaks().items()}
    library = peaks.get(_LIBRARY)
    for name, peak in peaks.items():
        if name == _LIBRARY or library is None:
            yield Row(
                section="memory",
                case="peak",
                measured=name,
                unit="MB",
                rounds=1,
                value=Figure.of([peak]),
            )
        else:
            yield Row(
                section="memory",
                case="peak",
                measured=name,
                unit="MB",
                rounds=1,
                value=Figure.of([peak]),
                against=_LIBRARY,
                reference=Figure.of([library]),
                difference=Figure.of([peak - library]),
            )


def _beside_library(
    stage: Stage,
    section: str,
    case: str,
    unit: str,
    library: Callable[[int], float],
    product: Callable[[str, int], float],
    goals: dict[str, float],
) -> Iterator[Row]:
    """Rows of every precision of the product against the library."""

    def of(name: str) -> Callable[[int], float]:
        return lambda number: product(name, number)

    found = stage.in_turns({_LIBRARY: library} | {name: of(name) for name in stage.products})
    for name in stage.products:
        yield rates(
            section, case, name, unit, found[name], _LIBRARY, found[_LIBRARY], goals.get(name)
        )


SECTIONS: dict[str, Section] = {
    "clip": clip,
    "text": text,
    "ocr": ocr,
    "photo": photo,
    "worker": worker,
    "searchable": searchable,
    "predict": predict,
    "query": query,
    "memory": memory,
}
