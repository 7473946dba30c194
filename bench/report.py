"""The measurements for people (one table) and for machines (JSON)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.machine import Machine
from bench.measure import Figure, Row


class Report(msgspec.Struct):
    """All that was measured.

    Attributes:
        cpu: whether seconds are the processor's, of all its cores.
        weights: whether CLIP's weights are the public ones or random.
        engines: what each contender's models run on.
    """

    taken_at: datetime
    machine: Machine
    clip_model: str
    weights: str
    cpu: bool
    engines: dict[str, dict[str, str]]
    rows: list[Row]

    @classmethod
    def begin(cls, machine: Machine, clip_model: str, weights: str, cpu: bool) -> Report:
        """A report without rows, as of now."""
        return cls(datetime.now(UTC), machine, clip_model, weights, cpu, {}, [])


def to_json(report: Report) -> str:
    """As indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def show(report: Report, console: Console) -> None:
    """Print what it was measured on, and the table."""
    machine = report.machine
    flags = f" ({', '.join(machine.flags)})" if machine.flags else ""
    for line in (
        f"{machine.cpu}, {machine.cores} cores{flags}, {machine.memory_gb:g} GB; {machine.system}",
        f"Python {machine.python}, "
        + ", ".join(f"{name} {version}" for name, version in machine.packages.items()),
        f"CLIP {report.clip_model}, {report.weights}",
        *(
            f"{name}: " + ", ".join(f"{part} {what}" for part, what in engine.items())
            for name, engine in report.engines.items()
        ),
        f"Load before: {machine.load:g}"
        + (" – a busy machine; trust the ratios, not the times" if machine.busy else ""),
        "Seconds are the processor's, of all cores together (--cpu)"
        if report.cpu
        else "Seconds are the clock's",
        "Medians of n rounds, in brackets the quartiles; ratios and differences are round by round",
    ):
        console.print(Text(line), soft_wrap=True)
    console.print(_table(report.rows))


def _table(rows: Iterable[Row]) -> Table:
    table = Table(header_style="bold", pad_edge=False)
    for heading, justify in (
        ("what", "left"),
        ("case", "left"),
        ("of", "left"),
        ("", "right"),
        ("unit", "left"),
        ("n", "right"),
        ("against", "left"),
        ("", "right"),
        ("ratio or difference", "right"),
        ("goal", "left"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for section, group in groupby(rows, key=lambda row: row.section):
        for number, row in enumerate(group):
            goal = f"{row.goal.text} {'✓' if row.goal.met else '✗'}" if row.goal else ""
            table.add_row(
                "" if number else section,
                row.case,
                row.measured,
                _with_spread(row.value),
                row.unit,
                str(row.rounds),
                row.against,
                _short(row.reference.median) if row.reference else "",
                _compared(row),
                Text(goal, style="" if row.goal is None or row.goal.met else "bold red"),
            )
        table.add_section()
    return table


def _compared(row: Row) -> str:
    if row.ratio:
        ratio = row.ratio
        return f"{ratio.median:.2f} × ({ratio.low:.2f}–{ratio.high:.2f})"
    if row.difference:
        more = row.difference
        return f"{more.median:+.1f} ({more.low:+.1f} … {more.high:+.1f}) {row.unit}"
    return ""


def _with_spread(figure: Figure) -> str:
    if figure.low == figure.high:
        return _short(figure.median)
    return f"{_short(figure.median)} ({_short(figure.low)}–{_short(figure.high)})"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
