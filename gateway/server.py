"""Serving the application: in the main thread until a signal, or in a thread beside others."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import uvicorn
from litestar import Litestar
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.intake import RETRY_AFTER_SECONDS
from indexer.settings import Settings

log = logging.getLogger(__name__)

_GRACE_SECONDS = 30
_START_SECONDS = 60.0
_NOT_STARTED = "The gateway did not start; its log says why."


class StartError(Exception):
    """The gateway can't be started; the message says why, or where to read it."""


class BindError(StartError):
    """The address can't be listened on; the message says why and what to change."""


async def _refuse(send: Any) -> None:
    body = b'{"status_code":503,"detail":"Too many connections at once. Ask again in a while."}'
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", str(RETRY_AFTER_SECONDS).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Protocol(H11Protocol):
    """HTTP with a limit on the time in which a request's head must arrive.

    uvicorn has one between requests only: who sends a head byte by byte, or nothing at all, would
    keep one of its connections for ever.
    """

    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, head_seconds: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_seconds = head_seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._is_answering():
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._head_seconds, self._give_up)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self._is_answering():
            self.transport.close()


class _Server(uvicorn.Server):
    def __init__(
        self, app: Litestar, settings: Settings, stopped: threading.Event | None = None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                self._answer,
                interface="asgi3",
                host=settings.host,
                port=settings.port,
                lifespan="on",
                # Who is local, and who is asking, is decided by the connection itself.
                proxy_headers=False,
                server_header=False,
                log_config=None,
                access_log=False,
                # h11 bounds what a request's head may take; httptools doesn't.
                http=partial(_Protocol, head_seconds=settings.max_pause_seconds),  # type: ignore[arg-type]
                ws="none",
                h11_max_incomplete_event_size=64 * 1024,
                # Longer than Immich keeps an idle connection, so that it never meets a closing one.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        self._app = app
        self._most_connections = settings.max_connections
        self._stopped = stopped

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Let the application answer, or refuse. uvicorn's own refusal doesn't say for how long."""
        if scope["type"] == "http" and len(self.server_state.connections) > self._most_connections:
            log.warning("refused: more than MAX_CONNECTIONS=%d", self._most_connections)
            await _refuse(send)
        else:
            await self._app(scope, receive, send)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what would never end by itself, then wait for the rest."""
        self._app.state["services"].events.end()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGINT and SIGTERM; return then, so that whoever called can stop the rest.

        uvicorn's own raises the signal again at the end, and SIGTERM kills the process there.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        if self._stopped and self._stopped.is_set():
            self.should_exit = True
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def make_server(app: Litestar, settings: Settings) -> uvicorn.Server:
    """Make a server; ``should_exit = True`` stops it from another thread."""
    return _Server(app, settings)


def serve(app: Litestar, settings: Settings, stopped: threading.Event | None = None) -> None:
    """Serve until SIGINT or SIGTERM, then return; requests that run get 30 s to end.

    For the main thread: only there can signals be caught.

    Args:
        stopped: set where a signal came before this was called.

    Raises:
        BindError
        StartError: the application didn't start; the log says why.
    """
    with _listening(settings) as listener:
        log.info("listening url=%s", _url(settings.host, listener))
        server = _Server(app, settings, stopped)
        _run(server, listener)
        if not server.started:
            raise StartError(_NOT_STARTED)


@contextmanager
def running(app: Litestar, settings: Settings) -> Iterator[str]:
    """Serve from a thread of its own, as long as the context lasts. Yields the URL.

    Raises:
        BindError
        StartError: the application didn't start; the log says why.
    """
    with _listening(settings) as listener:
        server = make_server(app, settings)
        thread = threading.Thread(target=_run, args=(server, listener), name="gateway", daemon=True)
        thread.start()
        try:
            _wait_until_started(server, thread)
            yield _url(settings.host, listener)
        finally:
            server.should_exit = True
            thread.join(_GRACE_SECONDS + 5)


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    # uvicorn's way to say that the application didn't start is to exit the process
    with suppress(SystemExit):
        server.run(sockets=[listener])


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise StartError(_NOT_STARTED)
        time.sleep(0.01)


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off (CPython's _set_nodelay);
    # socket.create_server() doesn't name it, and every answer then waits for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise BindError(
            f"Can't listen on {settings.host} port {settings.port}: {error.strerror or error}. "
            "Is another gateway (or Immich's ML server) running? Set HOST or PORT to change it."
        ) from None
    with listener:
        yield listener


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - shown, not bound
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
