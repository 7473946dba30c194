"""What Litestar can't see for itself when it describes the API."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
    SecurityRequirement,
    SecurityScheme,
)

_DESCRIPTION = """
Immich's machine-learning server (`/predict`), MT Photos' AI API (`/ocr`, `/clip/…`), and the
search over what the indexer has read and seen.

Errors are JSON: `{"status_code": 422, "detail": "what to do"}`.
"""


class Problem(msgspec.Struct):
    """What went wrong, and what to do about it."""

    status_code: int
    detail: str


def config() -> OpenAPIConfig:
    """Describe the API at ``/schema/openapi.json``: no page, so no scripts from elsewhere."""
    return OpenAPIConfig(
        title="immich-indexer",
        version=_version(),
        description=_DESCRIPTION.strip(),
        use_handler_docstrings=True,
        path="/schema",
        render_plugins=[JsonRenderPlugin()],
        components=Components(
            security_schemes={
                "immich-key": SecurityScheme(
                    type="apiKey",
                    name="x-api-key",
                    security_scheme_in="header",
                    description="An API key of Immich, with the permission user.read.",
                ),
                "immich-token": SecurityScheme(type="http", scheme="bearer"),
                "immich-cookie": SecurityScheme(
                    type="apiKey", name="immich_access_token", security_scheme_in="cookie"
                ),
                "mt-photos-key": SecurityScheme(
                    type="apiKey",
                    name="api-key",
                    security_scheme_in="header",
                    description="The key in API_KEY.",
                ),
                "previews-key": SecurityScheme(
                    type="http", scheme="bearer", description="The key in PREVIEWS_KEY."
                ),
            }
        ),
    )


IMMICH_USER: list[SecurityRequirement] = [
    {"immich-key": []},
    {"immich-token": []},
    {"immich-cookie": []},
]
"""Security of the routes that show photos (in attached mode)."""

MT_PHOTOS: list[SecurityRequirement] = [{"mt-photos-key": []}]
"""Security of MT Photos' routes."""


PREVIEWS: list[SecurityRequirement] = [{"previews-key": []}]
"""Security of the previews for workers."""


def multipart_operation(
    *,
    required: Mapping[str, str] | None = None,
    optional: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
) -> type[Operation]:
    """Return an operation with a multipart body; for handlers that read it themselves.

    Args:
        required, optional, files: parts and their descriptions; files are optional too, unless
            there is nothing else.
    """
    required, optional, files = required or {}, optional or {}, files or {}
    properties = {
        name: Schema(type=OpenAPIType.STRING, description=text)
        for name, text in {**required, **optional}.items()
    }
    properties |= {
        name: Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, description=text)
        for name, text in files.items()
    }
    schema = Schema(
        type=OpenAPIType.OBJECT,
        properties=dict(properties),
        required=list(required) or list(files),
    )

    @dataclass
    class MultipartOperation(Operation):
        def __post_init__(self) -> None:
            self.request_body = RequestBody(
                required=True, content={"multipart/form-data": OpenAPIMediaType(schema=schema)}
            )

    return MultipartOperation


def _version() -> str:
    try:
        return importlib.metadata.version("immich-indexer")
    except importlib.metadata.PackageNotFoundError:  # run from the sources
        return "0"
