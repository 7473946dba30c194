"""Rows in `reprocess` become jobs, and are answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from uuid import uuid4

import psycopg
import pytest
from assets import add_asset, add_assets
from queued import (
    MAX_ATTEMPTS,
    answer,
    claim,
    crash,
    due,
    fail,
    finish,
    jobs,
    request,
    result,
)

from indexer import queue
from pg.connect import Connection
from pg.query import fetch_value

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
