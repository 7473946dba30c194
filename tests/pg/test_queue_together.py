"""The queue beside others: who waits for whom, who is woken, and what an outage leaves."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest
from assets import add_asset, add_assets, add_previews, change_preview
from queued import (
    BOTH,
    MAX_ATTEMPTS,
    claim,
    crash,
    due,
    fail,
    finish,
    jobs,
    request,
    result,
)
from together import together

from indexer import queue
from indexer.queue import (
    Job,
    WriteLostError,
)
from pg.connect import Connection, connect
from pg.query import fetch_value

Result = TypeVar("Result")


@pytest.fixture
def quick_to_see_deadlocks(indexed_database: str) -> None:
    """Before Immich's statements give up a wait, and after ours do (40_queue.sql)."""
    with connect(indexed_database) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE \"{name}\" SET deadlock_timeout = '150ms'".encode())


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


def test_a_backfill_locks_jobs_in_the_order_of_events(
    db: Connection, another: Callable[[], Connection]
) -> None:
    """Of one photo the text is missing, of the other the embedding, and both have events."""
    first, second = add_assets(db, 2)
    there = {(first, "clip"), (second, "ocr")}
    finish(db, [result(job) for job in claim(db) if (job.asset_id, job.task) in there])
    db.execute("DELETE FROM indexer_v1.job")
    immich, watching = another(), another()
    warnings: list[str] = []
    immich.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as thread:
        with immich.transaction():
            change_preview(immich, first)
            filling = thread.submit(queue.backfill, db)
            while not fetch_value(watching, waits, [db.info.backend_pid]):
                assert not filling.done()
            change_preview(immich, second)
        filling.result(timeout=30)
    assert warnings == []
    assert len(jobs(db)) == 4


def test_a_worker_that_has_to_wait_gives_up_and_begins_anew(
    db: Connection, another: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it holds locks already, whoever it waits for might be waiting for these."""
    for name, value in {
        "CLAIM_TRIES": 1000,
        "HOLD_TRIES": 1000,
        "HOLD_PAUSE_SECONDS": 0.05,
    }.items():
        monkeypatch.setattr(queue, f"_{name}", value)
    add_assets(db, 2)
    other = another()

    def kept_waiting(call: Callable[[], list[Result]]) -> list[Result]:
        with ThreadPoolExecutor(1) as thread:
            with other.transaction():
                other.execute("LOCK TABLE indexer_v1.job IN ACCESS EXCLUSIVE MODE")
                called = thread.submit(call)
                time.sleep(0.2)
                assert not called.done()
            return called.result(timeout=30)

    claimed = kept_waiting(lambda: claim(db))
    assert len(claimed) == 4
    assert len(kept_waiting(lambda: finish(db, [result(job) for job in claimed]))) == 4
    assert jobs(db) == []


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
    if db.info.server_version >= 150000:
        db.execute("SELECT pg_stat_force_next_flush()")
    else:
        time.sleep(1)  # a process of its own collects the figures
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
