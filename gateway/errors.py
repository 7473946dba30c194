"""What callers are told when something can't be done, and by which status.

==== =====================================================================================
400  no input, or an image that can't be read
401  no credentials, or wrong ones
403  not from here, or not yours
408  the body came too slowly
413  larger than the limits
422  a request that makes no sense, or asks for a model that isn't served
500  a model failed
501  needs a setting that isn't set
502  a server behind this one answered nonsense
503  for the moment: a model's weights, the database or Immich is away
==== =====================================================================================

Immich treats all of them alike: the job fails, and the log shows the status.
"""

from __future__ import annotations

import logging
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, ServiceUnavailableException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.exceptions.responses import create_exception_response
from litestar.types import ExceptionHandlersMap

from gateway.access_log import shown_path
from indexer.models.types import ImageError, ModelUnavailable

log = logging.getLogger(__name__)

AnyRequest = Request[Any, Any, Any]


class Unprocessable(HTTPException):
    """The request makes no sense; the detail says why."""

    status_code = 422


class NotConfigured(HTTPException):
    """Needs a setting; the detail says which."""

    status_code = 501


class BadGateway(HTTPException):
    """A server behind this one can't be reached or can't be understood."""

    status_code = 502


class DatabaseUnavailable(ServiceUnavailableException):
    """PostgreSQL, or our schema in it, is away; the detail says what to do."""


class DatabaseTooSlow(DatabaseUnavailable):
    """A statement was cancelled, as it took too long."""


class InferenceError(Exception):
    """A model failed on this input. The message is for people and has no contents in it."""


def _answer(status: int, detail: str) -> Response[dict[str, Any]]:
    return Response({"status_code": status, "detail": detail}, status_code=status)


def _image_error(_: AnyRequest, error: ImageError) -> Response[dict[str, Any]]:
    return _answer(400, f"The image can't be read: {error}")


def _model_unavailable(_: AnyRequest, error: ModelUnavailable) -> Response[dict[str, Any]]:
    return _answer(503, str(error))


def _inference_failed(_: AnyRequest, error: InferenceError) -> Response[dict[str, Any]]:
    return _answer(500, str(error))


def _too_large(request: AnyRequest, error: RequestEntityTooLarge) -> Response[Any]:
    if error.detail != RequestEntityTooLarge.detail:
        return create_exception_response(request, error)
    limit = request.route_handler.resolve_request_max_body_size()  # Litestar doesn't say it
    return _answer(
        413,
        f"The body is larger than the {limit:,} bytes that are taken here; with pictures, "
        "MAX_IMAGE_BYTES says how many.",
    )


def _too_deep(_: AnyRequest, __: RecursionError) -> Response[dict[str, Any]]:
    # Nothing of ours recurses but the decoding of what was sent.
    return _answer(422, "The JSON is nested too deeply.")


def _unexpected(request: AnyRequest, error: Exception) -> Response[dict[str, Any]]:
    log.error(
        "request failed method=%s path=%s",
        request.method,
        shown_path(request.scope),
        exc_info=error,
    )
    return _answer(500, "Something unexpected failed; the gateway's log says what.")


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    HTTPException: create_exception_response,
    RequestEntityTooLarge: _too_large,
    ImageError: _image_error,
    ModelUnavailable: _model_unavailable,
    InferenceError: _inference_failed,
    RecursionError: _too_deep,
    Exception: _unexpected,
}
