"""Whether the gateway works, for people and for what restarts it."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from gateway.errors import DatabaseUnavailable
from gateway.services import Services
from indexer.status import QueueEntry

_TAGS = ["Health"]


class DatabaseHealth(msgspec.Struct):
    """`problem` is null where the database can be used."""

    problem: str | None
    queue: list[QueueEntry]


class ReplicaHealth(msgspec.Struct):
    """`problem` is null where the replica is searched; else the primary is, and this says why."""

    problem: str | None


class ClipHealth(msgspec.Struct):
    """The served model; `problem` is null where it can be used."""

    model: str
    dim: int
    problem: str | None


class Health(msgspec.Struct):
    """How everything is.

    Attributes:
        status: `ok`, or `degraded` where something has a problem.
        search_replica: the one in `SEARCH_DB_URL`; null where none is set.
        ocr: what reads text; it comes with the package, so there is nothing to be missing.
        faces: found by `insightface` here, `forward`ed to `IMMICH_API`, or `off`.
        engine: what waits for the models and what they have done, by model and lane.
    """

    status: str
    database: DatabaseHealth
    search_replica: ReplicaHealth | None
    clip: ClipHealth
    ocr: str
    faces: str
    engine: dict[str, Any]


class Live(msgspec.Struct):
    """`status` is `ok`."""

    status: str


class Ready(msgspec.Struct):
    """`problem` is null where requests can be served."""

    status: str
    problem: str | None


@get("/health", tags=_TAGS, summary="How everything is")
async def health(services: NamedDependency[Services]) -> Health:
    """Say how everything is; always 200. `/health/ready` has a status to act on."""
    database = await _database(services)
    info = services.inference.clip_info
    clip = ClipHealth(info.name, info.dim, await services.inference.clip_problem())
    replica = ReplicaHealth(services.replica.problem) if services.replica else None
    degraded = database.problem or clip.problem or (replica and replica.problem)
    return Health(
        status="degraded" if degraded else "ok",
        database=database,
        search_replica=replica,
        clip=clip,
        ocr=services.engine.ocr_name,
        faces=services.settings.faces_by,
        engine=dict(services.engine.stats()),
    )


@get("/health/live", tags=_TAGS, summary="Whether the process runs")
async def live() -> Live:
    """Answer 200 as long as the process can answer; restart it when it doesn't."""
    return Live("ok")


@get(
    "/health/ready",
    tags=_TAGS,
    summary="Whether requests can be served",
    responses={503: ResponseSpec(Ready, description="The database is away")},
)
async def ready(services: NamedDependency[Services]) -> Response[Ready]:
    """Answer 503 while the database is away. Missing CLIP weights don't count: text is found."""
    try:
        await services.database.fetch("SELECT 1 FROM indexer_v1.setting LIMIT 1")
    except DatabaseUnavailable as error:
        return Response(Ready("unavailable", error.detail), status_code=503)
    return Response(Ready("ok", None))


async def _database(services: Services) -> DatabaseHealth:
    try:
        rows = await services.database.fetch("SELECT * FROM indexer_v1.queue()")
    except DatabaseUnavailable as error:
        return DatabaseHealth(error.detail, [])
    return DatabaseHealth(None, [QueueEntry(**dict(row)) for row in rows])
