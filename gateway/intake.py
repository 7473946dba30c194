"""Who is let in, in which order, and how long a body may take to arrive.

Immich asks once: a request that is refused is a photo that stays without its result. So requests
with a picture wait for their turn, unread, in the order they came; only past what any Immich sends
at once are they refused, with the time after which to ask again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
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
from indexer.settings import Settings

RETRY_AFTER_SECONDS = 10

# A person's search is a small body: it never waits behind pictures. No request without a picture
# may be larger: the longest query there can be takes an eighth of it, so nobody needs to set it.
SMALL_BYTES = 64 * 1024


class Intake:
    """Turns for requests with large bodies, first come, first served.

    As many at once as MAX_REQUESTS says, and no more bytes than two of the largest images have:
    who sends many large ones at the same time takes no more memory for it.
    """

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_requests
        self._most_waiting = settings.max_waiting_requests
        self._most_seconds = settings.max_wait_seconds
        self._largest = settings.max_image_bytes
        self._sizes: list[int] = []  # of those who have a turn
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    @asynccontextmanager
    async def turn(self, request: AnyRequest) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the context lasts. Its body isn't read before.

        Raises:
            ServiceUnavailableException: too many wait already, or it had no turn in time.
        """
        length = request.content_length
        if length is not None and length <= SMALL_BYTES:
            yield
            return
        size = self._largest if length is None else min(length, self._largest)
        await self._wait_for_turn(size)
        try:
            yield
        finally:
            self._sizes.remove(size)
            self._give_turns()

    async def _wait_for_turn(self, size: int) -> None:
        free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        mine = (free, size)
        self._waiting.append(mine)
        self._give_turns()
        if not free.done() and len(self._waiting) > self._most_waiting:
            self._waiting.remove(mine)
            raise self._refusal(f"{len(self._waiting)} requests are waiting (MAX_WAITING_REQUESTS)")
        try:
            async with asyncio.timeout(self._most_seconds):
                await free
        except BaseException as error:
            if mine in self._waiting:
                self._waiting.remove(mine)
            elif not free.cancelled():  # its turn came at the same moment
                self._sizes.remove(size)
            self._give_turns()
            if isinstance(error, TimeoutError):
                raise self._refusal(
                    f"it had no turn within {self._most_seconds:g} s (MAX_WAIT_SECONDS)"
                ) from None
            raise

    def _give_turns(self) -> None:
        """To the first in the queue, as long as there is room for it."""
        while self._waiting:
            free, size = self._waiting[0]
            if not free.cancelled():
                if len(self._sizes) >= self._most:
                    return
                if sum(self._sizes) + size > 2 * self._largest:
                    return
                self._sizes.append(size)
                free.set_result(None)
            self._waiting.popleft()

    @staticmethod
    def _refusal(why: str) -> ServiceUnavailableException:
        return ServiceUnavailableException(
            f"Too much to do at once: {why}. Ask again in a while.",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )


def timely(settings: Settings) -> Callable[[ASGIApp], ASGIApp]:
    """Make ASGI middleware that answers 408 to a body that comes too slowly, or stops coming."""

    def middleware(app: ASGIApp) -> ASGIApp:
        async def hurried(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            await app(scope, _soon(receive, settings), send)

        return hurried

    return middleware


def _soon(receive: Receive, settings: Settings) -> Receive:
    body_seconds, pause_seconds = settings.max_body_seconds, settings.max_pause_seconds
    deadline: float | None = None
    complete = False

    async def receive_soon() -> HTTPReceiveMessage | WebSocketReceiveMessage:
        nonlocal deadline, complete
        if complete:  # all that can come is that the client goes
            return await receive()
        now = asyncio.get_running_loop().time()
        deadline = deadline or now + body_seconds
        try:
            async with asyncio.timeout_at(min(deadline, now + pause_seconds)):
                message = await receive()
        except TimeoutError:
            raise HTTPException(
                status_code=408,
                detail=f"The body did not arrive within {body_seconds:g} s (MAX_BODY_SECONDS), "
                f"or stopped coming for {pause_seconds:g} s (MAX_PAUSE_SECONDS).",
            ) from None
        complete = not message.get("more_body", False)
        return message

    return receive_soon
