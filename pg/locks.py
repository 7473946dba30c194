"""Changing Immich's tables while Immich works on them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg

from pg.connect import Connection

T = TypeVar("T")

_TRIES = 20
_PAUSE_SECONDS = 1.0


class TablesLockedError(Exception):
    """A long transaction kept Immich's tables locked; nothing was changed."""


def when_unlocked(connection: Connection, change: Callable[[], T], first: str = "") -> T:
    """Make a change in a transaction of its own; try again while it waits for a lock for long.

    Who waits for a lock makes all who come later wait too, Immich that is: so each try waits for
    a second at most.

    Args:
        connection: no transaction open.
        change: what to do in it.
        first: a statement that may wait as long as it takes: no table is locked yet.

    Raises:
        TablesLockedError: after twenty tries.
    """
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        with contextlib.suppress(psycopg.errors.LockNotAvailable), connection.transaction():
            if first:
                connection.execute(first.encode())
            connection.execute("SET LOCAL client_min_messages = warning")
            connection.execute("SET LOCAL lock_timeout = '1s'")
            return change()
    raise TablesLockedError(
        "A long transaction in this database keeps Immich's tables locked; try again when it has"
        " ended (a backup or an upgrade of Immich?). Nothing was changed."
    )
