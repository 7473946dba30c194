"""Looking at the database again and again, whatever becomes of it meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import psycopg

from pg.connect import Connection, connect
from pg.migrate import MigrationError

log = logging.getLogger(__name__)


class Rounds:
    """Calls `look` in a thread of its own: at once, then every so often, until stopped.

    Args:
        name: of the thread, and in the log.
        url: of the database. It may be away.
        look: is given a new connection.
        seconds: between two looks.
        level: at which a database that is away is logged.

    Attributes:
        stopping: set when it is to end; for looks that take long.
    """

    def __init__(
        self,
        name: str,
        url: str,
        look: Callable[[Connection], None],
        seconds: float,
        level: int = logging.WARNING,
    ) -> None:
        self.stopping = threading.Event()
        self._name = name
        self._url = url
        self._look = look
        self._seconds = seconds
        self._level = level
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin with the first look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait for the look that is under way. Idempotent."""
        self.stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self.stopping.is_set():
            try:
                with connect(self._url) as connection:
                    self._look(connection)
            except (psycopg.Error, OSError, MigrationError) as error:
                log.log(self._level, "%s: %s", self._name, str(error).strip())
            except Exception:  # the thread must not end: nobody else looks
                log.exception("%s", self._name)
            self.stopping.wait(self._seconds)
