"""Immich's own server, as one of its clients: asked with the caller's credentials, never others.

Nothing here goes anywhere but to ``IMMICH_URL``: paths are ours, and redirects aren't followed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import httpx
from litestar import Response
from litestar.types import ASGIApp, Receive, Scope, Send

from gateway import outgoing
from gateway.errors import AnyRequest, BadGateway, NotConfigured

log = logging.getLogger(__name__)

VIA = "immich-indexer"

_SLOW = httpx.Timeout(10.0, read=600.0)  # as long as compose/proxy waits for Immich
_QUICK = httpx.Timeout(10.0)
_MAX_ASSET_BYTES = 4_000_000

# RFC 9110, 7.6.1, and what a connection of our own has anew.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# Immich believes these of whoever stands next to it, and that is us: what anybody may have sent
# here isn't repeated to it.
_ORIGINS = (b"forwarded", b"x-forwarded-", b"x-real-ip")


class RefusedError(Exception):
    """Immich doesn't let these credentials read photos."""


class ImmichClient:
    """Connections to Immich that are kept open.

    Args:
        url: ``IMMICH_URL``; may be empty, then everything raises NotConfigured.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._client = outgoing.client(
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=32),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def asset(self, asset_id: UUID, headers: dict[str, str]) -> bytes | None:
        """Return ``GET /api/assets/{id}``: JSON of an AssetResponseDto; None: not theirs, or gone.

        Raises:
            RefusedError: nothing else will be answered either.
            BadGateway: no answer, or one that isn't Immich's.
        """
        url = f"{self._url}/api/assets/{asset_id}"
        try:
            answer = await self._client.get(url, headers=headers, timeout=_QUICK)
        except httpx.HTTPError as error:
            raise BadGateway(f"Immich doesn't answer ({type(error).__name__}).") from error
        if answer.status_code in {400, 404}:
            return None
        if answer.status_code in {401, 403}:
            raise RefusedError
        if answer.status_code != 200 or len(answer.content) > _MAX_ASSET_BYTES:
            raise BadGateway(f"Immich answered {answer.status_code} for an asset.")
        return answer.content

    async def pass_on(self, request: AnyRequest, body: bytes) -> Response[Any]:
        """Send a request to Immich as it came, and the answer back as it comes.

        Raises:
            NotConfigured: ``IMMICH_URL`` isn't set, or leads back to here.
            BadGateway: Immich doesn't answer.
        """
        if any(VIA in via for via in request.headers.getall("via", [])):
            raise NotConfigured(
                "IMMICH_URL leads back to this gateway. Set it to Immich's own server "
                "(http://immich-server:2283), not to the proxy in front of it."
            )
        # Not the client's own request: it would add headers, and an encoding nobody asked for.
        onward = httpx.Request(
            "POST",
            httpx.URL(
                f"{self._url}{request.url.path}", query=request.scope["query_string"] or None
            ),
            headers=_onward_headers(request),
            content=body,
            extensions={"timeout": _SLOW.as_dict()},
        )
        try:
            answer = await self._client.send(onward, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("immich unreachable url=%s error=%r", self._url, error)
            raise BadGateway(
                f"Immich at {self._url} (IMMICH_URL) doesn't answer ({type(error).__name__})."
            ) from None
        return _PassedOn(answer)


class _PassedOn(Response[Any]):
    """Immich's answer: status, headers and bytes as they are, compressed or not."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(None, status_code=answer.status_code)
        self._answer = answer

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        answer = self._answer

        async def send_on(_: Scope, __: Receive, send: Send) -> None:
            try:
                await send(
                    {
                        "type": "http.response.start",
                        "status": answer.status_code,
                        "headers": [
                            *_end_to_end(answer.headers.raw),
                            (b"x-search-by", b"immich"),
                        ],
                    }
                )
                async for chunk in answer.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                await answer.aclose()

        return send_on


def _onward_headers(request: AnyRequest) -> list[tuple[bytes, bytes]]:
    peer = request.client.host if request.client else "unknown"
    return [
        *(
            (name, value)
            for name, value in _end_to_end(request.scope["headers"])
            if name not in {b"host", b"content-length", b"expect"} and not name.startswith(_ORIGINS)
        ),
        (b"via", f"1.1 {VIA}".encode()),
        (b"x-forwarded-for", peer.encode()),
    ]


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    pairs = [(name.lower(), value) for name, value in headers]
    named = (value.decode("latin-1") for name, value in pairs if name == b"connection")
    dropped = _HOP_BY_HOP.union(
        option.strip().lower() for options in named for option in options.split(",")
    )
    return [(name, value) for name, value in pairs if name.decode("latin-1") not in dropped]
