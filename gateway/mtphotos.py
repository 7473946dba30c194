"""MT Photos' AI API on the same models.

Source: MT-Photos/mt-photos-ai (``onnx/server.py``, README) for text and CLIP,
MT-Photos/mt-photos-deepface and kqstone/mt-photos-insightface-unofficial (``server.py``) for faces,
the latter's embeddings being of length 1. An image that can't be read is answered
with 200 and a ``msg``, as there; a model that is away isn't, so that MT Photos asks again.
"""

from __future__ import annotations

import hmac
from typing import Annotated, Any

import msgspec
import numpy as np
from litestar import Router, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody
from msgspec import Meta

from gateway.errors import AnyRequest, BadGateway, NotConfigured, Unprocessable
from gateway.forms import read_form
from gateway.immich_ml import FACES, faces_answer
from gateway.openapi import MT_PHOTOS, Problem, multipart_operation
from gateway.services import Services
from indexer.models.images import Photo
from indexer.models.types import Embedding, FaceOptions, ImageError, Line, OcrOptions

_MAX_SIDE = 10_000
_FACE_MODEL = "buffalo_l"
_FACES = {"detector_backend": "insightface", "recognition_model": _FACE_MODEL}
# What mt-photos-insightface-unofficial has, and recommends to MT Photos.
_FACE_MIN_SCORE = 0.65
_FACE_LIMITS = {"facial_min_score": _FACE_MIN_SCORE, "facial_max_distance": 0.5}

_FILE = multipart_operation(files={"file": "An image file."})
_RESPONSES = {
    401: ResponseSpec(Problem, description="Wrong key"),
    501: ResponseSpec(Problem, description="A setting is missing; says which"),
}


class ClipText(msgspec.Struct):
    """A text to embed."""

    text: Annotated[str, Meta(max_length=2000)]


class _BoundingBox(msgspec.Struct):
    x1: float
    y1: float
    x2: float
    y2: float


class _Face(msgspec.Struct, rename="camel"):
    bounding_box: _BoundingBox
    embedding: str
    score: float


@post("/check", status_code=200, responses=_RESPONSES, summary="Check the key")
async def check(services: NamedDependency[Services]) -> dict[str, Any]:
    """Say that the service runs and the key is right."""
    return {
        "result": "pass",
        "title": "mt-photos-ai服务",
        "help": "https://mtmt.tech/docs/advanced/ocr_api",
    } | (_FACES | _FACE_LIMITS if services.settings.faces_by != "off" else {})


@post(["/restart", "/restart_v2"], status_code=200, responses=_RESPONSES, summary="Does nothing")
async def restart() -> dict[str, str]:
    """Accept the request and do nothing: there, a restart frees memory that leaks; here, none does.

    Immich and the indexer use the same models, so they aren't unloaded for one of the three.
    """
    return {"result": "pass"}


@post(
    "/ocr",
    status_code=200,
    operation_class=_FILE,
    responses=_RESPONSES,
    summary="Read the text in an image",
)
async def ocr(request: AnyRequest, services: NamedDependency[Services]) -> dict[str, Any]:
    """Return texts, scores (strings of two decimals) and boxes in pixels (strings)."""
    settings = services.settings
    options = OcrOptions(
        settings.ocr_min_box_score, settings.ocr_min_text_score, settings.ocr_max_resolution
    )
    async with services.intake.turn(request):
        try:
            _, photo = await _photo(request, services)
        except ImageError as error:
            return _unreadable(error)
        lines = await services.inference.read_text(photo, options)
    return {
        "result": {
            "texts": [line.text for line in lines],
            "scores": [f"{line.text_score:.2f}" for line in lines],
            "boxes": [_box(line, photo) for line in lines],
        }
    }


@post(
    "/clip/img",
    status_code=200,
    operation_class=_FILE,
    responses=_RESPONSES,
    summary="Embed an image",
)
async def clip_image(request: AnyRequest, services: NamedDependency[Services]) -> dict[str, Any]:
    """Return the embedding as strings of 16 decimals."""
    async with services.intake.turn(request):
        try:
            _, photo = await _photo(request, services)
        except ImageError as error:
            return _unreadable(error)
        return {"result": _numbers(await services.inference.embed_image(photo))}


@post("/clip/txt", status_code=200, responses=_RESPONSES, summary="Embed a text")
async def clip_text(
    data: JSONBody[ClipText], services: NamedDependency[Services]
) -> dict[str, Any]:
    """Return the embedding as strings of 16 decimals."""
    return {"result": _numbers(await services.inference.embed_text(data.text))}


@post(
    "/represent",
    status_code=200,
    operation_class=_FILE,
    responses=_RESPONSES,
    summary="Find the faces in an image",
)
async def represent(request: AnyRequest, services: NamedDependency[Services]) -> dict[str, Any]:
    """Return an embedding and a box for each face; found here or at `IMMICH_API`, see `FACES`."""
    async with services.intake.turn(request):
        try:
            image, photo = await _photo(request, services)
        except ImageError as error:
            return _unreadable(error)
        if services.settings.faces_by == "insightface":
            options = FaceOptions(_FACE_MODEL, _FACE_MIN_SCORE)
            answer = {FACES: faces_answer(await services.inference.find_faces(photo, options))}
        else:
            answer = await _elsewhere(image, request, services)
    try:
        faces = msgspec.convert(answer.get(FACES), list[_Face])
        result = [_represented(face) for face in faces]
    except msgspec.DecodeError as error:
        raise BadGateway(f"Immich's ML server (IMMICH_API) answered no faces: {error}.") from None
    return {**_FACES, "result": result}


async def _elsewhere(image: bytes, request: AnyRequest, services: Services) -> dict[str, Any]:
    """Have the faces found by Immich's ML server; its answer, unchecked."""
    entries = {
        FACES: {
            "detection": {"modelName": _FACE_MODEL, "options": {"minScore": _FACE_MIN_SCORE}},
            "recognition": {"modelName": _FACE_MODEL},
        }
    }
    services.immich_ml.check(entries)
    return await services.immich_ml.ask(entries, {"image": image}, request.headers)


def require_key(
    connection: ASGIConnection,  # type: ignore[type-arg]
    _: BaseRouteHandler,
) -> None:
    """Guard: the header ``api-key`` must be ``API_KEY``, compared in constant time.

    Raises:
        NotConfigured: ``API_KEY`` isn't set.
        NotAuthorizedException: another key, or none.
    """
    services: Services = connection.app.state.services
    expected = services.settings.api_key
    if not expected:
        raise NotConfigured("MT Photos' API is off. Set API_KEY to the key that MT Photos sends.")
    given = connection.headers.get("api-key", "")
    # Headers come decoded as Latin-1; a key in Chinese is UTF-8 in it.
    if not hmac.compare_digest(given.encode("latin-1"), expected.encode()):
        raise NotAuthorizedException("Invalid API key")


def router(max_body_bytes: int) -> Router:
    """Make MT Photos' routes, with bodies of up to `max_body_bytes`."""
    return Router(
        "/",
        route_handlers=[check, restart, ocr, clip_image, clip_text, represent],
        guards=[require_key],
        request_max_body_size=max_body_bytes,
        tags=["MT Photos"],
        security=MT_PHOTOS,
    )


async def _photo(request: AnyRequest, services: Services) -> tuple[bytes, Photo]:
    parts = await read_form(request)
    if "file" not in parts:
        raise Unprocessable("The part `file` is missing.")
    photo = await services.inference.decode(parts["file"])
    if max(photo.width, photo.height) > _MAX_SIDE:
        raise ImageError("height or width out of range")
    return parts["file"], photo


def _unreadable(error: ImageError) -> dict[str, Any]:
    return {"result": [], "msg": str(error)}


def _numbers(embedding: Embedding) -> list[str]:
    return [f"{number:.16f}" for number in embedding.tolist()]


def _box(line: Line, photo: Photo) -> dict[str, str]:
    xs = [x * photo.width for x in line.box[0::2]]
    ys = [y * photo.height for y in line.box[1::2]]
    sizes = {"x": min(xs), "y": min(ys), "width": max(xs) - min(xs), "height": max(ys) - min(ys)}
    return {name: str(round(size, 2)) for name, size in sizes.items()}


def _represented(face: _Face) -> dict[str, Any]:
    box = face.bounding_box
    embedding = np.array(msgspec.json.decode(face.embedding, type=list[float]))
    return {
        "embedding": (embedding / (np.linalg.norm(embedding) or 1.0)).tolist(),
        "facial_area": {
            "x": int(box.x1),
            "y": int(box.y1),
            "w": int(box.x2 - box.x1),
            "h": int(box.y2 - box.y1),
        },
        "face_confidence": face.score,
    }
