"""Events that come while their photo is worked on, again and again, or all at once."""

from __future__ import annotations

import pytest

from faults.ground import Ground
from faults.load import storm
from faults.pictures import picture

long = pytest.mark.faults


def test_changed_deleted_and_asked_for_meanwhile(ground: Ground) -> None:
    """The worker has their results in hand, and its lease is good."""
    changed, deleted, asked, left = ground.upload(4)
    worker = ground.start(fault="inferred:stop", lease_seconds=60)
    ground.wait_until_stopped(worker)
    ground.immich.replace_preview(changed, picture("newer"))
    ground.immich.delete(deleted)
    ground.immich.db.execute("INSERT INTO indexer_v1.reprocess (asset_id) VALUES (%s)", [asked])
    ground.wake(worker)
    ground.verify()
    redone = 'SELECT count(*) FROM asset_ocr WHERE "assetId" = %s'
    assert ground.ask(redone, asked) == 2
    assert ground.ask("SELECT count(*) FROM indexer_v1.clip WHERE asset_id = %s", left) == 1


def test_the_same_event_a_hundred_times(ground: Ground) -> None:
    (asset,) = ground.upload()
    storm(ground.immich.db, [asset], 100)
    jobs = ground.db.execute("SELECT task, revision FROM indexer_v1.job ORDER BY 1").fetchall()
    assert [task for task, _ in jobs] == ["clip", "ocr"]
    assert all(revision > 100 for _, revision in jobs)
    ground.start()
    ground.settle()
    ground.wait_for("SELECT sum(done) = 2 FROM indexer_v1.worker")  # once each
    ground.verify()


@long
def test_the_same_event_while_it_runs(ground: Ground) -> None:
    assets = ground.upload(3)
    ground.start()
    storm(ground.immich.db, assets, 600)
    ground.verify()


@long
def test_ten_thousand_events(ground: Ground) -> None:
    assets = ground.upload(150)
    with ground.load():
        ground.start()
        ground.start()
        storm(ground.immich.db, assets, 10_000)
    ground.verify()
