"""The queue: what is claimed, what is counted, what is answered, and who waits for whom."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from assets import add_asset, add_assets, add_previews, change_preview
from together import together

from indexer import queue
from indexer.models.types import Line
from indexer.queue import (
    ClipModelChangedError,
    Failure,
    FileStamp,
    Job,
    Outcome,
    Task,
    Text,
    Unchanged,
    Vector,
    WriteLostError,
)
from pg.connect import Connection, connect
from pg.query import fetch_one, fetch_value

MAX_ATTEMPTS = 3
BOTH: list[Task] = ["ocr", "clip"]
FILE = FileStamp(1000, datetime(2024, 5, 1, tzinfo=UTC))
HASH = bytes(32)
MODEL = "ViT-B-16"


@pytest.fixture
def db(indexed_database: str) -> Iterator[Connection]:
    with connect(indexed_database) as connection:
        queue.use_clip_model(connection, MODEL, 512)
        yield connection


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that soon gives up on a row that somebody holds."""
    monkeypatch.setattr(queue, "_HOLD_TRIES", 3)


@pytest.fixture
def quick_to_see_deadlocks(indexed_database: str) -> None:
    """Long before anybody's lock_timeout ends the wait."""
    with connect(indexed_database) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE \"{name}\" SET deadlock_timeout = '20ms'".encode())


@pytest.fixture
def another(indexed_database: str, db: Connection) -> Iterator[Callable[[], Connection]]:
    """More connections to the same database."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(connect(indexed_database))


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


# Events become jobs, once


def test_events_are_merged_into_one_job(db: Connection) -> None:
    asset = add_asset(db)
    assert jobs(db, "task, revision") == [("clip", 1), ("ocr", 1)]
    for _ in range(3):
        change_preview(db, asset)
    assert jobs(db, "task, revision") == [("clip", 4), ("ocr", 4)]


def test_done_is_gone(db: Connection) -> None:
    add_assets(db, 3)
    claimed = claim(db)
    assert len(claimed) == 6
    assert {job.attempts for job in claimed} == {1}
    outcomes = [result(job) for job in claimed]
    assert finish(db, outcomes) == outcomes
    assert jobs(db) == []
    assert fetch_value(db, "SELECT count(*) FROM indexer_v1.ocr") == 3
    assert fetch_value(db, "SELECT count(*) FROM indexer_v1.clip") == 3


def test_claim_says_what_is_known(db: Connection) -> None:
    asset = add_asset(db)
    first = {job.task: job for job in claim(db)}
    assert first["ocr"].path == f"/data/thumbs/{asset}_preview.jpeg"
    assert (first["ocr"].known_hash, first["clip"].known_model) == (None, None)
    finish(db, [result(job) for job in first.values()])
    change_preview(db, asset)
    second = {job.task: job for job in claim(db)}
    assert second["ocr"].path == f"/data/thumbs/{asset}_preview.jpeg.new"
    assert [(job.known_hash, job.known_model) for job in (second["ocr"], second["clip"])] == [
        (HASH, "reader"),
        (HASH, MODEL),
    ]


def test_one_photos_tasks_come_together(db: Connection) -> None:
    add_assets(db, 10)
    claimed = claim(db)
    assert len(list(itertools.groupby(claimed, key=lambda job: job.asset_id))) == 10


def test_only_the_tasks_asked_for(db: Connection) -> None:
    add_assets(db, 2)
    assert {job.task for job in claim(db, tasks=["ocr"])} == {"ocr"}
    assert claim(db, tasks=["ocr"]) == []
    assert {job.task for job in claim(db)} == {"clip"}


def test_a_change_while_it_runs_runs_it_once_more(db: Connection) -> None:
    asset = add_asset(db)
    claimed = claim(db)
    change_preview(db, asset)
    assert claim(db) == []  # still ours
    finish(db, [result(job) for job in claimed])
    again = claim(db)
    assert [(job.revision, job.attempts) for job in again] == [(2, 1), (2, 1)]
    finish(db, [result(job) for job in again])
    assert jobs(db) == []


def test_failing_for_a_picture_that_is_history_is_no_failure(db: Connection) -> None:
    asset = add_asset(db)
    number = request(db, asset)
    claimed = claim(db)
    change_preview(db, asset)
    for job in claimed:
        fail(db, job, permanent=True)
    assert answer(db, number) == ("waiting", False)
    assert jobs(db, "attempts, dead_at, last_error, lease_token") == [(0, None, None, None)] * 2


def test_unchanged_is_done_too(db: Connection) -> None:
    asset = add_asset(db)
    finish(db, [result(job) for job in claim(db)])
    change_preview(db, asset)
    newer = FileStamp(2000, datetime(2025, 1, 1, tzinfo=UTC))
    finish(db, [Outcome(job, Unchanged(newer)) for job in claim(db)])
    assert jobs(db) == []
    assert fetch_one(db, "SELECT file_size, file_modified FROM indexer_v1.ocr") == (
        newer.size,
        newer.modified,
    )


# Leases


def test_a_lease_runs_out(db: Connection) -> None:
    add_asset(db)
    first = claim(db)
    assert claim(db) == []
    crash(db)
    second = claim(db)
    assert {job.attempts for job in second} == {2}
    assert second[0].token != first[0].token
    # The first comes back from the dead: nothing of it counts.
    assert finish(db, [result(job, "stale") for job in first]) == []
    assert fetch_value(db, "SELECT count(*) FROM indexer_v1.ocr") == 0
    finish(db, [result(job) for job in second])
    assert fetch_value(db, "SELECT text FROM indexer_v1.ocr") == "发票"


def test_a_lease_that_ran_out_unseen_still_counts(db: Connection) -> None:
    add_asset(db)
    claimed = claim(db)
    crash(db)
    assert len(finish(db, [result(job) for job in claimed])) == 2
    assert jobs(db) == []


def test_renewing(db: Connection) -> None:
    add_asset(db)
    claimed = claim(db, lease=60)
    crash(db)
    queue.renew(db, claimed[0].token, 60)
    assert claim(db) == []
    queue.renew(db, uuid4(), 60)  # nobody's


def test_released_jobs_are_free_and_uncharged(db: Connection) -> None:
    add_assets(db, 2)
    claimed = claim(db)
    done = [result(job) for job in claimed[:1]]
    finish(db, done)
    assert queue.release(db, claimed[0].token) == 3
    assert set(jobs(db, "attempts, lease_until, lease_token")) == {(0, None, None)}
    again = claim(db)
    assert [job.attempts for job in again] == [1, 1, 1]
    assert queue.release(db, again[0].token, 3600) == 3
    assert claim(db) == []  # not before an hour
    assert queue.release(db, again[0].token) == 0


# Failures


def test_failures_are_tried_again_later_and_end_dead(db: Connection) -> None:
    asset = add_asset(db)
    pauses = []
    for attempt in range(1, MAX_ATTEMPTS + 1):
        (job,) = claim(db, tasks=["ocr"])
        assert job.attempts == attempt
        fail(db, job, f"reason {attempt}")
        assert claim(db, tasks=["ocr"]) == []  # not at once
        pauses.append(
            fetch_value(db, "SELECT next_at - now() FROM indexer_v1.job WHERE task = 'ocr'")
        )
        due(db)
    assert pauses == sorted(pauses)
    assert claim(db, tasks=["ocr"]) == []
    row = job_of(db, asset)
    assert (row["attempts"], row["last_error"]) == (3, "reason 3")
    assert row["dead_at"]
    assert [job.task for job in claim(db)] == ["clip"]  # the other task isn't dead


def test_a_permanent_failure_is_dead_at_once(db: Connection) -> None:
    asset = add_asset(db)
    (job,) = claim(db, tasks=["ocr"])
    fail(db, job, "not an image", permanent=True)
    row = job_of(db, asset)
    assert (row["attempts"], row["last_error"], row["lease_token"]) == (1, "not an image", None)
    assert row["dead_at"]


def test_long_and_odd_reasons_fit(db: Connection) -> None:
    asset = add_asset(db)
    (job,) = claim(db, tasks=["ocr"])
    fail(db, job, "\0" + "长" * 10_000, permanent=True)
    assert job_of(db, asset)["last_error"] == "长" * 2000


def test_a_worker_that_dies_each_time_ends_in_a_dead_letter(db: Connection) -> None:
    asset = add_asset(db)
    number = request(db, asset)
    for _ in range(MAX_ATTEMPTS):
        assert len(claim(db)) == 2
        crash(db)
    assert claim(db) == []
    reasons = jobs(db, "last_error, dead_at IS NOT NULL, lease_token")
    reason = "the worker ended 3 times while it worked on this photo, or the database's session did"
    assert reasons == [(reason, True, None)] * 2
    status, ended = answer(db, number)
    assert ended
    assert status.startswith("failed: ")
    assert "the worker ended 3 times" in status


def test_a_suspect_is_taken_alone(db: Connection) -> None:
    assets = add_assets(db, 4)
    claim(db)
    crash(db)  # one of them killed the worker
    fresh = add_asset(db)
    assert {job.asset_id for job in claim(db, suspects=False)} == {fresh}
    alone = []
    while batch := claim(db):
        assert len({job.asset_id for job in batch}) == 1
        assert all(job.suspect for job in batch)
        alone.append(batch[0].asset_id)
    assert sorted(alone) == assets


def test_what_failed_decently_is_no_suspect(db: Connection) -> None:
    first, second = add_assets(db, 2)
    for job in claim(db, tasks=["ocr"]):
        if job.asset_id == first:
            fail(db, job)
        else:
            finish(db, [result(job)])
    due(db)
    change_preview(db, second)
    batch = claim(db, tasks=["ocr"], suspects=False)
    assert {job.asset_id for job in batch} == {first, second}
    assert not any(job.suspect for job in batch)


def test_a_new_picture_starts_afresh(db: Connection) -> None:
    asset = add_asset(db)
    for job in claim(db):
        fail(db, job, permanent=True)
    assert claim(db) == []
    change_preview(db, asset)
    assert {(job.attempts, job.task) for job in claim(db)} == {(1, "ocr"), (1, "clip")}


def test_requeue(db: Connection) -> None:
    first, second, running = add_assets(db, 3)
    kept = {job.task: job for job in claim(db) if job.asset_id == running}
    for job in jobs(db, "asset_id, task, lease_token"):
        if job[0] != running:
            db.execute(
                "SELECT indexer_v1.fail(%s, %s, %s, 1, 'bad', true, 3)", [job[2], job[0], job[1]]
            )
    assert fetch_value(db, "SELECT indexer_v1.requeue(%s)", [[first]]) == 2
    assert {job.asset_id for job in claim(db)} == {first}
    assert fetch_value(db, "SELECT indexer_v1.requeue()") == 2
    assert [(job.asset_id, job.attempts) for job in claim(db)] == [(second, 1), (second, 1)]
    assert len(finish(db, [result(job) for job in kept.values()])) == 2  # undisturbed


# Results that the database refuses


def test_one_refused_result_fails_alone(db: Connection) -> None:
    good, bad = add_assets(db, 2)
    outcomes = [result(job) for job in claim(db)]
    for place, outcome in enumerate(outcomes):
        if (outcome.job.asset_id, outcome.job.task) == (bad, "clip"):
            vector = Vector(np.ones(3, np.float32), MODEL, HASH)
            outcomes[place] = Outcome(outcome.job, vector)
    written = finish(db, outcomes)
    assert len(written) == 4
    assert jobs(db) == [(bad, "clip")]
    assert "dimensions" in job_of(db, bad, "clip")["last_error"]
    assert fetch_value(db, "SELECT array_agg(asset_id) FROM indexer_v1.clip") == [good]
    assert fetch_value(db, "SELECT count(*) FROM indexer_v1.ocr") == 2


@pytest.mark.parametrize(
    "vector", [np.full(512, np.nan, np.float32), np.full(512, 1e6, np.float32)], ids=["nan", "huge"]
)
def test_vectors_that_are_none(db: Connection, vector: Any) -> None:
    asset = add_asset(db)
    (job,) = claim(db, tasks=["clip"])
    finish(db, [Outcome(job, Vector(vector, MODEL, HASH))])
    assert job_of(db, asset, "clip")["last_error"].startswith("the database refused the result")


def test_a_text_that_no_index_can_hold_fails_alone(db: Connection) -> None:
    """PostgreSQL's own limits are no outage, though psycopg calls them operational errors."""
    add_assets(db, 2)
    db.execute(
        "CREATE OR REPLACE FUNCTION indexer_v1.to_tsvector(input text) RETURNS tsvector"
        " LANGUAGE sql AS $$ SELECT string_agg(n::text, ' ')::tsvector"
        " FROM generate_series(1, length(input) * 1000) AS n $$"
    )
    outcomes = [result(job) for job in claim(db, tasks=["ocr"])]
    outcomes[0] = result(outcomes[0].job, "long" * 100)
    assert len(finish(db, outcomes)) == 2
    refused, written = (outcome.job.asset_id for outcome in outcomes)
    assert "too long for tsvector" in job_of(db, refused)["last_error"]
    assert fetch_value(db, "SELECT array_agg(asset_id) FROM indexer_v1.ocr") == [written]


def test_text_with_nul(db: Connection) -> None:
    add_asset(db)
    (job,) = claim(db, tasks=["ocr"])
    finish(db, [result(job, "发\0票")])
    assert fetch_value(db, "SELECT text || (lines -> 0 ->> 'text') FROM indexer_v1.ocr") == (
        "发票发票"
    )


def test_embeddings_of_another_model_stay_out(db: Connection) -> None:
    add_asset(db)
    claimed = claim(db)
    assert queue.use_clip_model(db, "RN50", 1024)
    assert not queue.use_clip_model(db, "RN50", 1024)
    with pytest.raises(ClipModelChangedError, match="RN50"):
        finish(db, [result(job) for job in claimed])
    assert fetch_value(db, "SELECT count(*) FROM indexer_v1.clip") == 0
    assert queue.release(db, claimed[0].token) == 2


def test_another_clip_model_empties_the_index_and_fills_it_anew(db: Connection) -> None:
    add_assets(db, 3)
    finish(db, [result(job) for job in claim(db)])
    assert queue.use_clip_model(db, "RN50", 1024)
    assert queue.recorded_clip_model(db) == "RN50"
    assert fetch_value(db, "SELECT count(*) FROM indexer_v1.clip") == 0
    assert queue.backfill(db) == 3
    (job, *_) = claim(db, 1)
    finish(db, [Outcome(job, Vector(np.ones(1024, np.float32), "RN50", HASH))])
    assert fetch_value(db, "SELECT vector_dims(embedding) FROM indexer_v1.clip") == 1024


# Who comes first


def test_priority_then_age(db: Connection) -> None:
    old, new, urgent = (add_asset(db, preview=False) for _ in range(3))
    for asset in (old, new, urgent):
        add_previews(db, [asset])
    db.execute(
        "UPDATE indexer_v1.job SET next_at = now() - interval '1 hour' WHERE asset_id = %s", [old]
    )
    request(db, urgent, "ocr")
    order = [(job.asset_id, job.task) for job in (claim(db, 1)[0] for _ in range(6))]
    assert order[0] == (urgent, "ocr")
    assert {asset for asset, _ in order[1:3]} == {old}


def test_backfill_is_less_urgent_than_news(db: Connection) -> None:
    missed = add_asset(db, jobs=False)
    assert queue.backfill(db) == 2
    fresh = add_asset(db)
    assert [job.asset_id for job in claim(db, 4)] == [fresh, fresh, missed, missed]


def test_a_request_is_urgent_and_forced(db: Connection) -> None:
    first, second = add_assets(db, 2)
    request(db, second, "clip")
    batch = claim(db, 1)
    assert [(job.asset_id, job.task, job.force) for job in batch] == [(second, "clip", True)]
    assert not any(job.force for job in claim(db))
    assert first < second


# Requests are answered


def test_request_done(db: Connection) -> None:
    asset = add_asset(db, jobs=False)
    number = request(db, asset, "ocr")
    assert answer(db, number) == ("waiting", False)
    claimed = claim(db)
    assert [job.task for job in claimed] == ["ocr"]
    finish(db, [result(job) for job in claimed])
    assert answer(db, number) == ("done", True)
    assert fetch_value(db, "SELECT remaining FROM indexer_v1.reprocess") == []


def test_request_for_all_is_done_when_both_are(db: Connection) -> None:
    asset = add_asset(db, jobs=False)
    number = request(db, asset)
    ocr, clip = sorted(claim(db), key=lambda job: job.task, reverse=True)
    finish(db, [result(ocr)])
    assert answer(db, number) == ("waiting", False)
    finish(db, [result(clip)])
    assert answer(db, number) == ("done", True)


@pytest.mark.parametrize("failing_first", [True, False])
def test_request_of_which_one_task_fails(db: Connection, failing_first: bool) -> None:
    asset = add_asset(db, jobs=False)
    number = request(db, asset)
    ocr, clip = sorted(claim(db), key=lambda job: job.task, reverse=True)
    steps = [
        lambda: fail(db, ocr, "no text in it", permanent=True),
        lambda: finish(db, [result(clip)]),
    ]
    for step in steps if failing_first else reversed(steps):
        assert not answer(db, number)[1]
        step()
    assert answer(db, number) == ("failed: ocr: no text in it", True)


def test_request_of_which_both_tasks_fail(db: Connection) -> None:
    number = request(db, add_asset(db, jobs=False))
    for job in sorted(claim(db), key=lambda job: job.task):
        fail(db, job, f"{job.task} is bad", permanent=True)
    assert answer(db, number) == ("failed: clip: clip is bad; ocr: ocr is bad", True)


def test_request_waits_for_the_last_attempt(db: Connection) -> None:
    number = request(db, add_asset(db, jobs=False), "ocr")
    for attempt in range(MAX_ATTEMPTS):
        assert answer(db, number) == ("waiting", False)
        (job,) = claim(db)
        fail(db, job, f"reason {attempt}")
        due(db)
    assert answer(db, number) == ("failed: ocr: reason 2", True)


def test_requests_that_cannot_be_served_are_answered_at_once(db: Connection) -> None:
    assert answer(db, request(db, uuid4())) == ("failed: there is no asset with this id", True)
    bare = add_asset(db, preview=False)
    assert answer(db, request(db, bare)) == ("failed: the photo has no preview yet", True)
    assert jobs(db) == []


def test_request_for_an_unknown_task_is_refused(db: Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        request(db, add_asset(db), "faces")


def test_several_requests_for_one_photo_are_one_job(db: Connection) -> None:
    asset = add_asset(db, jobs=False)
    numbers = [request(db, asset, task) for task in ("ocr", "all", "ocr", "clip")]
    assert jobs(db) == [(asset, "clip"), (asset, "ocr")]
    finish(db, [result(job) for job in claim(db)])
    assert [answer(db, number) for number in numbers] == [("done", True)] * 4


def test_a_request_while_the_job_runs_waits_for_the_next_run(db: Connection) -> None:
    asset = add_asset(db)
    claimed = claim(db)
    number = request(db, asset)
    finish(db, [result(job) for job in claimed])
    assert answer(db, number) == ("waiting", False)
    again = claim(db)
    assert all(job.force for job in again)
    finish(db, [result(job) for job in again])
    assert answer(db, number) == ("done", True)


def test_a_request_wakes_a_dead_letter(db: Connection) -> None:
    asset = add_asset(db)
    for job in claim(db):
        fail(db, job, permanent=True)
    number = request(db, asset)
    finish(db, [result(job) for job in claim(db)])
    assert answer(db, number) == ("done", True)


def test_a_set_of_requests(db: Connection) -> None:
    add_assets(db, 20, jobs=False)
    db.execute("INSERT INTO indexer_v1.reprocess (asset_id, task) SELECT id, 'clip' FROM asset")
    claimed = claim(db)
    assert len(claimed) == 20
    finish(db, [result(job) for job in claimed])
    done = "SELECT count(*) FROM indexer_v1.reprocess WHERE status = 'done'"
    assert fetch_value(db, done) == 20


def test_a_request_that_is_rolled_back_never_was(
    db: Connection, another: Callable[[], Connection]
) -> None:
    asset = add_asset(db, jobs=False)
    other = another()
    with other.transaction(force_rollback=True):
        request(other, asset)
        assert claim(db) == []
    assert jobs(db) == []


@pytest.mark.usefixtures("impatient")
def test_a_request_in_an_open_transaction_is_neither_lost_nor_waited_for(
    db: Connection, another: Callable[[], Connection]
) -> None:
    """Somebody's open psql: the worker can't finish that photo now, but nothing hangs on it."""
    held, free = add_assets(db, 2)
    claimed = claim(db)
    other = another()
    with other.transaction():
        number = request(other, held)
        db.execute("SET statement_timeout = '30s'")  # less than for ever
        queue.renew(db, claimed[0].token, 60)
        written = finish(db, [result(job) for job in claimed])
        assert {outcome.job.asset_id for outcome in written} == {free}
        queue.release(db, claimed[0].token)
        assert {row[0] for row in jobs(db)} == {held}
    crash(db)
    again = claim(db)
    assert {(job.asset_id, job.force, job.attempts) for job in again} == {(held, True, 1)}
    finish(db, [result(job) for job in again])
    assert answer(db, number) == ("done", True)


def test_a_request_waits_for_results_being_written(
    db: Connection, another: Callable[[], Connection]
) -> None:
    """The other order: it arrives between result and commit, and gets a run of its own."""
    asset = add_asset(db)
    claimed = claim(db, tasks=["ocr"])
    worker, person = another(), another()
    numbers: list[int] = []
    with worker.transaction():
        queue._finish_held(worker, claimed[0].token, [result(claimed[0])], MAX_ATTEMPTS, None)
        asking = threading.Thread(target=lambda: numbers.append(request(person, asset, "ocr")))
        asking.start()
        while not fetch_value(
            db, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        ):
            time.sleep(0.01)
    asking.join()
    assert answer(db, numbers[0]) == ("waiting", False)
    (job,) = claim(db, tasks=["ocr"])
    assert job.force
    finish(db, [result(job)])
    assert answer(db, numbers[0]) == ("done", True)


def test_requests_for_deleted_photos_are_closed(db: Connection) -> None:
    asset = add_asset(db)
    number = request(db, asset)
    db.execute("DELETE FROM asset WHERE id = %s", [asset])
    assert fetch_value(db, "SELECT indexer_v1.close_orphaned_requests()") == 1
    assert answer(db, number) == ("failed: the photo was deleted", True)


# Photos go


def test_a_deleted_photo_takes_everything_along(db: Connection) -> None:
    kept, gone = add_assets(db, 2)
    finish(db, [result(job) for job in claim(db)])
    change_preview(db, gone)
    claimed = claim(db)
    db.execute("DELETE FROM asset WHERE id = %s", [gone])
    assert jobs(db) == []
    assert finish(db, [result(job) for job in claimed]) == []
    for table in ("ocr", "clip"):
        ids = fetch_value(db, f"SELECT array_agg(asset_id) FROM indexer_v1.{table}")
        assert ids == [kept]


@pytest.mark.usefixtures("impatient")
def test_a_photo_being_deleted_is_not_waited_for(
    db: Connection, another: Callable[[], Connection]
) -> None:
    kept, going = add_assets(db, 2)
    claimed = claim(db)
    immich = another()
    with immich.transaction():
        immich.execute("DELETE FROM asset WHERE id = %s", [going])
        db.execute("SET statement_timeout = '30s'")
        written = finish(db, [result(job) for job in claimed])
        queue.renew(db, claimed[0].token, 60)
        queue.release(db, claimed[0].token)
    assert {outcome.job.asset_id for outcome in written} == {kept}
    assert jobs(db) == []


# Backfill


def test_backfill_finds_what_was_missed(db: Connection) -> None:
    done, missed, half, dead = add_assets(db, 4)
    add_asset(db, preview=False)
    for job in claim(db):
        if job.asset_id == done or (job.asset_id == half and job.task == "ocr"):
            finish(db, [result(job)])
        elif job.asset_id == dead:
            fail(db, job, permanent=True)
    db.execute("DELETE FROM indexer_v1.job WHERE dead_at IS NULL")
    assert queue.backfill(db, chunk=2) == 3
    waiting = [(job.asset_id, job.task) for job in claim(db)]
    assert sorted(waiting) == sorted([(missed, "ocr"), (missed, "clip"), (half, "clip")])
    assert queue.backfill(db) == 0


def test_backfill_of_nothing(db: Connection) -> None:
    assert queue.backfill(db) == 0


def test_texts_read_otherwise_are_read_again(db: Connection) -> None:
    add_asset(db)
    finish(db, [result(job) for job in claim(db)])
    assert queue.use_ocr_model(db, "reader")
    assert not queue.use_ocr_model(db, "reader")
    assert queue.backfill(db) == 0
    assert queue.use_ocr_model(db, "better reader")
    assert queue.backfill(db) == 1
    assert [job.task for job in claim(db)] == ["ocr"]


# At the same time


def test_two_claimers_never_share_a_job(db: Connection, another: Callable[[], Connection]) -> None:
    add_assets(db, 150)

    def work(connection: Connection) -> list[tuple[UUID, str]]:
        taken = []
        while batch := claim(connection, 7):
            taken += [(job.asset_id, job.task) for job in batch]
            finish(connection, [result(job) for job in batch])
        return taken

    connections = [another() for _ in range(4)]
    taken = together(*(lambda c=c: work(c) for c in connections))  # type: ignore[misc]
    everything = list(itertools.chain(*taken))
    assert len(everything) == 300
    assert len(set(everything)) == 300
    assert jobs(db) == []
    assert fetch_value(db, "SELECT count(*) FROM indexer_v1.ocr") == 150


def test_claimers_take_turns_so_that_no_photo_is_shared_out(
    db: Connection, another: Callable[[], Connection]
) -> None:
    add_assets(db, 4)
    first, second = another(), another()
    theirs: list[Job] = []
    with first.transaction():
        mine = claim(first, 4)
        thread = threading.Thread(target=lambda: theirs.extend(claim(second)))
        thread.start()
        while not fetch_value(
            db, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        ):
            assert thread.is_alive(), "it didn't wait"
            time.sleep(0.01)
    thread.join(timeout=30)
    assert len(mine) == len(theirs) == 4
    assert not {job.asset_id for job in mine} & {job.asset_id for job in theirs}


@pytest.mark.usefixtures("quick_to_see_deadlocks")
def test_workers_and_immich_never_end_in_a_deadlock(
    db: Connection, another: Callable[[], Connection]
) -> None:
    """Many photos in every order: upserts, deletes, requests and results at the same time."""
    assets = add_assets(db, 40)
    stop = threading.Event()
    warnings: list[str] = []
    rounds = 150

    # Two kinds of event for the same photos: Immich's own rows don't make them wait for each other.
    previews = (
        'UPDATE asset_file SET path = %s || "assetId"'
        " WHERE \"assetId\" = ANY (%s) AND type = 'preview'"
    )
    thumbhashes = "UPDATE asset SET thumbhash = convert_to(%s, 'UTF8') WHERE id = ANY (%s)"

    def immich(connection: Connection, statement: str) -> None:
        dice = random.Random(statement)
        connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
        for turn in range(rounds):
            connection.execute(statement.encode(), [f"/{turn}/", dice.sample(assets, 20)])

    def deleting(connection: Connection) -> None:
        for _ in range(rounds):
            added = add_assets(connection, 4)
            request(connection, added[0])
            with connection.transaction():
                connection.execute("DELETE FROM asset WHERE id = ANY (%s)", [added])

    def working(connection: Connection) -> None:
        while not stop.is_set():
            batch = claim(connection, 12)
            if batch:
                queue.renew(connection, batch[0].token, 60)
                finish(connection, [result(job) for job in batch])
                queue.release(connection, batch[0].token)

    def repairing(connection: Connection) -> None:
        while not stop.is_set():
            connection.execute("SELECT indexer_v1.requeue()")
            queue.backfill(connection, chunk=10)
            connection.execute("SELECT indexer_v1.close_orphaned_requests()")

    def until_done() -> None:
        a, b, c = another(), another(), another()
        try:
            together(
                lambda: immich(a, previews), lambda: immich(b, thumbhashes), lambda: deleting(c)
            )
        finally:
            stop.set()

    one, two, three = another(), another(), another()
    together(until_done, lambda: working(one), lambda: working(two), lambda: repairing(three))
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    db.execute("SELECT pg_stat_force_next_flush()")
    assert [text for text in warnings if "not queued" in text] == []
    assert fetch_value(db, deadlocks) == 0
    crash(db)
    due(db)
    while batch := claim(db, max_attempts=1000):
        finish(db, [result(job) for job in batch])
    assert jobs(db) == []


# Waking workers


def notifications(connection: Connection) -> int:
    connection.execute("SELECT 1")
    return sum(1 for _ in connection.notifies(timeout=0.5))


def test_one_notification_a_statement(db: Connection, another: Callable[[], Connection]) -> None:
    listener = another()
    listener.execute("LISTEN indexer_v1")
    assets = add_assets(db, 100, preview=False)
    assert notifications(listener) == 0
    add_previews(db, assets)
    assert notifications(listener) == 1
    db.execute("INSERT INTO indexer_v1.reprocess (asset_id) SELECT id FROM asset")
    assert notifications(listener) == 1
    claimed = claim(db)
    assert notifications(listener) == 0
    queue.release(db, claimed[0].token)
    assert notifications(listener) == 1
    finish(db, [result(job) for job in claim(db, 2)])
    assert notifications(listener) == 0


def test_work_that_comes_back_is_announced(
    db: Connection, another: Callable[[], Connection]
) -> None:
    asset = add_asset(db)
    claimed = claim(db)
    change_preview(db, asset)
    listener = another()
    listener.execute("LISTEN indexer_v1")
    finish(db, [result(job) for job in claimed])
    assert notifications(listener) == 1
    for job in claim(db):
        fail(db, job, permanent=True)
    assert notifications(listener) == 0
    db.execute("SELECT indexer_v1.requeue()")
    assert notifications(listener) == 1


def test_states_for_people(db: Connection) -> None:
    waiting, running, dead, retrying = add_assets(db, 4)
    for job in claim(db, tasks=["ocr"]):
        if job.asset_id == dead:
            fail(db, job, permanent=True)
        elif job.asset_id == retrying:
            fail(db, job)
        elif job.asset_id == waiting:
            db.execute(
                "UPDATE indexer_v1.job SET lease_until = NULL, lease_token = NULL, attempts = 0"
                " WHERE asset_id = %s",
                [waiting],
            )
    states = db.execute("SELECT task, state, jobs FROM indexer_v1.queue()").fetchall()
    assert states == [
        ("clip", "waiting", 4),
        *(("ocr", state, 1) for state in ("dead", "retrying", "running", "waiting")),
    ]
    assert running


# Outages, and what may be at fault for one


def test_a_claim_whose_answer_is_lost_is_given_back(db: Connection) -> None:
    """Whoever asked knows the lease's name, if not what was claimed."""
    add_assets(db, 3)
    token = uuid4()
    queue.claim(db, token, BOTH, 100, 60, MAX_ATTEMPTS, True)
    assert queue.release(db, token) == 6
    assert {(job.attempts, job.suspect) for job in claim(db)} == {(1, False)}


def test_given_back_and_charged(db: Connection) -> None:
    """One of them may have ended the session: it comes alone, after the others, and later."""
    bad, good = add_assets(db, 2)
    jobs_ = claim(db)
    queue.release(db, jobs_[0].token, charged=[bad])
    again = claim(db)
    assert {(job.asset_id, job.attempts) for job in again} == {(good, 1)}
    due(db)
    alone = claim(db)
    assert {(job.asset_id, job.attempts, job.suspect) for job in alone} == {(bad, 2, True)}


@pytest.mark.parametrize("code", ["57014", "XX000"])
def test_a_session_that_gives_up_while_it_writes(db: Connection, code: str) -> None:
    """Cancelled, or an internal error: perhaps because of what is written."""
    add_assets(db, 2)
    claimed = claim(db, tasks=["ocr"])
    db.execute(
        f"""
        CREATE FUNCTION bad() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE 'on purpose' USING ERRCODE = '{code}'; END $$;
        CREATE TRIGGER bad BEFORE INSERT ON indexer_v1.ocr EXECUTE FUNCTION bad()
        """.encode()
    )
    with pytest.raises(WriteLostError) as lost:
        finish(db, [result(job) for job in claimed])
    assert lost.value.asset_ids == {job.asset_id for job in claimed}


@pytest.mark.parametrize("code", ["53100", "57P01", "25006"])
def test_an_outage_while_it_writes(db: Connection, code: str) -> None:
    """The disk is full, the server is shut down, or only read from: nobody's fault."""
    add_asset(db)
    claimed = claim(db, tasks=["ocr"])
    db.execute(
        f"""
        CREATE FUNCTION bad() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE 'on purpose' USING ERRCODE = '{code}'; END $$;
        CREATE TRIGGER bad BEFORE INSERT ON indexer_v1.ocr EXECUTE FUNCTION bad()
        """.encode()
    )
    with pytest.raises(psycopg.Error) as outage:
        finish(db, [result(job) for job in claimed])
    assert not isinstance(outage.value, WriteLostError)
    assert outage.value.sqlstate == code


def test_a_clock_that_was_wrong(db: Connection) -> None:
    """What was written by a clock that is set back now neither rests nor is leased for so long."""
    add_assets(db, 4)
    ahead = claim(db, tasks=["clip"])
    fail(db, ahead[0])
    before = jobs(db, "asset_id, task, next_at, lease_until")
    undo = "SELECT indexer_v1.undo_clock_jump('60 s')"
    assert fetch_value(db, undo) == 0  # a pause and leases as they should be
    assert jobs(db, "asset_id, task, next_at, lease_until") == before
    db.execute(
        "UPDATE indexer_v1.job SET next_at = next_at + interval '3 hours',"
        " lease_until = lease_until + interval '3 hours'"
    )
    assert claim(db) == []
    assert fetch_value(db, undo) == 8
    assert len(claim(db)) + len(claim(db)) > 2
