"""Wakes the worker: LISTEN by asyncpg in a thread of its own, and a clock that wakes it anyway.

NOTIFY only wakes; the queue is the truth. So a lost message costs a poll, never a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn
from uuid import uuid4

import asyncpg

log = logging.getLogger(__name__)

CHANNEL = "indexer_v1"
_PROBE_CHANNEL = "indexer_v1_probe"
_PROBE_SECONDS = 30.0
_ANSWER_SECONDS = 10.0
_MAX_BACKOFF_SECONDS = 30.0


class Wake:
    """A bell that several threads wait for: each hears each ring once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rings = 0

    def ring(self) -> None:
        """Wake everyone who waits, and everyone who comes to wait for the first time since."""
        with self._changed:
            self._rings += 1
            self._changed.notify_all()

    @property
    def rings(self) -> int:
        """How often it has rung; read it before looking at what the bell announces."""
        with self._changed:
            return self._rings

    def wait(self, heard: int, timeout: float) -> None:
        """Wait until it has rung more often than `heard`, or `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._rings > heard, timeout)


class Listener:
    """Rings the bell at every NOTIFY, and after every (re)connection.

    Args:
        url: of the database.
        wake: the bell.
        on_lost: called whenever the connection was lost, or couldn't be made.
    """

    def __init__(self, url: str, wake: Wake, on_lost: Callable[[], None] = lambda: None) -> None:
        self._url = url
        self._wake = wake
        self._on_lost = on_lost
        self._thread = threading.Thread(target=self._main, name="listener", daemon=True)
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self.listening = threading.Event()
        self.reconnects = 0

    def start(self) -> None:
        """Start listening; `listening` is set once it does."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and wait for the thread. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())
            self._thread.join()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._run())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _run(self) -> None:
        await listen(
            self._url,
            [CHANNEL],
            heard=lambda _channel, _payload: self._wake.ring(),
            listening=self._begin,
            lost=self._lose,
        )

    def _begin(self) -> None:
        self.listening.set()
        self._wake.ring()  # whatever was sent before we listened

    def _lose(self) -> None:
        self.listening.clear()
        self.reconnects += 1
        self._on_lost()


async def listen(
    url: str,
    channels: Sequence[str],
    *,
    heard: Callable[[str, str], None],
    listening: Callable[[], None],
    lost: Callable[[], None],
) -> None:
    """Listen until cancelled; after a lost connection, on a new one.

    A connection that went deaf without closing is found out by a message to itself.

    Args:
        heard: called with the channel and the payload of every message.
        listening: called after every (re)connection: whatever was sent before was missed.
        lost: called when the connection is lost, or can't be made.
    """
    backoff = 0.5
    while True:
        connected = False

        def begin() -> None:
            nonlocal connected
            connected = True
            listening()

        try:
            await _listen_once(url, channels, heard, begin)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            if connected:
                backoff = 0.5
            lost()
            log.warning("listener: %s: %s; again in %.1f s", type(error).__name__, error, backoff)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _MAX_BACKOFF_SECONDS)


async def _listen_once(
    url: str,
    channels: Sequence[str],
    heard: Callable[[str, str], None],
    listening: Callable[[], None],
) -> NoReturn:
    """Listen until the connection is lost, which raises."""
    connection = await asyncpg.connect(
        url,
        timeout=_ANSWER_SECONDS,
        command_timeout=_ANSWER_SECONDS,
        server_settings={"application_name": "immich-indexer listener"},
    )
    try:
        answers: asyncio.Queue[str] = asyncio.Queue()
        for channel in channels:
            await connection.add_listener(channel, lambda *message: heard(*message[2:]))
        probe = f"{_PROBE_CHANNEL}_{uuid4().hex[:8]}"  # nobody else's probes wake us
        await connection.add_listener(probe, lambda *message: answers.put_nowait(message[3]))
        closed = asyncio.Event()
        connection.add_termination_listener(lambda _: closed.set())
        listening()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closed.wait(), _PROBE_SECONDS)
                raise ConnectionError("the connection was closed")
            sent = uuid4().hex
            await connection.execute("SELECT pg_notify($1, $2)", probe, sent)
            async with asyncio.timeout(_ANSWER_SECONDS):
                while await answers.get() != sent:
                    pass
    finally:
        connection.terminate()
