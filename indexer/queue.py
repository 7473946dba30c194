"""The queue, as a worker sees it: claim, renew, finish, release. The SQL is in 40_queue.sql."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from indexer import write_back
from indexer.results import Text, Unchanged, Vector, write_texts, write_vectors
from indexer.write_back import WriteBack
from pg.connect import Connection
from pg.query import fetch_one, fetch_value

Task = Literal["ocr", "clip"]
FailureKind = Literal[
    "no preview", "unreadable file", "unreadable image", "too slow", "model", "database"
]

_CLAIM_TRIES = 10

# Another transaction (Immich's, or somebody's INSERT into reprocess) may hold a row for a moment.
_HOLD_TRIES = 25
_HOLD_PAUSE_SECONDS = 0.2

# What is wrong with a result, not with the database.
_REFUSED = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
)

# Or the connection ended without a word: then there is no sqlstate. (A server that is shut down, or
# takes its sessions along because another one crashed, says so.)
_SESSION_LOST = (psycopg.errors.QueryCanceled, psycopg.errors.InternalError_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One claimed (asset, task).

    Attributes:
        revision: of the job when it was claimed; a result counts as final only if it still stands.
        attempts: this one included.
        force: infer even if the picture is unchanged.
        token: of the lease.
        path: of the preview, as Immich names it; None where there is none (any more).
        known_hash: SHA-256 of the picture that the present result was made from, None without one.
        known_model: the model that the present result was made with.
        suspect: a worker may have died of it before.
    """

    asset_id: UUID
    task: Task
    revision: int
    attempts: int
    force: bool
    token: UUID
    path: str | None
    known_hash: bytes | None
    known_model: str | None
    suspect: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """No result.

    Attributes:
        kind: for statistics: the reason names files, and there are as many reasons as photos.
        permanent: trying again can't help.
    """

    reason: str
    kind: FailureKind
    permanent: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended.

    Attributes:
        age: seconds from the event that made the job to this being written; None before.
    """

    job: Job
    result: Text | Vector | Unchanged | Failure
    age: float | None = field(default=None, compare=False)


class WriteLostError(psycopg.OperationalError):
    """The database's session ended, or gave up, while it took these photos' results.

    Perhaps of one of them: an extension may crash on a text. Or it was an outage.
    """

    def __init__(self, asset_ids: Collection[UUID], cause: psycopg.Error) -> None:
        super().__init__(f"while it took {len(asset_ids)} results: {cause}")
        self.asset_ids = frozenset(asset_ids)


def claim(
    connection: Connection,
    token: UUID,
    tasks: Sequence[Task],
    max_jobs: int,
    lease_seconds: float,
    max_attempts: int,
    suspects: bool,
) -> list[Job]:
    """Take jobs, in a committed transaction of its own: no lock is held during inference.

    Args:
        token: a new one. Jobs may be claimed although the answer is lost: `release` it then.
        suspects: may be given a photo that a worker may have died of; it then comes alone, and
            nothing else should run beside it (`Job.suspect`).
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            with connection.cursor(row_factory=class_row(Job)) as cursor:
                return cursor.execute(
                    "SELECT * FROM indexer_v1.claim(%s, %s, make_interval(secs => %s), %s, %s, %s)",
                    [list(tasks), max_jobs, lease_seconds, max_attempts, suspects, token],
                ).fetchall()
        except psycopg.errors.LockNotAvailable:  # why: at the top of 40_queue.sql
            if attempt == _CLAIM_TRIES:
                raise


def renew(connection: Connection, token: UUID, lease_seconds: float) -> None:
    """Keep a lease while its jobs are worked on."""
    connection.execute(
        "SELECT indexer_v1.renew(%s, make_interval(secs => %s))", [token, lease_seconds]
    )


def take_missed(connection: Connection) -> int:
    """Queue photos whose event couldn't be queued when it came. Returns how many."""
    taken: int = fetch_value(connection, "SELECT indexer_v1.take_missed()")
    return taken


def release(
    connection: Connection,
    token: UUID,
    delay_seconds: float = 0,
    charged: Collection[UUID] = (),
) -> int:
    """Give back what a lease still owns, uncharged but for some. Returns how many jobs.

    Args:
        charged: photos whose attempt counts (`WriteLostError`): they become suspects.
    """
    released: int = fetch_value(
        connection,
        "SELECT indexer_v1.release(%s, make_interval(secs => %s), %s::uuid[])",
        [token, delay_seconds, list(charged)],
    )
    return released


def finish(
    connection: Connection,
    token: UUID,
    outcomes: Sequence[Outcome],
    max_attempts: int,
    beside: WriteBack | None = None,
) -> list[Outcome]:
    """Write results and acknowledge, in one transaction. Jobs that are no longer ours are left.

    A result that the database refuses (a wrong dimension, say) fails its own job only.

    Args:
        beside: what is to go to Immich's own tables too, afterwards (`write_back.flush`); None:
            nothing.

    Returns:
        The outcomes that were written.

    Raises:
        WriteLostError: the session ended while it wrote; one of these may be why.
        ClipModelChangedError: nothing was written.
    """
    waiting = list(outcomes)
    written: list[Outcome] = []
    for attempt in range(_HOLD_TRIES):
        if attempt:
            time.sleep(_HOLD_PAUSE_SECONDS)
        try:
            done = _finish_held(connection, token, waiting, max_attempts, beside)
        except (
            psycopg.errors.LockNotAvailable,
            psycopg.errors.SerializationFailure,
            psycopg.errors.DeadlockDetected,
        ):
            continue
        except _REFUSED as error:
            if len(waiting) > 1:
                for outcome in waiting:
                    written += finish(connection, token, [outcome], max_attempts, beside)
                return written
            reason = f"the database refused the result: {error.diag.message_primary}"
            waiting = [Outcome(waiting[0].job, Failure(reason, "database", permanent=False))]
            continue
        written += done
        waiting = [outcome for outcome in waiting if outcome not in done]
        if not waiting or not _owns_any(connection, token, waiting):
            break
    return written


def _owns_any(connection: Connection, token: UUID, outcomes: list[Outcome]) -> bool:
    owns: bool = fetch_value(
        connection,
        "SELECT EXISTS (SELECT FROM indexer_v1.job WHERE lease_token = %s AND asset_id = ANY (%s))",
        [token, [outcome.job.asset_id for outcome in outcomes]],
    )
    return owns


def _finish_held(
    connection: Connection,
    token: UUID,
    outcomes: list[Outcome],
    max_attempts: int,
    beside: WriteBack | None,
) -> list[Outcome]:
    with connection.transaction(), connection.cursor() as cursor:
        rows = cursor.execute(
            """
            SELECT asset_id, task, extract(epoch FROM clock_timestamp() - j.created_at)::float8
            FROM indexer_v1.hold(%s, %s) JOIN indexer_v1.job j USING (asset_id, task)
            """,
            [token, list({outcome.job.asset_id for outcome in outcomes})],
        ).fetchall()
        ages = {(asset_id, task): age for asset_id, task, age in rows}
        mine = [
            replace(o, age=ages[o.job.asset_id, o.job.task])
            for o in outcomes
            if (o.job.asset_id, o.job.task) in ages
        ]
        try:
            write_texts(
                cursor,
                [
                    (o.job.asset_id, o.result)
                    for o in mine
                    if o.job.task == "ocr" and isinstance(o.result, Text | Unchanged)
                ],
            )
            write_vectors(
                cursor, [(o.job.asset_id, o.result) for o in mine if isinstance(o.result, Vector)]
            )
        except psycopg.Error as error:
            if error.sqlstate is None or isinstance(error, _SESSION_LOST):
                raise WriteLostError({o.job.asset_id for o in mine}, error) from error
            raise
        if beside:
            results = [o.job for o in mine if isinstance(o.result, Text | Vector)]
            write_back.note(
                cursor,
                beside,
                redone=[(job.asset_id, job.task) for job in results if job.force],
                embedded=[job.asset_id for job in results if job.task == "clip"],
            )
        ended = [o.job for o in mine if not isinstance(o.result, Failure)]
        cursor.execute(
            "SELECT indexer_v1.acknowledge(%s, %s, %s, %s)",
            [
                token,
                [job.asset_id for job in ended],
                [job.task for job in ended],
                [job.revision for job in ended],
            ],
        )
        for outcome in mine:
            if isinstance(outcome.result, Failure):
                job, failure = outcome.job, outcome.result
                cursor.execute(
                    "SELECT indexer_v1.fail(%s, %s, %s, %s, %s, %s, %s)",
                    [
                        token,
                        job.asset_id,
                        job.task,
                        job.revision,
                        failure.reason.replace("\0", ""),
                        failure.permanent,
                        max_attempts,
                    ],
                )
    return mine


def backfill(connection: Connection, chunk: int = 1000) -> int:
    """Enqueue whatever has a preview but neither result nor job, chunk by chunk.

    Returns:
        How many jobs were made.
    """
    after: UUID | None = None
    total = 0
    while True:
        after, enqueued = fetch_one(
            connection, "SELECT last, enqueued FROM indexer_v1.backfill(%s, %s)", [after, chunk]
        )
        if after is None:
            return total
        total += enqueued
