"""One line in the log for each request, without what was sent: no query string, no body."""

from __future__ import annotations

import logging
import time

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

# Asked every few seconds by Immich, Docker, Kubernetes and Prometheus, or for every photo.
_QUIET = frozenset(
    {
        "/ping",
        "/{ml_key}/ping",
        "/health",
        "/health/live",
        "/health/ready",
        "/metrics",
        "/previews/{asset_id}",
    }
)


def shown_path(scope: Scope) -> str:
    """Path of a request for a log: no key (``ML_KEY``, right or wrong), no line breaks."""
    path = scope["path"]
    if "ml_key" in scope.get("path_params", {}):
        path = "/***/" + path.lstrip("/").partition("/")[2]
    return path.encode("unicode_escape").decode()


def access_log(app: ASGIApp) -> ASGIApp:
    """ASGI middleware: method, path, status and milliseconds of every request."""

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0  # none was sent: the client has gone, or the server stops

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, noting)
        finally:
            quiet = scope.get("path_template") in _QUIET and status < 400
            log.log(
                logging.DEBUG if quiet else logging.INFO,
                "request method=%s path=%s status=%d ms=%.1f",
                scope["method"],
                shown_path(scope),
                status,
                (time.perf_counter() - started) * 1000,
            )

    return logged
