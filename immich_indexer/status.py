"""What `immich-indexer status` shows: the index, the queue, the workers, what failed and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pg.connect import Connection
from pg.query import fetch_one

_ALIVE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Status:
    """A look at the database.

    Attributes:
        photos: assets that have a preview.
        read: of those, with a row in `ocr`.
        embedded: of those, with a row in `clip`.
        jobs: (task, state) → how many; states are waiting, running, retrying, dead.
        rate: photos a second over the last minute, all workers together.
        workers: rows of `indexer_v1.worker` seen in the last half minute.
        failures: (task, reason, how many, an example's file name), most frequent first.
        clip_model: the model that the index is made with; None before the first.
    """

    photos: int
    read: int
    embedded: int
    jobs: dict[tuple[str, str], int]
    rate: float
    workers: list[dict[str, Any]]
    failures: list[tuple[str, str, int, str]]
    clip_model: str | None

    def pending(self, tasks: tuple[str, ...] = ("ocr", "clip")) -> int:
        """Jobs of these tasks that are still to end."""
        return sum(n for (task, state), n in self.jobs.items() if task in tasks and state != "dead")

    def time_left(self) -> timedelta | None:
        """How long the reading will take at the present rate; None where nothing can be said."""
        if not self.rate or not self.pending():
            return None
        most = max(self.pending(("ocr",)), self.pending(("clip",)))
        return timedelta(seconds=round(most / self.rate))


def look(connection: Connection) -> Status:
    """Read it all from the database, in one snapshot."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        counts = fetch_one(
            connection,
            """
            SELECT (SELECT count(DISTINCT "assetId") FROM public.asset_file WHERE type = 'preview'),
                   (SELECT count(*) FROM indexer_v1.ocr), (SELECT count(*) FROM indexer_v1.clip),
                   (SELECT value FROM indexer_v1.setting WHERE name = 'clip_model')
            """,
        )
        jobs = cursor.execute("SELECT task, state, jobs FROM indexer_v1.queue()").fetchall()
        workers = cursor.execute(
            "SELECT host, pid, device, started_at, done, failed, rate, note FROM indexer_v1.worker"
            " WHERE seen_at > now() - make_interval(secs => %s) ORDER BY started_at",
            [_ALIVE_SECONDS],
        ).fetchall()
        names = [column.name for column in cursor.description or ()]
        failures = cursor.execute(
            """
            SELECT j.task, j.last_error, count(*), min(a."originalFileName")
            FROM indexer_v1.job j JOIN public.asset a ON a.id = j.asset_id
            WHERE j.dead_at IS NOT NULL
            GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 20
            """
        ).fetchall()
    alive = [dict(zip(names, worker, strict=True)) for worker in workers]
    return Status(
        photos=counts[0],
        read=counts[1],
        embedded=counts[2],
        jobs={(task, state): n for task, state, n in jobs},
        rate=sum(worker["rate"] for worker in alive),
        workers=alive,
        failures=[(task, reason, n, name) for task, reason, n, name in failures],
        clip_model=counts[3].rsplit("/", 1)[0] if counts[3] else None,
    )


def render(status: Status, clip_problem: str | None) -> RenderableType:
    """Tables for a terminal."""
    queue = Table("task", "done", "waiting", "running", "retrying", "dead", title="Queue")
    for task, done in (("ocr", status.read), ("clip", status.embedded)):
        states = ("waiting", "running", "retrying", "dead")
        queue.add_row(task, str(done), *(str(status.jobs.get((task, s), 0)) for s in states))
    left = status.time_left()
    head = Text(
        f"{status.photos} photos · CLIP model {status.clip_model or 'none yet'}"
        f" · {status.rate:.2f} photos/s" + (f" · about {left} left" if left else "")
    )
    parts: list[RenderableType] = [head, queue]
    if clip_problem and status.pending(("clip",)):
        parts.append(Text(f"CLIP waits: {clip_problem}", style="yellow"))
    if status.workers:
        table = Table(
            "worker", "device", "up for", "done", "failed", "per s", "note", title="Workers"
        )
        for worker in status.workers:
            up = datetime.now(UTC) - worker["started_at"]
            table.add_row(
                f"{worker['host']}:{worker['pid']}",
                worker["device"],
                str(timedelta(seconds=round(up.total_seconds()))),
                str(worker["done"]),
                str(worker["failed"]),
                f"{worker['rate']:.2f}",
                worker["note"],
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
    for task, reason, n, example in status.failures:
        table.add_row(task, str(n), Text(reason), Text(example))
    return table


def show(console: Console, status: Status, clip_problem: str | None) -> None:
    """Print it."""
    console.print(render(status, clip_problem))
