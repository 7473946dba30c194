"""All sections of the table, in its order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench import models, serving
from bench.accuracy import accuracy
from bench.measure import Figure, Row
from bench.stage import LIBRARY, Stage


def memory(stage: Stage) -> Iterator[Row]:
    """The most memory each process has had while the sections above ran."""
    peaks = {name: peak / 1e6 for name, peak in stage.peaks().items()}
    library = peaks.pop(LIBRARY, None)
    for name, peak in peaks.items():
        row = Row(
            section="memory",
            case="peak",
            measured=name,
            unit="MB",
            rounds=1,
            value=Figure.of([peak]),
        )
        if library is not None:
            row.against, row.reference = LIBRARY, Figure.of([library])
            row.difference = Figure.of([peak - library])
        yield row


SECTIONS: dict[str, Callable[[Stage], Iterator[Row]]] = {
    "clip": models.clip,
    "text": models.text,
    "ocr": models.ocr,
    "accuracy": accuracy,
    "photo": models.photo,
    "worker": serving.worker,
    "searchable": serving.searchable,
    "predict": serving.predict,
    "query": serving.query,
    "memory": memory,
}

# Those that a client's clock measures: waiting is what counts, not the processor's work.
WAITING = ("predict", "query")
