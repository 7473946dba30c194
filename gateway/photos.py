"""Photos without a query: the newest, one with its text, its picture; and what to filter by."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta

from gateway.auth import Caller
from gateway.errors import AnyRequest
from gateway.openapi import IMMICH_USER, Problem
from gateway.search import (
    MatchedLine,
    PhotoSummary,
    SearchFilter,
    check_sizes,
    encode_filter,
    filtered,
    matching_lines,
    with_sizes,
)
from gateway.services import Services
from gateway.thumbnails import Picture, Size

_TAGS = ["Photos"]
_RESPONSES = {
    401: ResponseSpec(Problem, description="Attached to Immich: no credentials, or wrong ones"),
    403: ResponseSpec(
        Problem, description="Folder mode: not from this computer; or a permission is missing"
    ),
    404: ResponseSpec(Problem, description="No such photo that the caller may see"),
    503: ResponseSpec(Problem, description="PostgreSQL or Immich is away; says what to do"),
}
_PRIVATE = {
    # Asked for again each time: who may see a photo can change.
    "cache-control": "private, no-cache",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


class PhotosRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Which photos, and which page of them."""

    limit: Annotated[int, Meta(ge=1)] = 50
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    filter: SearchFilter | None = None


class PhotosAnswer(msgspec.Struct):
    """A page of photos, newest first; `next_offset` is null on the last one."""

    results: list[PhotoSummary]
    next_offset: int | None


class TextLine(msgspec.Struct):
    """A line of text in a photo.

    Attributes:
        box: corners x1,y1 … x4,y4, clockwise from the text's top left, as shares of the picture's
            width and height.
        text_score: how sure OCR was of the text, 0 to 1.
    """

    text: str
    box: list[float] | None = None
    text_score: float | None = None


class JobState(msgspec.Struct):
    """A job that this photo has: `waiting`, `running`, `retrying` or `dead`, and why."""

    task: str
    state: str
    reason: str | None


class Photo(PhotoSummary):
    """One photo and what is known of it.

    Attributes:
        mine: whether the caller may have it redone.
        read_at, embedded_at: when its text was read, its picture looked at; null: not yet.
        lines: its text, in reading order.
        matches: which of the lines answer `q`.
    """

    mine: bool
    read_at: datetime | None
    text_model: str | None
    embedded_at: datetime | None
    picture_model: str | None
    lines: list[TextLine]
    matches: list[MatchedLine]
    jobs: list[JobState]
    details: dict[str, str]


class Named(msgspec.Struct):
    """An album, a person or a tag."""

    id: UUID
    name: str


class Place(msgspec.Struct):
    """Where photos were taken."""

    country: str | None
    city: str


class Camera(msgspec.Struct):
    """What photos were taken with."""

    make: str | None
    model: str


class FilterChoices(msgspec.Struct):
    """What the caller's photos can be filtered by."""

    albums: list[Named]
    people: list[Named]
    tags: list[Named]
    places: list[Place]
    cameras: list[Camera]
    videos: bool
    favorites: bool
    archived: bool


@post(
    "/photos",
    status_code=200,
    tags=_TAGS,
    summary="The newest photos",
    security=IMMICH_USER,
    responses=_RESPONSES,
)
async def photos(
    data: JSONBody[PhotosRequest],
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
) -> PhotosAnswer:
    """Return photos without a query, newest first, filtered as in a search."""
    check_sizes(services.settings, limit=data.limit)
    with filtered():
        rows = await services.searching.fetch(
            """
            SELECT p.asset_id, a."originalFileName" AS file_name, a."originalPath" AS path,
                   a."localDateTime" AS taken_at, a.type,
                   (to_jsonb(a) ->> 'width')::int AS width,
                   (to_jsonb(a) ->> 'height')::int AS height,
                   indexer_v1.preview_path(a.id) AS preview
            FROM indexer_v1.photos(owners => $1, max_results => $2, skip => $3, filter => $4::jsonb)
                 WITH ORDINALITY AS p
            JOIN asset a ON a.id = p.asset_id
            ORDER BY p.ordinality
            """,
            await caller.owners(services.database),
            data.limit + 1,
            data.offset,
            encode_filter(data.filter),
        )
    more = len(rows) > data.limit
    page = await with_sizes(rows[: data.limit], services)
    return PhotosAnswer(
        [PhotoSummary(**row) for row in page], data.offset + data.limit if more else None
    )


@get(
    "/assets/{asset_id:uuid}",
    tags=_TAGS,
    summary="One photo and its text",
    security=IMMICH_USER,
    responses=_RESPONSES,
)
async def photo(
    asset_id: FromPath[UUID],
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    q: Annotated[str, QueryParameter(description="Mark what answers this.")] = "",
) -> Photo:
    """Return a photo that the caller may see, with its text and where each line is."""
    check_sizes(services.settings, q)
    await require(asset_id, services, caller)
    row = await services.database.fetch_one(
        """
        SELECT a.id AS asset_id, a."originalFileName" AS file_name, a."originalPath" AS path,
               a."localDateTime" AS taken_at, a.type,
               (to_jsonb(a) ->> 'width')::int AS width, (to_jsonb(a) ->> 'height')::int AS height,
               indexer_v1.preview_path(a.id) AS preview,
               $2::uuid IS NULL OR a."ownerId" = $2 AS mine,
               o.updated_at AS read_at, o.model AS text_model,
               coalesce(o.lines, '[]')::text AS lines,
               c.updated_at AS embedded_at, c.model AS picture_model,
               (SELECT coalesce(jsonb_agg(jsonb_build_object(
                    'task', j.task, 'reason', j.last_error,
                    'state', CASE WHEN j.dead_at IS NOT NULL THEN 'dead'
                                  WHEN j.lease_until > now() THEN 'running'
                                  WHEN j.attempts > 0 THEN 'retrying' ELSE 'waiting' END)), '[]')
                FROM indexer_v1.job j WHERE j.asset_id = a.id)::text AS jobs,
               indexer_v1.photo_details(a.id)::text AS details
        FROM asset a
        LEFT JOIN indexer_v1.ocr o ON o.asset_id = a.id
        LEFT JOIN indexer_v1.clip c ON c.asset_id = a.id
        WHERE a.id = $1
        """,
        asset_id,
        caller.owner,
    )
    if row is None:
        raise NotFoundException("This photo has just been deleted.")
    matches = await matching_lines(services.database, q, [asset_id]) if q.strip() else {}
    (found,) = await with_sizes([row], services)
    return Photo(
        **found
        | {
            "lines": msgspec.json.decode(row["lines"], type=list[TextLine]),
            "jobs": msgspec.json.decode(row["jobs"], type=list[JobState]),
            "details": msgspec.json.decode(row["details"], type=dict[str, str]),
            "matches": matches.get(asset_id, []),
        }
    )


@get(
    "/assets/{asset_id:uuid}/thumbnail",
    tags=_TAGS,
    summary="A photo's picture",
    security=IMMICH_USER,
    responses=_RESPONSES
    | {
        400: ResponseSpec(Problem, description="The photo's preview can't be decoded"),
        502: ResponseSpec(Problem, description="No media folder here, and Immich gives no picture"),
    },
)
async def thumbnail(
    asset_id: FromPath[UUID],
    request: AnyRequest,
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    size: Annotated[
        Size, QueryParameter(description="Fits into 960 x 480, or 2560 x 1440, pixels.")
    ] = "thumbnail",
) -> Response[bytes]:
    """Return a JPEG that the caller may see; from Immich where the media folder isn't here."""
    caller.require("asset.view")
    preview = await require(asset_id, services, caller)
    if preview is None:
        raise NotFoundException("The photo has no preview yet.")
    picture = await _picture(asset_id, preview, size, request, services)
    headers = {**_PRIVATE, "etag": picture.etag}
    if picture.etag in request.headers.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers)
    return Response(picture.jpeg, media_type="image/jpeg", headers=headers)


async def _picture(
    asset_id: UUID, preview: str, size: Size, request: AnyRequest, services: Services
) -> Picture:
    try:
        return await services.thumbnails.of_file(preview, size)
    except OSError as error:
        if not services.settings.attached:
            raise NotFoundException(f"The photo can't be read: {error.strerror}.") from None
        services.thumbnails.note_away(error)
    max_bytes = services.settings.max_image_bytes
    data = await services.users.thumbnail(request, asset_id, size, max_bytes)
    return await services.thumbnails.of_bytes(data, size)


@get(
    "/filters",
    tags=_TAGS,
    summary="What photos can be filtered by",
    security=IMMICH_USER,
    responses=_RESPONSES,
)
async def filters(
    services: NamedDependency[Services], caller: NamedDependency[Caller]
) -> FilterChoices:
    """Return the albums, people, places … of the photos that the caller may see."""
    row = await services.database.fetch_one(
        "SELECT indexer_v1.filter_choices($1, $2)::text AS choices",
        await caller.owners(services.database),
        caller.user,
    )
    assert row is not None  # noqa: S101 - a function's value is a row
    return msgspec.json.decode(row["choices"], type=FilterChoices)


async def require(asset_id: UUID, services: Services, caller: Caller) -> str | None:
    """Return the path of a photo's preview, or None where it has none yet.

    Raises:
        NotFoundException: there is no such photo, or it isn't the caller's to see.
    """
    row = await services.database.fetch_one(
        "SELECT indexer_v1.preview_path(p.asset_id) AS preview"
        " FROM indexer_v1.photos(asset_ids => ARRAY[$1::uuid], owners => $2) AS p",
        asset_id,
        await caller.owners(services.database),
    )
    if row is None:
        raise NotFoundException("There is no such photo, or it isn't yours to see.")
    preview: str | None = row["preview"]
    return preview
