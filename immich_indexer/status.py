"""What `immich-indexer status` shows: the index, the queue, the workers, what failed and why."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from indexer.library import Away
from indexer.status import Status


def render(status: Status, clip_problem: str | None, away: Sequence[Away] = ()) -> RenderableType:
    """Tables for a terminal."""
    queue = Table("task", "done", "waiting", "running", "retrying", "dead", title="Queue")
    for task, done in (("ocr", status.read), ("clip", status.embedded)):
        states = ("waiting", "running", "retrying", "dead")
        queue.add_row(task, str(done), *(str(status.jobs(task, state)) for state in states))
    left = status.time_left()
    head = Text(
        f"{status.photos} photos · CLIP model {status.clip_model or 'none yet'}"
        f" · {status.rate:.2f} photos/s" + (f" · about {left} left" if left else "")
    )
    parts: list[RenderableType] = [head, queue]
    if clip_problem and status.pending("clip"):
        parts.append(Text(f"CLIP waits: {clip_problem}", style="yellow"))
    parts += [Text(str(gone), style="yellow") for gone in away]
    if status.workers:
        table = Table(
            "worker", "device", "up for", "done", "failed", "per s", "note", title="Workers"
        )
        for worker in status.workers:
            up = datetime.now(UTC) - worker.started_at
            table.add_row(
                f"{worker.host}:{worker.pid}",
                worker.device,
                str(timedelta(seconds=round(up.total_seconds()))),
                str(worker.done),
                str(worker.failed),
                f"{worker.rate:.2f}",
                worker.note,
            )
        parts.append(table)
    else:
        parts.append(Text("No worker is running: start one with `immich-indexer serve`.", "yellow"))
    if status.failures:
        parts.append(failures_table(status))
        parts.append(Text("Once the cause is gone: immich-indexer requeue"))
    return Group(*parts)


def failures_table(status: Status) -> Table:
    """What is dead, by reason."""
    table = Table("task", "photos", "reason", "for example", title="Failed")
    for failed in status.failures:
        example = failed.examples[0][1] if failed.examples else ""
        table.add_row(failed.task, str(failed.photos), Text(failed.reason), Text(example))
    return table


def show(
    console: Console, status: Status, clip_problem: str | None, away: Sequence[Away] = ()
) -> None:
    """Print it."""
    console.print(render(status, clip_problem, away))
