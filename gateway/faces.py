"""Tasks that aren't done here, such as faces, passed on to Immich's own ML server."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec
from litestar import Response
from litestar.exceptions import HTTPException

from gateway import outgoing
from gateway.errors import BadGateway, NotConfigured, Unprocessable
from gateway.forms import write_form
from gateway.immich_ml import FACES, Entries
from gateway.inference import WAIT_SECONDS

log = logging.getLogger(__name__)

# Where both are told to pass on to each other, a request would go round for ever.
_PASSED_ON = "x-passed-on-by"
_PASSED_ON_BY = "immich-indexer"

_REQUEST_HEADERS = ("content-type", "accept", "accept-encoding", "accept-language", "user-agent")
_ANSWER_HEADERS = ("content-type", "content-encoding")


class ImmichMl:
    """Immich's own ML server, at ``IMMICH_API``; perhaps not set.

    Args:
        faces: whether faces are passed on too.
    """

    def __init__(self, url: str, *, faces: bool) -> None:
        self._url = url.rstrip("/")
        self._faces = faces
        self._client = outgoing.client(
            # A container that restarts is away for a moment, and Immich asks only once.
            transport=httpx.AsyncHTTPTransport(retries=3),
            timeout=httpx.Timeout(WAIT_SECONDS, connect=5.0),
        )

    @property
    def configured(self) -> bool:
        """True where ``IMMICH_API`` is set."""
        return bool(self._url)

    async def pass_on(self, headers: Mapping[str, str], body: bytes) -> Response[bytes]:
        """Send a request to ``/predict`` there as it is, and give its answer back as it is.

        Raises:
            BadGateway: no answer.
        """
        kept = {name: headers[name] for name in _REQUEST_HEADERS if name in headers}
        status, answer, content = await self._post(kept, body, headers)
        return Response(
            content,
            status_code=status,
            media_type=answer.get("content-type", "application/octet-stream"),
            headers={name: answer[name] for name in _ANSWER_HEADERS[1:] if name in answer},
        )

    async def ask(
        self, entries: Entries, parts: Mapping[str, bytes], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        """Ask for some tasks of a request and return the decoded answer.

        Args:
            entries: the tasks.
            parts: the input: ``image``, ``text`` or both.
            headers: of the request that this is for.

        Raises:
            BadGateway: no answer, an error, or nothing that can be understood.
        """
        body, content_type = write_form({"entries": msgspec.json.encode(entries), **parts})
        status, _, content = await self._post({"content-type": content_type}, body, headers)
        if not 200 <= status < 300:
            raise BadGateway(
                f"Immich's ML server (IMMICH_API) answered {status} for {', '.join(entries)}."
            )
        try:
            return msgspec.json.decode(content, type=dict[str, Any])
        except msgspec.DecodeError:
            raise BadGateway("Immich's ML server (IMMICH_API) answered no JSON object.") from None

    def check(self, tasks: Entries) -> None:
        """Refuse what can't be passed on, with a word on what to do.

        Raises:
            NotConfigured: faces, and ``FACES`` is off or ``IMMICH_API`` isn't set.
            Unprocessable: unknown tasks.
        """
        if FACES in tasks and not (self._faces and self.configured):
            raise NotConfigured(
                "Faces are not recognised here. Set IMMICH_API to the URL of Immich's own "
                "machine-learning server (http://immich-machine-learning:3003) to pass them on, "
                "or FACES=insightface to find them here, or add that server to the "
                "machine-learning URLs in Immich's settings."
            )
        if self.configured:
            return
        raise Unprocessable(
            f"Unknown task {', '.join(sorted(tasks))}; clip and ocr are served here, and others "
            "are passed on to IMMICH_API where that is set."
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _post(
        self, headers: Mapping[str, str], body: bytes, received: Mapping[str, str]
    ) -> tuple[int, httpx.Headers, bytes]:
        if received.get(_PASSED_ON) == _PASSED_ON_BY:
            raise HTTPException(
                status_code=508,
                detail="IMMICH_API leads back here; set it to Immich's own ML server.",
            )
        try:
            async with self._client.stream(
                "POST",
                f"{self._url}/predict",
                content=body,
                # identity, unless the caller said what it can take: the bytes go back undecoded
                headers={"accept-encoding": "identity", **headers, _PASSED_ON: _PASSED_ON_BY},
            ) as answer:
                content = b"".join([chunk async for chunk in answer.aiter_raw()])
                return answer.status_code, answer.headers, content
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("immich ml unreachable url=%s error=%r", self._url, error)
            raise BadGateway(
                f"Immich's ML server at {self._url} (IMMICH_API) doesn't answer "
                f"({type(error).__name__}). Is it running, and can it be reached from here?"
            ) from None
