"""Immich's machine-learning routes: what its server is pointed at in place of its own."""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Any

from litestar import MediaType, Response, Router, get, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import ClientException, NotAuthorizedException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ControllerRouterHandler

from gateway import web
from gateway.errors import AnyRequest, Unprocessable
from gateway.forms import read_form
from gateway.immich_ml import (
    FACES,
    Asked,
    clip_answer,
    faces_answer,
    legacy_ocr_answer,
    ocr_answer,
    parse_entries,
)
from gateway.intake import SMALL_BYTES
from gateway.openapi import Problem, multipart_operation
from gateway.services import Services
from indexer.models.images import Photo
from indexer.settings import Settings

log = logging.getLogger(__name__)

_TAGS = ["Immich's machine learning"]


@get("/", tags=_TAGS, summary="Say what this is, as Immich's ML server does; the page for browsers")
async def root(request: AnyRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Answer as Immich's own ML server does; a browser, which asks for HTML, gets the page."""
    if "ml_key" not in request.path_params and web.wants_page(request):
        return web.answer("index.html", request, services)
    return Response({"message": "Immich ML"})


@get("/ping", media_type=MediaType.TEXT, tags=_TAGS, summary="Say that the server runs")
async def ping() -> str:
    """Answer ``pong``. Immich asks every 30 s and waits for 2 s; MT Photos asks too."""
    return "pong"


@post(
    "/predict",
    status_code=200,
    tags=_TAGS,
    summary="Run models on one image or text",
    operation_class=multipart_operation(
        required={
            "entries": "JSON: `{task: {type: {modelName, options}}}`. Tasks `clip` (`visual` or "
            "`textual`) and `ocr` (`detection` with `recognition`) are served here, "
            "`facial-recognition` (the same two) with `FACES=insightface`; others are passed on "
            "to `IMMICH_API`."
        },
        optional={"text": "For `clip` `textual`."},
        files={"image": "For every other task: an image file."},
    ),
    responses={
        400: ResponseSpec(Problem, description="No input for a task, or an unreadable image"),
        401: ResponseSpec(Problem, description="`ML_KEY` is set, and isn't in the path"),
        413: ResponseSpec(Problem, description="Larger than `MAX_IMAGE_BYTES`"),
        422: ResponseSpec(Problem, description="Bad entries, or a CLIP model not served here"),
        500: ResponseSpec(Problem, description="A model failed"),
        501: ResponseSpec(Problem, description="Faces, and `FACES` is off"),
        502: ResponseSpec(Problem, description="`IMMICH_API` doesn't answer"),
        503: ResponseSpec(
            Problem, description="Weights are missing (says which file), or too many requests wait"
        ),
    },
)
async def predict(request: AnyRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Run the tasks of ``entries`` on ``image`` or ``text``, each under its own name.

    An image is decoded once for all of them. `clip` is a string that holds a JSON array; `ocr`
    has the lists `text`, `box` (eight numbers a line, 0..1), `boxScore` and `textScore`;
    `imageHeight` and `imageWidth` are added when an image was sent.
    """
    async with services.intake.turn(request):
        return await _predict(request, services)


def routes(settings: Settings, max_body_bytes: int) -> list[ControllerRouterHandler]:
    """Make the routes; where ``ML_KEY`` is set they are below it, and refused without it."""
    large = Router("/", route_handlers=[predict], request_max_body_size=max_body_bytes)
    if not settings.ml_key:
        return [root, ping, large]
    return [
        root,
        Router("/", route_handlers=[ping, large], guards=[require_ml_key]),
        Router("/{ml_key:str}", route_handlers=[root, ping, large], guards=[require_ml_key]),
    ]


def require_ml_key(
    connection: ASGIConnection,  # type: ignore[type-arg]
    _: BaseRouteHandler,
) -> None:
    """Guard: the path begins with ``ML_KEY``, compared in constant time.

    MT Photos asks for ``/ping`` too, and has a key of its own.

    Raises:
        NotAuthorizedException: another key, or none.
    """
    settings = connection.app.state.services.settings
    given = connection.path_params.get("ml_key", "")
    if hmac.compare_digest(given.encode(), settings.ml_key.encode()):
        return
    other = connection.headers.get("api-key", "").encode("latin-1")
    if settings.api_key and hmac.compare_digest(other, settings.api_key.encode()):
        return
    raise NotAuthorizedException(
        "This server has a key (ML_KEY). In Immich's machine-learning settings, write the URL "
        "with it and with a slash at the end: http://…:3003/<key>/ (Immich 3 or later)."
    )


async def _predict(request: AnyRequest, services: Services) -> Response[Any]:
    parts = await read_form(request)
    if "entries" not in parts:
        raise Unprocessable("The part `entries` is missing.")
    asked = parse_entries(parts["entries"], services.settings)
    log.debug("predict tasks=%s", asked)
    if asked.elsewhere:
        services.immich_ml.check(asked.elsewhere)
        if not asked.here:
            return await services.immich_ml.pass_on(request.headers, await request.body())
    _check(asked, parts, services)
    here, elsewhere = await asyncio.gather(
        _here(asked, parts, services), _elsewhere(asked, parts, request, services)
    )
    return Response(elsewhere | here, media_type=MediaType.JSON)


def _check(asked: Asked, parts: dict[str, bytes], services: Services) -> None:
    """Refuse what can't be done, before anything is."""
    if asked.clip:
        services.clip_names.check(asked.clip.model_name, services.inference.clip_info)
    if "image" not in parts and "text" not in parts:
        raise ClientException("Either image or text must be provided.")
    textual = asked.clip is not None and asked.clip.kind == "textual"
    if "image" not in parts and (asked.ocr or asked.faces or not textual):
        raise ClientException(
            "Tasks ocr and facial-recognition, and type visual of clip, take an image, not a text."
        )
    if "text" not in parts and textual:
        raise ClientException("Type textual of clip takes a text, not an image.")


async def _here(asked: Asked, parts: dict[str, bytes], services: Services) -> dict[str, Any]:
    """Do what is done by this server's own models."""
    photo = await services.inference.decode(parts["image"]) if "image" in parts else None
    clip, ocr, faces = await asyncio.gather(
        _clip(asked, photo, parts, services),
        _ocr(asked, photo, services),
        _faces(asked, photo, services),
    )
    answer = clip | ocr | faces
    if photo:
        answer |= {"imageHeight": photo.height, "imageWidth": photo.width}
    return answer


async def _clip(
    asked: Asked, photo: Photo | None, parts: dict[str, bytes], services: Services
) -> dict[str, Any]:
    if asked.clip is None:
        return {}
    if asked.clip.kind == "visual" and photo:
        return {"clip": clip_answer(await services.inference.embed_image(photo))}
    return {"clip": clip_answer(await services.inference.embed_text(_text(parts["text"])))}


async def _ocr(asked: Asked, photo: Photo | None, services: Services) -> dict[str, Any]:
    if asked.ocr is None or photo is None:
        return {}
    lines = await services.inference.read_text(photo, asked.ocr.options)
    return legacy_ocr_answer(lines, photo) if asked.ocr.legacy else {"ocr": ocr_answer(lines)}


async def _faces(asked: Asked, photo: Photo | None, services: Services) -> dict[str, Any]:
    if asked.faces is None or photo is None:
        return {}
    return {FACES: faces_answer(await services.inference.find_faces(photo, asked.faces))}


async def _elsewhere(
    asked: Asked, parts: dict[str, bytes], request: AnyRequest, services: Services
) -> dict[str, Any]:
    """Have the other tasks of a mixed request done by Immich's own ML server."""
    if not asked.elsewhere:
        return {}
    inputs = {name: part for name, part in parts.items() if name in {"image", "text"}}
    return await services.immich_ml.ask(asked.elsewhere, inputs, request.headers)


def _text(raw: bytes) -> str:
    if len(raw) > SMALL_BYTES:
        raise RequestEntityTooLarge(f"The text is longer than {SMALL_BYTES:,} bytes.")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Unprocessable("The text isn't UTF-8.") from None
