"""Immich's own search box, answered from the index; for a reverse proxy in front of Immich.

What can't be answered here as Immich would, or not now, or not soon enough, goes to Immich as it
came. So nobody's search is worse for this gateway's being there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec
from litestar import Request, Response, Router, post
from litestar.di import NamedDependency
from litestar.exceptions import ClientException, HTTPException
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Raw

from gateway.auth import credentials_of
from gateway.errors import InferenceError, NotConfigured
from gateway.immich_client import RefusedError
from gateway.immich_items import Viewer, without_exif
from gateway.immich_ranking import NotOursError
from gateway.immich_request import Asked, Form, MetadataRequest, SmartRequest, read
from gateway.openapi import IMMICH_USER, Problem
from gateway.services import Services
from indexer.models.types import ModelUnavailable

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1_000_000

# Who types waits 0.4 s at most: so long for the items, which leaves some for answering. Who scrolls
# has something to look at.
_ITEMS_SECONDS = 0.3
_FURTHER_ITEMS_SECONDS = 1.0
# Longer than this, and Immich itself would have answered.
_SECONDS = 5.0

# With one of these Immich sees somebody else than the credentials say.
_SHARED_LINK = ("x-immich-share-key", "x-immich-share-slug")

_RESPONSES = {
    501: ResponseSpec(Problem, description="No Immich here: folder mode, or no `IMMICH_URL`"),
    502: ResponseSpec(Problem, description="Immich doesn't answer"),
}


class _Albums(msgspec.Struct, rename="camel"):
    total: int = 0
    count: int = 0
    items: list[Raw] = []
    facets: list[Raw] = []


class _Assets(msgspec.Struct, rename="camel"):
    total: int
    count: int
    items: list[Raw]
    next_page: str | None
    facets: list[Raw] = []


class _Found(msgspec.Struct):
    """Immich's SearchResponseDto."""

    assets: _Assets
    albums: _Albums = msgspec.field(default_factory=_Albums)


@post(
    "/api/search/smart",
    status_code=200,
    tags=["Immich's search"],
    summary="Search as Immich's clients do",
    security=IMMICH_USER,
    responses=_RESPONSES,
)
async def smart(
    request: Request[Any, Any, Any], services: NamedDependency[Services]
) -> Response[Any]:
    """Rank by text and picture, `ocr:` by text alone; answers are Immich's SearchResponseDto."""
    return await _answer(request, services, SmartRequest)


@post(
    "/api/search/metadata",
    status_code=200,
    tags=["Immich's search"],
    summary="Search by the text in pictures, as Immich's clients do",
    security=IMMICH_USER,
    responses=_RESPONSES,
)
async def metadata(
    request: Request[Any, Any, Any], services: NamedDependency[Services]
) -> Response[Any]:
    """Rank what has the text of `ocr`; without `ocr` Immich answers."""
    return await _answer(request, services, MetadataRequest)


def router() -> Router:
    """Make the routes."""
    return Router("/", route_handlers=[smart, metadata], request_max_body_size=MAX_BODY_BYTES)


async def _answer(
    request: Request[Any, Any, Any],
    services: Services,
    form: Form,
) -> Response[Any]:
    started = time.monotonic()
    if not (services.settings.attached and services.settings.immich_url):
        raise NotConfigured(
            "This is Immich's own search, for a proxy in front of it; set DB_URL and IMMICH_URL. "
            "Without an Immich, use /search."
        )
    body = await request.body()
    asked = None
    if not _of_somebody_else(request):
        asked = read(body, form, services.settings.max_query_length)
    if asked is None:
        log.debug("search passed on to immich reason=not for here")
    else:
        try:
            async with asyncio.timeout(_SECONDS):
                return await _found(request, services, asked, started)
        except (NotOursError, RefusedError, ClientException) as reason:
            log.info("search passed on to immich reason=%s", reason or "refused")
        except (HTTPException, ModelUnavailable, InferenceError, TimeoutError) as error:
            log.warning("search passed on to immich reason=%r", error)
        except Exception:  # whatever it is, Immich's own search still works
            log.exception("search passed on to immich")
    return await services.immich.pass_on(request, body)


def _of_somebody_else(request: Request[Any, Any, Any]) -> bool:
    """Shared links, and whatever else may be in a query string: credentials can be, too."""
    return bool(request.scope["query_string"]) or any(n in request.headers for n in _SHARED_LINK)


async def _found(
    request: Request[Any, Any, Any], services: Services, asked: Asked, started: float
) -> Response[bytes]:
    credentials = credentials_of(request)
    viewer = Viewer((await services.users.user(request)).id, credentials)
    page = await services.immich_ranking.page(viewer.user, asked)
    until = started + (_FURTHER_ITEMS_SECONDS if asked.skip else _ITEMS_SECONDS)
    items = await services.immich_items.first(viewer, page.found, until)
    shown = [
        Raw(item if asked.with_exif else without_exif(item)) for item in items if item is not None
    ]
    more = page.more or len(items) < len(page.found)
    found = _Found(
        _Assets(
            total=len(shown),
            count=len(shown),
            items=shown,
            next_page=asked.next_page(len(items)) if more else None,
        )
    )
    return Response(
        msgspec.json.encode(found),
        media_type="application/json; charset=utf-8",
        headers={"x-search-by": "immich-indexer"},
    )
