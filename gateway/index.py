"""How the index is, for the page and for programs; and having failed photos tried again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, QueryParameter
from litestar.response import Stream
from msgspec import Meta

from gateway.auth import REDO, Caller, refuse_cross_site
from gateway.openapi import IMMICH_USER, Problem
from gateway.photos import require
from gateway.services import Services
from indexer.status import FailedGroup, Status, WorkerSeen, decode

_TAGS = ["Index"]
_RESPONSES = {
    401: ResponseSpec(Problem, description="Attached to Immich: no credentials, or wrong ones"),
    403: ResponseSpec(
        Problem, description="Folder mode: not from this computer; or a permission is missing"
    ),
    503: ResponseSpec(Problem, description="PostgreSQL or Immich is away; says what to do"),
}


class TaskProgress(msgspec.Struct):
    """One task, `ocr` or `clip`: photos done and jobs by state."""

    task: str
    done: int
    waiting: int
    running: int
    retrying: int
    failed: int


class IndexStatus(msgspec.Struct):
    """How the index is, as far as the caller may know.

    Attributes:
        everybody: whether this is about everybody's photos, or the caller's own.
        rate: photos a second over the last minute, all workers together.
        seconds_left: until nothing waits any more, at this rate; null where that can't be said.
        working: how many workers are there.
        workers: which ones; for administrators.
        clip_problem: why no embeddings can be made here for the moment.
        looked_at: the time of this.
    """

    everybody: bool
    photos: int
    tasks: list[TaskProgress]
    rate: float
    seconds_left: int | None
    working: int
    workers: list[WorkerSeen]
    failures: list[FailedGroup]
    clip_model: str | None
    clip_problem: str | None
    looked_at: datetime


class Retry(msgspec.Struct, forbid_unknown_fields=True):
    """What to try again: the failed jobs of one task and reason, or (both null) all."""

    task: str | None = None
    reason: Annotated[str, Meta(max_length=4000)] | None = None


class Retried(msgspec.Struct):
    """How many jobs wait again."""

    jobs: int


@get("/index", tags=_TAGS, summary="How the index is", security=IMMICH_USER, responses=_RESPONSES)
async def index(
    services: NamedDependency[Services], caller: NamedDependency[Caller]
) -> IndexStatus:
    """Return what is done, waiting and failed.

    Immich's administrators see figures and reasons for everybody's photos, and which photos failed
    of their own alone; other users see their own.
    """
    status = await _look(services, caller)
    left = status.time_left()
    return IndexStatus(
        everybody=caller.admin,
        photos=status.photos,
        tasks=[
            TaskProgress(
                task,
                done,
                *(status.jobs(task, state) for state in ("waiting", "running", "retrying", "dead")),
            )
            for task, done in (("ocr", status.read), ("clip", status.embedded))
        ],
        rate=status.rate,
        seconds_left=round(left.total_seconds()) if left else None,
        working=len(status.workers),
        workers=status.workers if caller.admin else [],
        failures=status.failures,
        clip_model=status.clip_model,
        clip_problem=await services.inference.clip_problem(),
        looked_at=status.looked_at,
    )


async def _look(services: Services, caller: Caller) -> Status:
    shown = None if caller.owner is None else [caller.owner]
    counted = None if caller.admin and caller.user else shown
    row = await services.database.fetch_one(
        "SELECT indexer_v1.status($1, $2)::text AS status", counted, shown
    )
    assert row is not None  # noqa: S101 - a function's value is a row
    return decode(row["status"])


@post(
    "/index/retry",
    status_code=202,
    guards=[refuse_cross_site],
    tags=_TAGS,
    summary="Try failed photos again",
    security=IMMICH_USER,
    responses=_RESPONSES,
)
async def retry(
    data: JSONBody[Retry],
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
) -> Retried:
    """Put failed photos back to work: one's own; for an administrator, everybody's."""
    caller.require(*REDO)
    owner = None if caller.admin and caller.user else caller.owner
    row = await services.database.fetch_one(
        "SELECT indexer_v1.requeue(NULL, $1, $2, $3) AS jobs", owner, data.task, data.reason
    )
    return Retried(row["jobs"] if row else 0)


@get(
    "/events",
    tags=_TAGS,
    summary="What happens, as it happens",
    security=IMMICH_USER,
    responses=_RESPONSES,
)
async def events(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    asset: Annotated[UUID | None, QueryParameter(description="Tell of this one too.")] = None,
) -> Stream:
    """Server-Sent Events: `queue` (figures have changed; not which, nor whose), `job` (what became
    of a job of the photo `asset`), `resync` (something may have been missed: look again).
    """
    if asset is not None:
        await require(asset, services, caller)
    return Stream(
        services.events.watch(asset),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )
