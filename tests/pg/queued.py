"""Working through the queue by hand, and looking at it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import numpy as np

from indexer import queue
from indexer.models.types import Line
from indexer.queue import Failure, Job, Outcome, Task
from indexer.results import FileStamp, Text, Vector
from pg.connect import Connection
from pg.query import fetch_one, fetch_value

MAX_ATTEMPTS = 3
BOTH: list[Task] = ["ocr", "clip"]
FILE = FileStamp(1000, datetime(2024, 5, 1, tzinfo=UTC))
HASH = bytes(32)
MODEL = "ViT-B-16"


def claim(
    connection: Connection,
    count: int = 100,
    *,
    tasks: list[Task] = BOTH,
    lease: float = 60,
    max_attempts: int = MAX_ATTEMPTS,
    suspects: bool = True,
) -> list[Job]:
    return queue.claim(connection, uuid4(), tasks, count, lease, max_attempts, suspects)


def result(job: Job, text: str = "发票") -> Outcome:
    if job.task == "ocr":
        line = Line(text, (0, 0, 1, 0, 1, 1, 0, 1), 0.9, 0.9)
        return Outcome(job, Text([line], "reader", HASH, FILE))
    return Outcome(job, Vector(np.ones(512, np.float32) / 512**0.5, MODEL, HASH))


def finish(connection: Connection, outcomes: list[Outcome]) -> list[Outcome]:
    return queue.finish(connection, outcomes[0].job.token, outcomes, MAX_ATTEMPTS)


def fail(connection: Connection, job: Job, reason: str = "bad", permanent: bool = False) -> None:
    finish(connection, [Outcome(job, Failure(reason, "model", permanent))])


def crash(connection: Connection) -> None:
    """The worker died: its leases run out."""
    connection.execute(
        "UPDATE indexer_v1.job SET lease_until = now() - interval '1 second'"
        " WHERE lease_token IS NOT NULL"
    )


def due(connection: Connection) -> None:
    """The pause after a failure is over."""
    connection.execute("UPDATE indexer_v1.job SET next_at = now()")


def jobs(connection: Connection, columns: str = "asset_id, task") -> list[tuple[Any, ...]]:
    return connection.execute(
        f"SELECT {columns} FROM indexer_v1.job ORDER BY asset_id, task".encode()
    ).fetchall()


def job_of(connection: Connection, asset: UUID, task: Task = "ocr") -> dict[str, Any]:
    row: dict[str, Any] = fetch_value(
        connection,
        "SELECT to_jsonb(j) FROM indexer_v1.job j WHERE asset_id = %s AND task = %s",
        [asset, task],
    )
    return row


def request(connection: Connection, asset: UUID, task: str = "all") -> int:
    row: int = fetch_value(
        connection,
        "INSERT INTO indexer_v1.reprocess (asset_id, task) VALUES (%s, %s) RETURNING id",
        [asset, task],
    )
    return row


def answer(connection: Connection, number: int) -> tuple[str, bool]:
    """Its status, and whether it has ended."""
    status, ended = fetch_one(
        connection,
        "SELECT status, finished_at IS NOT NULL FROM indexer_v1.reprocess WHERE id = %s",
        [number],
    )
    return status, ended
