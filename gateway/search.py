"""Search over HTTP: the query's text is embedded here, the ranking is PostgreSQL's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
import msgspec
import pgvector
from litestar import get, post
from litestar.di import NamedDependency
from litestar.exceptions import ClientException, NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, QueryParameter
from msgspec import UNSET, Meta, UnsetType

from gateway.auth import Caller
from gateway.database import Queries, Row
from gateway.errors import Unprocessable
from gateway.openapi import IMMICH_USER, Problem
from gateway.services import Services
from indexer.models.types import Embedding
from indexer.settings import Settings

MAX_OFFSET = 5000

Method = Literal["rrf", "weighted"]

_QUERY = (
    "Words in the picture, or what it shows. `发票 2024` both, `发票 OR 收据` either, "
    '`"上海 虹桥"` exactly, `-作废` not, `ocr:发票` by the text in it alone. At most '
    "`MAX_QUERY_LENGTH` characters (500)."
)
_LIMIT = "Results on a page, at most `MAX_PAGE_SIZE` (200)."
_METHOD = (
    "`rrf`: reciprocal rank fusion of the two rankings; `weighted`: the mean of the two scores."
)
_RESPONSES = {
    400: ResponseSpec(Problem, description="A parameter is missing or out of its range"),
    401: ResponseSpec(Problem, description="Attached to Immich: no credentials, or wrong ones"),
    403: ResponseSpec(Problem, description="Folder mode: not from this computer"),
    501: ResponseSpec(Problem, description="Attached to Immich, and `IMMICH_URL` isn't set"),
    422: ResponseSpec(Problem, description="Filters by what this database doesn't have"),
    503: ResponseSpec(Problem, description="PostgreSQL or Immich is away; says what to do"),
}


_SEARCH = """
    SELECT s.asset_id, a."originalFileName" AS file_name, a."originalPath" AS path,
           a."localDateTime" AS taken_at, a.type, (to_jsonb(a) ->> 'width')::int AS width,
           (to_jsonb(a) ->> 'height')::int AS height, indexer_v1.preview_path(a.id) AS preview,
           s.score, s.text_rank, s.text_score, s.vector_rank, s.vector_distance
    FROM indexer_v1.search(query => $1, embedding => $2, owners => $3, max_results => $4,
                           skip => $5, method => $6, filter => $7::jsonb) WITH ORDINALITY AS s
    JOIN asset a ON a.id = s.asset_id
    ORDER BY s.ordinality
"""


class SearchFilter(msgspec.Struct, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Which photos to search: names and meanings as in Immich's own search.

    Attributes:
        visibility: others than these two are never found.
        album_ids, person_ids, tag_ids: photos that are in all of them.
        city, state, country, make, model, lens_model, rating: exactly this; null: none recorded.
    """

    taken_after: datetime | UnsetType = UNSET
    taken_before: datetime | UnsetType = UNSET
    type: Literal["IMAGE", "VIDEO"] | UnsetType = UNSET
    is_favorite: bool | UnsetType = UNSET
    is_not_in_album: bool | UnsetType = UNSET
    visibility: Literal["timeline", "archive"] | UnsetType = UNSET
    album_ids: list[UUID] | UnsetType = UNSET
    person_ids: list[UUID] | UnsetType = UNSET
    tag_ids: list[UUID] | UnsetType = UNSET
    city: str | UnsetType | None = UNSET
    state: str | UnsetType | None = UNSET
    country: str | UnsetType | None = UNSET
    make: str | UnsetType | None = UNSET
    model: str | UnsetType | None = UNSET
    lens_model: str | UnsetType | None = UNSET
    rating: int | UnsetType | None = UNSET


class SearchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What to search for, among which photos, and which page of it."""

    q: Annotated[str, Meta(description=_QUERY)]
    limit: Annotated[int, Meta(ge=1, description=_LIMIT)] = 50
    offset: Annotated[int, Meta(ge=0, le=MAX_OFFSET, description="Results to skip.")] = 0
    method: Annotated[Method, Meta(description=_METHOD)] = "rrf"
    filter: SearchFilter | None = None
    like: Annotated[
        UUID | None,
        Meta(
            description="A photo: what it shows is searched for, the nearest first, in place of "
            "what the query says of the picture. It isn't among the results itself, nor is what "
            "is farther away than the index's greatest distance."
        ),
    ] = None


class MatchedLine(msgspec.Struct):
    """A line of text that answers the query.

    Attributes:
        line: its number in the picture, from 1, in reading order.
        box: its corners x1,y1 … x4,y4 as shares of the picture's width and height.
        score: how sure OCR was of the text, 0 to 1.
        marks: which of its characters match: [from, to) from 0.
    """

    line: int
    text: str
    box: list[float] | None
    score: float | None
    marks: list[tuple[int, int]]


class PhotoSummary(msgspec.Struct):
    """A photo in a list.

    Attributes:
        taken_at: by the clock of the place where it was taken.
        type: `IMAGE` or `VIDEO`.
        width, height: of its upright preview, in pixels or in the same proportion; null: unknown.
    """

    asset_id: UUID
    file_name: str
    path: str
    taken_at: datetime
    type: str
    width: int | None
    height: int | None


class SearchResult(PhotoSummary):
    """One photo: where it stands on each side, and why. A side without it has nulls.

    Attributes:
        lines: the lines of text that answer the query, in reading order.
    """

    score: float
    text_rank: int | None
    text_score: float | None
    vector_rank: int | None
    vector_distance: float | None
    lines: list[MatchedLine]


class SearchAnswer(msgspec.Struct):
    """A page of results, best first.

    Attributes:
        picture_search: whether what pictures show was searched too; not for `ocr:`, nor while
            CLIP is away.
        picture_problem: why CLIP is away; null where it isn't.
        next_offset: the next page's offset; null on the last one.
    """

    results: list[SearchResult]
    picture_search: bool
    picture_problem: str | None
    next_offset: int | None


@get(
    "/search",
    tags=["Search"],
    summary="Search the photos",
    security=IMMICH_USER,
    responses=_RESPONSES,
)
async def search(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    q: Annotated[str, QueryParameter(description=_QUERY)],
    limit: Annotated[int, QueryParameter(description=_LIMIT, ge=1)] = 50,
    offset: Annotated[int, QueryParameter(description="Results to skip.", ge=0, le=MAX_OFFSET)] = 0,
    method: Annotated[Method, QueryParameter(description=_METHOD)] = "rrf",
) -> SearchAnswer:
    """Find photos by the text in them and by what they show, in one ranking."""
    return await _search(SearchRequest(q, limit, offset, method), services, caller)


@post(
    "/search",
    status_code=200,
    tags=["Search"],
    summary="Search the photos (JSON)",
    security=IMMICH_USER,
    responses=_RESPONSES,
)
async def search_json(
    data: JSONBody[SearchRequest],
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
) -> SearchAnswer:
    """Do the same as `GET /search`; what is searched for isn't in the URL, nor in proxies' logs."""
    return await _search(data, services, caller)


def check_sizes(settings: Settings, query: str = "", limit: int = 1) -> None:
    """Refuse a query that is too long, or a page that is too large.

    Raises:
        ClientException: says which setting it is.
    """
    if len(query) > settings.max_query_length:
        raise ClientException(
            f"The query is longer than {settings.max_query_length} characters (MAX_QUERY_LENGTH)."
        )
    if limit > settings.max_page_size:
        raise ClientException(
            f"A page has no more than {settings.max_page_size} results (MAX_PAGE_SIZE)."
        )


async def _search(asked: SearchRequest, services: Services, caller: Caller) -> SearchAnswer:
    check_sizes(services.settings, asked.q, asked.limit)
    query = asked.q.replace("\x00", " ")  # PostgreSQL's text can't hold it
    owners = await caller.owners(services.database)
    if asked.like is None:
        embedding, problem = await _embed(query, services)
    else:
        embedding, problem = await _embedding_of(services.database, asked.like, owners), None
    rows = await _ranked(
        services.searching,
        query=query,
        embedding=embedding,
        owners=owners,
        # one more than asked for, to know whether there is a next page
        max_results=asked.limit + 1,
        skip=asked.offset,
        method=asked.method,
        chosen=asked.filter,
    )
    more = len(rows) > asked.limit and asked.offset + asked.limit <= MAX_OFFSET
    page = [row for row in rows[: asked.limit] if row["asset_id"] != asked.like]
    read = [row["asset_id"] for row in page if row["text_rank"] is not None]
    lines = await matching_lines(services.searching, query, read) if read else {}
    return SearchAnswer(
        results=[
            SearchResult(**row, lines=lines.get(row["asset_id"], []))
            for row in await with_sizes(page, services)
        ],
        picture_search=embedding is not None,
        picture_problem=problem,
        next_offset=asked.offset + asked.limit if more else None,
    )


async def _embed(query: str, services: Services) -> tuple[Embedding | None, str | None]:
    """Return the embedding of what the query says of the picture, or why there is none."""
    row = await services.searching.fetch_one(
        "SELECT picture FROM indexer_v1.parse_query($1)", query
    )
    if row is None or row["picture"] is None:
        return None, None
    if problem := await services.inference.clip_problem():
        return None, problem
    return await services.inference.embed_text(row["picture"]), None


async def _embedding_of(
    database: Queries, asset_id: UUID, owners: list[UUID] | None
) -> Embedding | None:
    """Return the embedding of a photo that these owners may see; None where it has none yet.

    Raises:
        NotFoundException: there is no such photo, or it isn't theirs to see.
    """
    row = await database.fetch_one(
        "SELECT c.embedding::vector AS embedding"
        " FROM indexer_v1.photos(asset_ids => ARRAY[$1::uuid], owners => $2) AS p"
        " LEFT JOIN indexer_v1.clip c USING (asset_id)",
        asset_id,
        owners,
    )
    if row is None:
        raise NotFoundException("There is no such photo, or it isn't yours to see.")
    return None if row["embedding"] is None else row["embedding"].to_numpy()


async def _ranked(
    database: Queries,
    *,
    query: str,
    embedding: Embedding | None,
    owners: list[UUID] | None,
    max_results: int,
    skip: int,
    method: Method,
    chosen: SearchFilter | None,
) -> list[Row]:
    """Call the search function in SQL; its arguments and columns are described there.

    Raises:
        Unprocessable: this database has nothing to filter by, such as albums in folder mode, or
            no text can be what is asked for (a NUL in it).
    """
    with filtered():
        return await database.fetch(
            _SEARCH,
            query,
            None if embedding is None else pgvector.Vector(embedding),
            owners,
            max_results,
            skip,
            method,
            encode_filter(chosen),
        )


def encode_filter(chosen: SearchFilter | None) -> str | None:
    """Return a filter as `filter_conditions` in SQL takes it."""
    return None if chosen is None else msgspec.json.encode(chosen).decode()


@contextmanager
def filtered() -> Iterator[None]:
    """Around statements that filter.

    Raises:
        Unprocessable: this database has nothing to filter by, such as albums in folder mode, or
            no text can be what is asked for (a NUL in it).
    """
    try:
        yield
    except (asyncpg.FeatureNotSupportedError, asyncpg.DataError) as error:
        raise Unprocessable(str(error)) from error


async def matching_lines(
    database: Queries, query: str, asset_ids: list[UUID]
) -> dict[UUID, list[MatchedLine]]:
    """Return the lines that answer a query, of some photos."""
    rows = await database.fetch(
        """
        SELECT m.asset_id, jsonb_agg(to_jsonb(m) - 'asset_id' ORDER BY m.line)::text AS lines
        FROM indexer_v1.matches($1, $2) AS m
        GROUP BY m.asset_id
        """,
        query.replace("\x00", " "),
        asset_ids,
    )
    return {
        row["asset_id"]: msgspec.json.decode(row["lines"], type=list[MatchedLine]) for row in rows
    }


async def with_sizes(rows: list[Row], services: Services) -> list[dict[str, Any]]:
    """Return rows without their `preview`, their missing `width` and `height` read from its file.

    Immich before 2.6, and a folder of photos, have no sizes in the database.
    """
    found = [dict(row) for row in rows]
    previews = [row.pop("preview") for row in found]
    unknown = [n for n, row in enumerate(found) if not row["width"] and previews[n]]
    if unknown:
        sizes = await services.thumbnails.sizes([previews[n] for n in unknown])
        for n, size in zip(unknown, sizes, strict=True):
            found[n]["width"], found[n]["height"] = size or (None, None)
    return found
