"""Photos that make a model or a decoder fail, and a media folder that goes away."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from faults.ground import Ground
from faults.load import storm

long = pytest.mark.faults
RESTING = "SELECT count(*) > 0 AND bool_and(next_at > now() AND attempts = 0) FROM indexer_v1.job"


@long
@pytest.mark.parametrize("how", ["raise", "hang", "memory", "crash"])
def test_one_photo_misbehaves(ground: Ground, how: str) -> None:
    """It ends dead, with a reason; its neighbours and all that come meanwhile are indexed."""
    bad = ground.upload(9)[4]
    ground.misbehave(bad, how)
    with ground.load(pause=0.1, spared=[bad]):
        worker = ground.start(max_image_seconds=1)

        def dead() -> bool:
            nonlocal worker
            if worker.poll() is not None:  # whoever runs it starts it again, as a container is
                worker = ground.start(max_image_seconds=1)
            ground.db.execute("UPDATE indexer_v1.job SET next_at = now() WHERE next_at > now()")
            return bool(ground.ask("SELECT count(dead_at) = 2 FROM indexer_v1.job"))

        ground.wait_for(dead, patience=240)
    ground.verify(failed=[bad])


@contextmanager
def renamed(ground: Ground) -> Iterator[None]:
    away = ground.media.with_name("away")
    ground.media.rename(away)
    yield
    away.rename(ground.media)


@contextmanager
def unmounted(ground: Ground) -> Iterator[None]:
    """For real: the photos are on a mount, and the folder below it is empty."""
    away = ground.media.with_name("away")
    ground.media.rename(away)
    ground.media.mkdir()
    if subprocess.run(["mount", "--bind", away, ground.media], check=False).returncode:
        pytest.skip("only root may mount: run as root, where mounting is allowed")
    subprocess.run(["umount", ground.media], check=True)
    yield
    subprocess.run(["mount", "--bind", away, ground.media], check=True)
    ground.on_close(lambda: subprocess.run(["umount", "-l", ground.media], check=True))


@long
@pytest.mark.parametrize("away", [renamed, unmounted])
def test_the_media_folder_is_away(ground: Ground, away: object) -> None:
    """An outage, charged to nobody; one file that is missing is a failure of its photo's."""
    if away is unmounted and os.geteuid() != 0:
        pytest.skip("only root may mount")
    ground.upload(6)
    assert callable(away)
    with away(ground):
        worker = ground.start(max_attempts=1)
        ground.wait_for(RESTING)
        ground.end(worker)
    ground.start(max_attempts=1)
    with ground.load():
        ground.wait_for("SELECT count(*) > 20 FROM indexer_v1.clip")
    lost = ground.upload()[0]
    ground.settle()
    ground.immich.preview_path(lost).unlink()
    storm(ground.immich.db, [lost], 1)
    ground.verify(failed=[lost])
