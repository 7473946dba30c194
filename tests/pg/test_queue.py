"""The queue: what is claimed, what is counted, and who comes first."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from assets import add_asset, add_assets, add_previews, change_preview
from queued import (
    FILE,
    HASH,
    MAX_ATTEMPTS,
    MODEL,
    answer,
    claim,
    crash,
    due,
    fail,
    finish,
    job_of,
    jobs,
    request,
    result,
)

from indexer import queue, results
from indexer.queue import Outcome
from indexer.results import ClipModelChangedError, FileStamp, Unchanged, Vector
from indexer.write_back import WriteBack
from pg.connect import Connection
from pg.query import fetch_one, fetch_value

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


def test_results_are_not_written_in_a_pipeline(
    db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL ends no session that freezes in one, and Immich would wait for its locks."""
    add_assets(db, 3)
    db.execute("INSERT INTO indexer_v1.reprocess (asset_id) SELECT id FROM asset LIMIT 1")
    claimed = claim(db)
    outcomes = [result(job) for job in claimed]

    def pipeline(_: Connection) -> None:
        raise AssertionError("executemany begins one")

    monkeypatch.setattr(psycopg.Connection, "pipeline", pipeline)
    beside = WriteBack(redone=True, mend=True, embeddings=True)
    written = queue.finish(db, claimed[0].token, outcomes, MAX_ATTEMPTS, beside)
    assert len(written) == 6
    request = "SELECT count(*) FROM indexer_v1.write_back WHERE what IN ('ocr', 'clip')"
    assert fetch_value(db, request) == 2
    again = [Outcome(job, Unchanged(FILE)) for job in claimed]
    assert queue.finish(db, claimed[0].token, again, MAX_ATTEMPTS) == []
    db.execute("SELECT indexer_v1.enqueue(array_agg(id)) FROM asset")
    claimed = claim(db)
    assert len(finish(db, [Outcome(job, Unchanged(FILE)) for job in claimed])) == 6


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
    assert results.use_clip_model(db, "RN50", 1024)
    assert not results.use_clip_model(db, "RN50", 1024)
    with pytest.raises(ClipModelChangedError, match="RN50"):
        finish(db, [result(job) for job in claimed])
    assert fetch_value(db, "SELECT count(*) FROM indexer_v1.clip") == 0
    assert queue.release(db, claimed[0].token) == 2


def test_another_clip_model_empties_the_index_and_fills_it_anew(db: Connection) -> None:
    add_assets(db, 3)
    finish(db, [result(job) for job in claim(db)])
    assert results.use_clip_model(db, "RN50", 1024)
    assert results.recorded_clip_model(db) == "RN50"
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
    assert results.use_ocr_model(db, "reader")
    assert not results.use_ocr_model(db, "reader")
    assert queue.backfill(db) == 0
    assert results.use_ocr_model(db, "better reader")
    assert queue.backfill(db) == 1
    assert [job.task for job in claim(db)] == ["ocr"]
