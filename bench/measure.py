"""What is measured, and how: in turns, so that a busy machine is busy for everybody alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import msgspec

Clock = Callable[[], float]
"""Seconds since some moment: time.perf_counter, or time.process_time for the processor's."""

Name = TypeVar("Name", bound=Hashable)


class Figure(msgspec.Struct, frozen=True):
    """Median and quartiles of what the rounds gave."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Of one value or more."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high)


class Goal(msgspec.Struct, frozen=True):
    """What the project wants (issue 6), and whether the median reaches it."""

    text: str
    met: bool


class Row(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of the table.

    Attributes:
        section: what is measured.
        rounds: how often.
        case: under which circumstances.
        measured: of whom: a contender's name.
        unit: of `value` and `reference`.
        against: whose `reference` is; '' without one.
        ratio: how many times faster (or smaller) than the reference, round by round.
        difference: value less reference, in `unit`, round by round.
    """

    section: str
    case: str
    measured: str
    unit: str
    rounds: int
    value: Figure
    against: str = ""
    reference: Figure | None = None
    ratio: Figure | None = None
    difference: Figure | None = None
    goal: Goal | None = None


def in_turns(
    measures: Mapping[Name, Callable[[int], float]], rounds: int, seconds: float
) -> dict[Name, list[float]]:
    """Measure each in turn, A B, B A, A B …, after a first round that only warms up.

    Args:
        measures: by name; called with the number of the round, return what was measured.
        rounds: at most.
        seconds: after which no further round is begun; two there are always.

    Returns:
        What each gave, round by round.
    """
    found: dict[Name, list[float]] = {name: [] for name in measures}
    deadline = time.monotonic() + seconds
    for number in range(rounds + 1):
        if number > 2 and time.monotonic() > deadline:
            break
        names = list(measures)
        if number % 2:
            names.reverse()
        for name in names:
            value = measures[name](number)
            if number:
                found[name].append(value)
    return found


def rates(
    section: str,
    case: str,
    measured: str,
    unit: str,
    values: Sequence[float],
    against: str,
    references: Sequence[float],
    at_least: float | None = None,
) -> Row:
    """A row of things a second, and how many times the reference's that is."""
    ratio = Figure.of([mine / theirs for mine, theirs in zip(values, references, strict=True)])
    return Row(
        section=section,
        case=case,
        measured=measured,
        unit=unit,
        rounds=len(values),
        value=Figure.of(values),
        against=against,
        reference=Figure.of(references),
        ratio=ratio,
        goal=None if at_least is None else Goal(f"≥ {at_least:g} ×", ratio.median >= at_least),
    )


def shares(
    section: str, case: str, measured: str, value: float, against: str, reference: float
) -> Row:
    """A row of what is the same in every round, in percent; the reference's is to be reached."""
    return Row(
        section=section,
        case=case,
        measured=measured,
        unit="%",
        rounds=1,
        value=Figure.of([100 * value]),
        against=against,
        reference=Figure.of([100 * reference]),
        difference=Figure.of([100 * (value - reference)]),
        goal=Goal("≥ library", value >= reference),
    )


def latencies(
    section: str,
    case: str,
    measured: str,
    seconds: Sequence[float],
    against: str,
    references: Sequence[float],
    at_most_more: float | None = None,
) -> Row:
    """A row of milliseconds, and how many more than the reference's that are."""
    values, others = _milliseconds(seconds), _milliseconds(references)
    more = Figure.of([mine - theirs for mine, theirs in zip(values, others, strict=True)])
    goal = None
    if at_most_more is not None:
        goal = Goal(f"≤ +{at_most_more:g} ms", more.median <= at_most_more)
    return Row(
        section=section,
        case=case,
        measured=measured,
        unit="ms",
        rounds=len(seconds),
        value=Figure.of(values),
        against=against,
        reference=Figure.of(others),
        difference=more,
        goal=goal,
    )


def latency(
    section: str,
    case: str,
    measured: str,
    seconds: Sequence[float],
    at_most: float | None = None,
) -> Row:
    """A row of milliseconds by themselves."""
    value = Figure.of(_milliseconds(seconds))
    return Row(
        section=section,
        case=case,
        measured=measured,
        unit="ms",
        rounds=len(seconds),
        value=value,
        goal=None if at_most is None else Goal(f"≤ {at_most:g} ms", value.median <= at_most),
    )


def _milliseconds(seconds: Sequence[float]) -> list[float]:
    return [value * 1000 for value in seconds]
