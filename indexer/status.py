"""How the index is: what is done, waiting and failed, and who works. One look is one statement."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from pg.connect import Connection
from pg.query import fetch_value


class QueueEntry(msgspec.Struct):
    """Jobs of one task in one state: `waiting`, `retrying`, `running` or `dead`."""

    task: str
    state: str
    jobs: int
    oldest: datetime | None


class WorkerSeen(msgspec.Struct):
    """A worker that was seen in the last half minute.

    Attributes:
        rate: photos a second over the last minute.
        note: what it can't do, and why; empty where it can do everything.
    """

    host: str
    pid: int
    device: str
    started_at: datetime
    done: int
    failed: int
    rate: float
    note: str


class FailedGroup(msgspec.Struct):
    """Photos that failed for one reason.

    Attributes:
        photos: how many.
        examples: (asset id, file name) of some of them; none where they mayn't be shown.
    """

    task: str
    reason: str
    photos: int
    examples: list[tuple[UUID, str]]


class Status(msgspec.Struct):
    """A look at the index.

    Attributes:
        looked_at: when, by PostgreSQL's clock, which workers' times are by as well.
        photos: assets that have a preview.
        read: of those, with a row in `ocr`.
        embedded: of those, with a row in `clip`.
        failures: most frequent first, the first twenty.
        clip_model: the model that the index is made with; None before the first.
    """

    looked_at: datetime
    photos: int
    read: int
    embedded: int
    queue: list[QueueEntry]
    workers: list[WorkerSeen]
    failures: list[FailedGroup]
    clip_model: str | None

    @property
    def rate(self) -> float:
        """Photos a second over the last minute, all workers together."""
        return sum(worker.rate for worker in self.workers)

    def jobs(self, task: str, *states: str) -> int:
        """Jobs of a task in these states; in any, where none is named."""
        return sum(
            entry.jobs
            for entry in self.queue
            if entry.task == task and (not states or entry.state in states)
        )

    def pending(self, task: str) -> int:
        """Jobs of a task that are still to end."""
        return self.jobs(task, "waiting", "running", "retrying")

    def time_left(self) -> timedelta | None:
        """How long the reading will take at the present rate; None where nothing can be said."""
        most = max(self.pending("ocr"), self.pending("clip"))
        return timedelta(seconds=round(most / self.rate)) if self.rate and most else None


def decode(answer: str | bytes) -> Status:
    """Read what `indexer_v1.status` returned."""
    return msgspec.json.decode(answer, type=Status)


def look(connection: Connection) -> Status:
    """Look at everybody's photos."""
    return decode(fetch_value(connection, "SELECT indexer_v1.status()::text"))
