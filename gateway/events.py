"""What happens in the index, as it happens: one LISTEN for all who watch, Server-Sent Events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

import msgspec
from litestar.exceptions import ServiceUnavailableException

from gateway.database import Queries
from indexer.listener import CHANNEL

log = logging.getLogger(__name__)

JOB_CHANNEL = "indexer_v1_events"

_MAX_VISITORS = 100
_HEARTBEAT_SECONDS = 15.0
# After this a browser connects again by itself, and is asked again who it is.
_STREAM_SECONDS = 600.0
# Many changes are one event.
_QUEUE_SECONDS = 1.0


class _Announced(msgspec.Struct):
    """A message of `indexer_v1.announce`."""

    state: str
    jobs: list[tuple[UUID, str]]


class JobEvent(msgspec.Struct):
    """What became of a photo's job: `running`, `done`, `retrying` or `dead`."""

    asset_id: UUID
    task: str
    state: str


@dataclass(eq=False)
class _Visitor:
    asset: UUID | None
    events: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(100))

    def tell(self, event: bytes | None) -> None:
        with contextlib.suppress(asyncio.QueueFull):  # it has gone, or will look again anyway
            self.events.put_nowait(event)


class Events:
    """Listens while somebody watches.

    - ``queue``: figures of the index have changed, perhaps others'; at most once a second.
    - ``job``: `JobEvent`, of the photo that is watched, and of no other.
    - ``resync``: something may have been missed: look again.
    """

    def __init__(self, database: Queries) -> None:
        self._database = database
        self._visitors: set[_Visitor] = set()
        self._listening: asyncio.Task[None] | None = None
        self._queue_told: asyncio.TimerHandle | None = None

    def watch(self, asset: UUID | None) -> AsyncIterator[bytes]:
        """Return a stream of Server-Sent Events.

        Args:
            asset: whose jobs to tell of; whoever asks may see this photo.

        Raises:
            ServiceUnavailableException: too many watch already.
        """
        if len(self._visitors) >= _MAX_VISITORS:
            raise ServiceUnavailableException(
                f"{_MAX_VISITORS} pages watch already; close one, or look again by hand."
            )
        return self._stream(_Visitor(asset))

    def end(self) -> None:
        """End all streams: a server that stops would wait for them."""
        for visitor in self._visitors:
            visitor.tell(None)

    async def close(self) -> None:
        """Stop listening."""
        self.end()
        task, self._listening = self._listening, None
        if task:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _stream(self, visitor: _Visitor) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        until = loop.time() + _STREAM_SECONDS
        self._visitors.add(visitor)
        try:
            if self._listening is None:
                self._listening = asyncio.create_task(
                    self._database.listen(
                        [CHANNEL, JOB_CHANNEL],
                        heard=self._heard,
                        listening=self._resync,
                        lost=lambda: None,
                    )
                )
            else:
                visitor.tell(_event("resync"))
            yield b"retry: 2000\n\n"
            while loop.time() < until:
                try:
                    event = await asyncio.wait_for(visitor.events.get(), _HEARTBEAT_SECONDS)
                except TimeoutError:
                    event = b": still here\n\n"
                if event is None:
                    return
                yield event
        finally:
            self._visitors.discard(visitor)
            if not self._visitors and self._listening:
                self._listening.cancel()
                self._listening = None

    def _heard(self, channel: str, payload: str) -> None:
        if self._queue_told is None:
            self._queue_told = asyncio.get_running_loop().call_later(
                _QUEUE_SECONDS, self._tell_of_queue
            )
        if channel != JOB_CHANNEL:
            return
        try:
            announced = msgspec.json.decode(payload, type=_Announced)
        except msgspec.DecodeError:
            log.warning("events: not understood on %s", channel)
            return
        watched = {visitor.asset for visitor in self._visitors}
        for asset, task in announced.jobs:
            if asset in watched:
                event = _event("job", JobEvent(asset, task, announced.state))
                for visitor in self._visitors:
                    if visitor.asset == asset:
                        visitor.tell(event)

    def _tell_of_queue(self) -> None:
        self._queue_told = None
        for visitor in self._visitors:
            visitor.tell(_event("queue"))

    def _resync(self) -> None:
        for visitor in self._visitors:
            visitor.tell(_event("resync"))


def _event(name: str, data: msgspec.Struct | None = None) -> bytes:
    content = b"{}" if data is None else msgspec.json.encode(data)
    return b"event: %s\ndata: %s\n\n" % (name.encode(), content)
