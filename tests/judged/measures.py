"""The figures, as usual in information retrieval (Manning et al. 2008, chapter 8).

Relevance is yes or no. Averages are over queries (macro), so a query with one answer counts as
much as one with twenty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean

DEPTH = 10


@dataclass(frozen=True, slots=True)
class Measures:
    """0 to 1, the more the better; None where a query says nothing about the figure.

    Attributes:
        recall: share of the answers that were found; None where there is nothing to find.
        precision: share of what was found that is an answer, counted over everything found, not
            only the first page. 1 where nothing was found and there is nothing to find, 0 where
            something was; None where nothing was found although there is an answer (recall says
            it already).
        mrr: 1 / rank of the first answer; None where there is nothing to find.
        ndcg: nDCG at 10; None where there is nothing to find.
    """

    recall: float | None
    precision: float | None
    mrr: float | None
    ndcg: float | None


def measure(found: Sequence[str], relevant: Iterable[str]) -> Measures:
    """Measure one ranked answer."""
    wanted = set(relevant)
    right = [item in wanted for item in found]
    if not wanted:
        return Measures(None, 0.0 if found else 1.0, None, None)
    gain = sum(1 / log2(rank + 2) for rank, hit in enumerate(right[:DEPTH]) if hit)
    best = sum(1 / log2(rank + 2) for rank in range(min(len(wanted), DEPTH)))
    return Measures(
        recall=sum(right) / len(wanted),
        precision=sum(right) / len(found) if found else None,
        mrr=1 / (right.index(True) + 1) if any(right) else 0.0,
        ndcg=gain / best,
    )


def mean(measured: Sequence[Measures]) -> Measures:
    """Average each figure over the queries that have it."""
    return Measures(
        _mean(m.recall for m in measured),
        _mean(m.precision for m in measured),
        _mean(m.mrr for m in measured),
        _mean(m.ndcg for m in measured),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
