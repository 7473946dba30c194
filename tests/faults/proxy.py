"""A network between clients and PostgreSQL that can fail: deaf, cut, slow, or away.

After psycopg's own `fix_proxy`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

LISTENER = b"immich-indexer listener"
"""What the listener calls itself in the first packet of its connection."""


class Proxy:
    """Passes everything on to the server of `url`.

    Args:
        url: of the database; `self.url` leads to the same through here.

    Attributes:
        delay: seconds that every packet waits.
    """

    def __init__(self, url: str) -> None:
        self.delay = 0.0
        self.lead_to(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        parts = urlsplit(url)
        port = self._listener.getsockname()[1]
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        self.url = parts._replace(netloc=f"{user}127.0.0.1:{port}").geturl()
        self._passing = threading.Event()
        self._passing.set()
        self._away = False
        self._sockets: list[socket.socket] = []
        self._deafened: set[socket.socket] = set()
        self._clients: list[tuple[bytes, socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lead_to(self, url: str) -> None:
        """New connections go to this server, as after a fail-over."""
        parts = urlsplit(url)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 5432)

    def go_deaf(self) -> None:
        """Connections stay open, and nothing comes through any more, nor on new ones."""
        self._passing.clear()

    def hear_again(self) -> None:
        """What was held back comes through."""
        self._passing.set()

    def deafen(self, client: bytes) -> int:
        """Nothing comes through any more on the present connections of a client; others work.

        Args:
            client: what it says in its first packet, e.g. its application_name.

        Returns:
            How many connections it has.
        """
        mine = [pair for hello, *pair in self._clients if client in hello]
        self._deafened.update(one for pair in mine for one in pair)
        return len(mine)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Cut all connections and take no new ones meanwhile."""
        self._away = True
        self.cut()
        yield
        self._away = False

    def cut(self) -> None:
        """End all connections."""
        self._clients.clear()
        while self._sockets:
            one = self._sockets.pop()
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        self._listener.close()
        self._passing.set()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    if self._away:
                        raise ConnectionRefusedError
                    server = socket.create_connection(self._server)
                except OSError:
                    client.close()
                    continue
                self._sockets += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(
                        target=self._pump, args=(*pair, pair[0] is client), daemon=True
                    ).start()

    def _pump(self, source: socket.socket, target: socket.socket, from_client: bool) -> None:
        known = False
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                # asyncpg and libpq may ask for encryption first: eight bytes, no name in them.
                if from_client and not known and len(data) > 8:
                    known = True
                    self._clients.append((data, source, target))
                if self.delay:
                    time.sleep(self.delay)
                self._passing.wait()
                if source not in self._deafened:
                    target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
