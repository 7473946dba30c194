"""Who is let in, in which order, and how long a body may take to arrive.

Immich asks once: a request that is refused is a photo that stays without its result. So requests
with a picture wait for their turn, unread, in the order they came; only past what any Immich sends
at once are they refused, with the time after which to ask again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, ServiceUnavailableException
from litestar.types import (
    ASGIApp,
    HTTPReceiveMessage,
    Receive,
    Scope,
    Send,
    WebSocketReceiveMessage,
)

from gateway.errors import AnyRequest

# As many pictures as there may be in memory, in files and decoded; a full batch for CLIP.
_AT_ONCE = 16
_MAX_WAITING = 256
# With the inference after it, below the 300 s that Immich waits for an answer.
_WAIT_SECONDS = 240.0
_RETRY_AFTER_SECONDS = 10

# A person's search is a small body: it never waits behind pictures.
_SMALL_BYTES = 64 * 1024

_BODY_SECONDS = 120.0
_PAUSE_SECONDS = 20.0


class Intake:
    """Turns for requests with large bodies, first come, first served."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

    @asynccontextmanager
    async def turn(self, request: AnyRequest) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the context lasts. Its body isn't read before.

        Raises:
            ServiceUnavailableException: too many wait already, or it had no turn in time.
        """
        length = request.content_length
        if length is not None and length <= _SMALL_BYTES:
            yield
            return
        if self._waiting >= _MAX_WAITING:
            raise self._refusal(f"{self._waiting} requests are waiting")
        self._waiting += 1
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise self._refusal(f"it had no turn within {_WAIT_SECONDS:.0f} s") from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()

    @staticmethod
    def _refusal(why: str) -> ServiceUnavailableException:
        return ServiceUnavailableException(
            f"Too much to do at once: {why}. Ask again in a while.",
            headers={"Retry-After": str(_RETRY_AFTER_SECONDS)},
        )


def timely(app: ASGIApp) -> ASGIApp:
    """ASGI middleware: a body that comes too slowly, or stops coming, is refused with 408."""

    async def hurried(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        deadline: float | None = None
        complete = False

        async def receive_soon() -> HTTPReceiveMessage | WebSocketReceiveMessage:
            nonlocal deadline, complete
            if complete:  # all that can come is that the client goes
                return await receive()
            now = asyncio.get_running_loop().time()
            deadline = deadline or now + _BODY_SECONDS
            try:
                async with asyncio.timeout_at(min(deadline, now + _PAUSE_SECONDS)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    status_code=408,
                    detail=f"The body did not arrive within {_BODY_SECONDS:.0f} s, or stopped "
                    f"coming for {_PAUSE_SECONDS:.0f} s.",
                ) from None
            complete = not message.get("more_body", False)
            return message

        await app(scope, receive_soon, send)

    return hurried
