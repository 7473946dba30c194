"""The queue, as a worker sees it: claim, renew, finish, release. The SQL is in 40_queue.sql."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from indexer import write_back
from indexer.media import modified_at
from indexer.models.types import Embedding, Line
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
class FileStamp:
    """Size in bytes and time of modification: a file that changed at the same path has another."""

    size: int
    modified: datetime

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Look at a file. Raises OSError."""
        status = path.stat()
        return cls(status.st_size, modified_at(status))


@dataclass(frozen=True, slots=True)
class Text:
    """A result of OCR: lines in reading order; model, hash and file they are from."""

    lines: list[Line]
    model: str
    content_hash: bytes
    file: FileStamp


@dataclass(frozen=True, slots=True)
class Vector:
    """A result of CLIP: embedding (dim,) float32; model and hash of the picture it is from."""

    embedding: Embedding
    model: str
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The picture and the model are those of the present result; the file may be newer."""

    file: FileStamp


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


class ClipModelChangedError(Exception):
    """The index has moved on to another CLIP model; embeddings of the old one must not get in."""


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
            _write_texts(cursor, mine)
            _write_vectors(cursor, mine)
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


# One statement for all rows, not `executemany`: that is a pipeline, and a session in the middle of
# one is not idle for PostgreSQL. A worker that froze there would hold its locks for ever.


def _write_texts(cursor: psycopg.Cursor[Any], outcomes: list[Outcome]) -> None:
    texts = [(o.job.asset_id, o.result) for o in outcomes if isinstance(o.result, Text)]
    if texts:
        cursor.execute(
            """
            INSERT INTO indexer_v1.ocr AS o
                (asset_id, text, lines, tsv, tokenizer, model, content_hash, file_size,
                 file_modified)
            SELECT r.asset_id, r.text, r.lines, indexer_v1.to_tsvector(r.text),
                   indexer_v1.tokenizer(), r.model, r.content_hash, r.size, r.modified
            FROM unnest(%s::uuid[], %s::text[], %s::jsonb[], %s::text[], %s::bytea[], %s::bigint[],
                        %s::timestamptz[])
                 AS r(asset_id, text, lines, model, content_hash, size, modified)
            ON CONFLICT (asset_id) DO UPDATE SET
                text = excluded.text, lines = excluded.lines, tsv = excluded.tsv,
                tokenizer = excluded.tokenizer, model = excluded.model,
                content_hash = excluded.content_hash, updated_at = now(),
                file_size = excluded.file_size, file_modified = excluded.file_modified
            """,
            [
                [asset_id for asset_id, _ in texts],
                [_text(text) for _, text in texts],
                [_lines(text) for _, text in texts],
                [text.model for _, text in texts],
                [text.content_hash for _, text in texts],
                [text.file.size for _, text in texts],
                [text.file.modified for _, text in texts],
            ],
        )
    touched = [
        (outcome.job.asset_id, outcome.result.file)
        for outcome in outcomes
        if isinstance(outcome.result, Unchanged) and outcome.job.task == "ocr"
    ]
    if touched:
        cursor.execute(
            """
            UPDATE indexer_v1.ocr o SET file_size = r.size, file_modified = r.modified
            FROM unnest(%s::uuid[], %s::bigint[], %s::timestamptz[]) AS r(asset_id, size, modified)
            WHERE o.asset_id = r.asset_id
            """,
            [
                [asset_id for asset_id, _ in touched],
                [file.size for _, file in touched],
                [file.modified for _, file in touched],
            ],
        )


def _text(text: Text) -> str:
    return "\n".join(line.text for line in text.lines).replace("\0", "")


def _lines(text: Text) -> Jsonb:
    return Jsonb(
        [
            {
                "text": line.text.replace("\0", ""),
                "box": [round(value, 5) for value in line.box],
                "box_score": round(line.box_score, 4),
                "text_score": round(line.text_score, 4),
            }
            for line in text.lines
        ]
    )


def _write_vectors(cursor: psycopg.Cursor[Any], outcomes: list[Outcome]) -> None:
    vectors = [(o.job.asset_id, o.result) for o in outcomes if isinstance(o.result, Vector)]
    if not vectors:
        return
    models = {vector.model for _, vector in vectors}
    recorded = recorded_clip_model(cursor.connection, lock="FOR SHARE")
    if models != {recorded}:
        raise ClipModelChangedError(f"the index is made with {recorded}, not {models}")
    cursor.execute(
        """
        INSERT INTO indexer_v1.clip AS c (asset_id, embedding, model, content_hash)
        SELECT r.asset_id, r.embedding::halfvec, r.model, r.content_hash
        FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::bytea[])
             AS r(asset_id, embedding, model, content_hash)
        ON CONFLICT (asset_id) DO UPDATE SET
            embedding = excluded.embedding, model = excluded.model,
            content_hash = excluded.content_hash, updated_at = now()
        """,
        [
            [asset_id for asset_id, _ in vectors],
            ["[" + ",".join(f"{v:.6g}" for v in vector.embedding) + "]" for _, vector in vectors],
            [vector.model for _, vector in vectors],
            [vector.content_hash for _, vector in vectors],
        ],
    )


def recorded_clip_model(connection: Connection, lock: Literal["", "FOR SHARE"] = "") -> str | None:
    """Name of the CLIP model that the index is made with; None before the first."""
    row = connection.execute(
        f"SELECT value FROM indexer_v1.setting WHERE name = 'clip_model' {lock}"  # noqa: S608
    ).fetchone()
    return str(row[0]).rsplit("/", 1)[0] if row else None


def use_clip_model(connection: Connection, name: str, dim: int) -> bool:
    """Make the index one of this CLIP model. Another model's embeddings are thrown away.

    Returns:
        True where something changed: every photo then needs a CLIP job (`backfill`).
    """
    changed: bool = fetch_value(connection, "SELECT indexer_v1.use_clip_model(%s, %s)", [name, dim])
    return changed


def use_ocr_model(connection: Connection, model: str) -> bool:
    """Record what texts are to be read with; those read otherwise are read again (`backfill`).

    Returns:
        True where something changed.
    """
    return bool(
        connection.execute(
            "INSERT INTO indexer_v1.setting AS s VALUES ('ocr_model', %s)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
            " WHERE s.value <> excluded.value",
            [model],
        ).rowcount
    )


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
