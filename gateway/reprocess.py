"""Having one photo read or looked at again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, PathParameter, QueryParameter

from gateway.auth import REDO, Caller, refuse_cross_site
from gateway.openapi import IMMICH_USER, Problem
from gateway.services import Services

Task = Literal["ocr", "clip", "all"]

_RESPONSES = {
    401: ResponseSpec(Problem, description="Attached to Immich: no credentials, or wrong ones"),
    403: ResponseSpec(
        Problem, description="Folder mode: not from this computer; or a permission is missing"
    ),
    404: ResponseSpec(Problem, description="No such photo or request of yours"),
    503: ResponseSpec(Problem, description="PostgreSQL or Immich is away; says what to do"),
}


class ReprocessRequest(msgspec.Struct):
    """A request to redo a photo.

    Attributes:
        status: `waiting`, `done`, or `failed: ` and why.
        remaining: the tasks that are still to end.
        finished_at: null while it waits.
    """

    id: int
    asset_id: UUID
    task: Task
    status: str
    remaining: list[str]
    requested_at: datetime
    finished_at: datetime | None


_COLUMNS = "id, asset_id, task, status, remaining, requested_at, finished_at"


@post(
    "/assets/{asset_id:uuid}/reprocess",
    status_code=202,
    guards=[refuse_cross_site],
    tags=["Redo"],
    summary="Redo a photo",
    security=IMMICH_USER,
    responses=_RESPONSES,
)
async def reprocess(
    asset_id: FromPath[UUID],
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    task: Annotated[Task, QueryParameter(description="Its text, its embedding, or both.")] = "all",
) -> ReprocessRequest:
    """Have a photo redone before everything else that waits; `GET /reprocess/{id}` follows it.

    Attached to Immich, only one's own photos can be redone.
    """
    caller.require(*REDO)
    row = await services.database.fetch_one(
        f"""
        INSERT INTO indexer_v1.reprocess (asset_id, task)
        SELECT id, $2 FROM asset
        WHERE id = $1 AND ($3::uuid IS NULL OR "ownerId" = $3) AND visibility <> 'locked'
        RETURNING {_COLUMNS}
        """,  # noqa: S608 - a constant
        asset_id,
        task,
        caller.owner,
    )
    if row is None:
        raise NotFoundException("There is no such photo, or it isn't yours.")
    return ReprocessRequest(**dict(row))


@get(
    "/reprocess/{request_id:int}",
    tags=["Redo"],
    summary="How far a request to redo a photo is",
    security=IMMICH_USER,
    responses=_RESPONSES,
)
async def reprocess_status(
    request_id: Annotated[int, PathParameter(ge=1, le=2**63 - 1)],
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
) -> ReprocessRequest:
    """Return a request by the id that `POST /assets/{id}/reprocess` gave."""
    row = await services.database.fetch_one(
        f"""
        SELECT {_COLUMNS} FROM indexer_v1.reprocess
        WHERE id = $1 AND ($2::uuid IS NULL OR EXISTS (
            SELECT FROM asset WHERE asset.id = asset_id AND "ownerId" = $2
            AND visibility <> 'locked'))
        """,  # noqa: S608 - a constant
        request_id,
        caller.owner,
    )
    if row is None:
        raise NotFoundException("There is no such request, or it isn't about a photo of yours.")
    return ReprocessRequest(**dict(row))
