"""Searching on a streaming replica, for as long as it keeps up."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import asyncpg

from gateway.database import Queries, Row
from gateway.errors import DatabaseTooSlow, DatabaseUnavailable

log = logging.getLogger(__name__)

# What was deleted or locked this long ago is found no more, nor is what was uploaded since missing.
MAX_LAG_SECONDS = 5.0
_LOOK_EVERY_SECONDS = 1.0
_LOOK_SECONDS = 3.0
_AWAY_SECONDS = 5.0
_MARKS = 60

# Positions in the write-ahead log as bytes; the identifier is the cluster's from its initdb.
_PRIMARY = """
    SELECT (pg_current_wal_lsn() - '0/0')::bigint AS position,
           (SELECT system_identifier FROM pg_control_system()) AS cluster
"""
_REPLICA = """
    SELECT pg_is_in_recovery() AS follows, (pg_last_wal_replay_lsn() - '0/0')::bigint AS position,
           (SELECT system_identifier FROM pg_control_system()) AS cluster
"""


class Replica(Queries):
    """Reads from the replica; from the primary while the replica is away or too far behind.

    How far behind is measured by no clock but this process's: the replica is as fresh as the
    moment at which the primary was where the replica is now. So a replica that has lost its
    primary, and one whose primary can't be asked, are too far behind five seconds later.

    Args:
        replica: opened and closed with this.
        primary: its owner's to open and close.
    """

    def __init__(self, replica: Queries, primary: Queries) -> None:
        self._replica = replica
        self._primary = primary
        self._marks: deque[tuple[float, int]] = deque(maxlen=_MARKS)
        self._fresh_at: float | None = None
        self._reason: str | None = "it hasn't been looked at yet"
        self._used: bool | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str | None:
        """Why the primary is searched for the moment; None where the replica is."""
        if self._reason is not None:
            return self._reason
        if self._fresh_at is None:
            return "it hasn't been seen level with the primary yet"
        lag = asyncio.get_running_loop().time() - self._fresh_at
        if lag <= MAX_LAG_SECONDS:
            return None
        return f"it was last level with the primary {lag:.0f} s ago (at most {MAX_LAG_SECONDS:.0f})"

    async def open(self) -> None:
        """Start looking at the replica. It may be away."""
        await self._replica.open()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Let go of the replica."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        await self._replica.close()

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        """See `Queries`. What is too slow on the replica isn't tried on the primary as well."""
        if self.problem is None:
            try:
                return await self._replica.fetch(sql, *values)
            except asyncpg.SerializationError:
                log.info("a search on the replica was in the way of its recovery")
            except DatabaseTooSlow:
                raise
            except DatabaseUnavailable as error:
                self._lose(error.detail)
        return await self._primary.fetch(sql, *values)

    async def listen(
        self,
        channels: Sequence[str],
        *,
        heard: Callable[[str, str], None],
        listening: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        """See `Queries`. There is no LISTEN on a replica."""
        await self._primary.listen(channels, heard=heard, listening=listening, lost=lost)

    def _lose(self, reason: str) -> None:
        self._reason, self._fresh_at = reason, None

    async def _watch(self) -> None:
        while True:
            try:
                await self._look()
            except TimeoutError:
                self._lose(f"it didn't answer within {_LOOK_SECONDS:.0f} s")
            except DatabaseUnavailable as error:
                self._lose(error.detail)
            except asyncpg.PostgresError as error:
                self._lose(str(error))
            except Exception as error:  # a watcher that ends would leave the primary searched
                log.exception("the search replica couldn't be looked at")
                self._lose(f"looking at it failed ({type(error).__name__})")
            self._say()
            await asyncio.sleep(_LOOK_EVERY_SECONDS if self._reason is None else _AWAY_SECONDS)

    async def _look(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        primary = await self._ask_primary()
        async with asyncio.timeout(_LOOK_SECONDS):
            replica = await self._replica.fetch_one(_REPLICA)
        if primary is None or replica is None:
            return
        if not replica["follows"] or replica["position"] is None:
            self._lose("SEARCH_DB_URL names no streaming replica (or one that was promoted)")
        elif replica["cluster"] != primary["cluster"]:
            self._lose("SEARCH_DB_URL names a replica of another server than DB_URL's")
        else:
            self._reason = None
            self._marks.append((asked_at, primary["position"]))
            while self._marks and self._marks[0][1] <= replica["position"]:
                self._fresh_at = self._marks.popleft()[0]

    async def _ask_primary(self) -> Row | None:
        """None where it doesn't say, be it that it is busy: then the replica's time runs out."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                return await self._primary.fetch_one(_PRIMARY)
        except (TimeoutError, DatabaseUnavailable, asyncpg.PostgresError) as error:
            log.debug("the primary doesn't say where it is: %s", error)
            return None

    def _say(self) -> None:
        """Log when it changes which server is searched, and why."""
        used = (problem := self.problem) is None
        if used is self._used:
            return
        self._used = used
        if used:
            log.info("searching on the replica")
        else:
            log.warning("searching on the primary; the replica can't be used: %s", problem)
