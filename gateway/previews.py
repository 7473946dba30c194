"""Previews for workers on other machines, which have the key but not the media folder."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator
from typing import Any, BinaryIO
from uuid import UUID

from litestar import Response, get
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import (
    NotAuthorizedException,
    NotFoundException,
    ServiceUnavailableException,
)
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from litestar.response import Stream

from gateway.errors import NotConfigured
from gateway.openapi import PREVIEWS, Problem
from gateway.services import Services
from indexer.media import Media, MediaAwayError
from indexer.models.types import ImageError
from indexer.previews import MODIFIED_HEADER, PROBLEM_HEADER, open_preview

log = logging.getLogger(__name__)

_CHUNK_BYTES = 256 * 1024


def require_previews_key(
    connection: ASGIConnection,  # type: ignore[type-arg]
    _: BaseRouteHandler,
) -> None:
    """Guard: ``Authorization: Bearer`` with ``PREVIEWS_KEY``, compared in constant time.

    Raises:
        NotConfigured: ``PREVIEWS_KEY`` isn't set.
        NotAuthorizedException: another key, or none.
    """
    expected = connection.app.state.services.settings.previews_key
    if not expected:
        raise NotConfigured("Previews are not served. Set PREVIEWS_KEY, here and at the worker.")
    scheme, _space, given = connection.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.encode("latin-1"), expected.encode())
    if scheme.lower() != "bearer" or not same:
        raise NotAuthorizedException("Wrong PREVIEWS_KEY.")


@get(
    "/previews/{asset_id:uuid}",
    guards=[require_previews_key],
    tags=["Workers"],
    summary="The preview of a photo, for a worker on another machine",
    security=PREVIEWS,
    responses={
        401: ResponseSpec(Problem, description="Wrong key"),
        404: ResponseSpec(Problem, description="No such photo, or its file is missing"),
        413: ResponseSpec(Problem, description="Larger than `MAX_IMAGE_BYTES`"),
        501: ResponseSpec(Problem, description="`PREVIEWS_KEY` isn't set"),
        503: ResponseSpec(Problem, description="The database or the media folder is away"),
    },
)
async def preview(asset_id: FromPath[UUID], services: NamedDependency[Services]) -> Response[Any]:
    """Send the file that a worker would read: of the edited photo where there is one.

    Which file that is, is asked of the database: nothing of the request gets into a path.
    """
    row = await services.database.fetch_one("SELECT indexer_v1.preview_path($1) AS path", asset_id)
    if row is None or row["path"] is None:
        raise _missing("This photo has no preview.")
    settings = services.settings
    media = Media.parse(settings.media_map, None if settings.attached else settings.photos_dir)
    try:
        file, stamp = await asyncio.to_thread(
            open_preview, media, row["path"], settings.max_image_bytes
        )
    except MediaAwayError as error:
        raise ServiceUnavailableException(str(error)) from None
    except OSError as error:
        log.warning("preview not served asset=%s reason=%s", asset_id, error.strerror)
        raise _missing("The file of this preview can't be read.") from None
    except ImageError as error:
        raise RequestEntityTooLarge(
            f"This preview isn't sent: {error}.", headers={PROBLEM_HEADER: "refused"}
        ) from None
    return Stream(
        _chunks(file, stamp.size),
        media_type="application/octet-stream",
        headers={
            "content-length": str(stamp.size),
            MODIFIED_HEADER: stamp.modified.isoformat(),
            "cache-control": "no-store",
        },
    )


def _missing(detail: str) -> NotFoundException:
    return NotFoundException(detail, headers={PROBLEM_HEADER: "missing"})


async def _chunks(file: BinaryIO, size: int) -> AsyncIterator[bytes]:
    """As many bytes as were announced, or fewer, which ends the connection: it may be changing."""
    with file:
        while size > 0 and (chunk := await asyncio.to_thread(file.read, min(size, _CHUNK_BYTES))):
            size -= len(chunk)
            yield chunk
