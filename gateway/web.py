"""The page's files: as they are in `gateway/page`, read once."""

from __future__ import annotations

import hashlib
import importlib.resources
from dataclasses import dataclass

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from gateway.auth import check_local
from gateway.errors import AnyRequest
from gateway.services import Services

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

# Nothing but our own files; no inline script, style or handler; no frame around us.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # asked for again each time, and answered by 304
    "vary": "Accept",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


def _read() -> dict[str, _File]:
    files = {}
    for file in importlib.resources.files("gateway").joinpath("page").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            files[file.name] = _File(content, _TYPES[suffix], etag)
    return files


_FILES = _read()


def wants_page(request: AnyRequest) -> bool:
    """Whether a browser asks for a page. Programs, Immich among them, accept anything or JSON."""
    accepted = request.headers.get("accept", "")
    return any(part.split(";")[0].strip().lower() == "text/html" for part in accepted.split(","))


def answer(name: str, request: AnyRequest, services: Services) -> Response[bytes]:
    """Return a file of the page.

    Raises:
        NotFoundException: there is none of this name.
        PermissionDeniedException: folder mode, and not from this computer.
    """
    if not services.settings.attached:
        check_local(request)
    file = _FILES.get(name)
    if file is None:
        raise NotFoundException("The page has no such file.")
    headers = {**_HEADERS, "etag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


@get("/page/{name:str}", include_in_schema=False)
async def page_file(
    name: FromPath[str], request: AnyRequest, services: NamedDependency[Services]
) -> Response[bytes]:
    """Answer with a script, the style sheet or the icon."""
    return answer(name, request, services)
