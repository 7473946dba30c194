"""The gateway's connections to PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import asyncpg

from gateway.errors import DatabaseTooSlow, DatabaseUnavailable
from indexer.listener import listen
from pg.connect import async_pool

log = logging.getLogger(__name__)

Row = Any
"""An ``asyncpg.Record``: values by column name."""

_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # of a statement begun on a connection that is just going
)
_REFUSED = (
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
_NOT_MIGRATED = (
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedObjectError,
)


class Queries(Protocol):
    """What the routes need of a database; whoever inherits it gets `fetch_one` from `fetch`."""

    async def open(self) -> None:
        """Get ready. The server may be away."""

    async def close(self) -> None:
        """Let go of every connection."""

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        """Run a statement and return its rows.

        Raises:
            DatabaseUnavailable: no answer to be had; says what to do.
        """

    async def fetch_one(self, sql: str, *values: object) -> Row | None:
        """Run a statement and return its first row, or None."""
        rows = await self.fetch(sql, *values)
        return rows[0] if rows else None

    async def listen(
        self,
        channels: Sequence[str],
        *,
        heard: Callable[[str, str], None],
        listening: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        """Listen on a connection of its own until cancelled; see `indexer.listener.listen`."""


class Database(Queries):
    """A pool of connections, made when first needed.

    Args:
        url: ``postgresql://user:password@host:port/name``.
        seconds: a statement that takes longer is cancelled.
        names: the settings that say where it is, for messages.
        log_failures: its being away is worth a line in the log each time.
    """

    def __init__(
        self,
        url: str,
        *,
        seconds: float = 30.0,
        names: str = "DB_URL or the DB_* variables",
        log_failures: bool = True,
    ) -> None:
        self._url = url
        self._names = names
        self._log_failures = log_failures
        self._seconds = seconds
        self._pool: asyncpg.Pool | None = None

    async def open(self) -> None:
        """Make the pool, without connecting: ``/predict`` works while PostgreSQL is away.

        Raises:
            UrlError: not a PostgreSQL URL.
        """
        self._pool = await async_pool(self._url, min_size=0)

    async def close(self) -> None:
        """Close the pool; connections in use get five seconds."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), timeout=5.0)
        except TimeoutError:
            pool.terminate()

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        """See `Queries`. Don't send what mustn't run twice: a lost connection is tried again."""
        try:
            return await self._fetch(sql, *values)
        except _LOST:
            # Pooled connections from before a restart of the server fail at their next use.
            log.info("database connection lost, trying once more on a new one")
            if self._pool is not None:
                await self._pool.expire_connections()
        try:
            return await self._fetch(sql, *values)
        except _LOST as error:
            raise self._unavailable(error) from error

    async def listen(
        self,
        channels: Sequence[str],
        *,
        heard: Callable[[str, str], None],
        listening: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        """See `Queries`."""
        await listen(self._url, channels, heard=heard, listening=listening, lost=lost)

    async def _fetch(self, sql: str, *values: object) -> list[Row]:
        if self._pool is None:
            raise DatabaseUnavailable("The gateway is starting or stopping.")
        try:
            rows: list[Row] = await self._pool.fetch(sql, *values, timeout=self._seconds)
        except _REFUSED as error:
            raise self._unavailable(error) from error
        except _NOT_MIGRATED as error:
            raise DatabaseUnavailable(
                f"The database isn't ready for this version ({error}): run `immich-indexer "
                "migrate`, or start a worker, which does it."
            ) from error
        except (TimeoutError, asyncpg.QueryCanceledError) as error:
            raise DatabaseTooSlow(
                f"PostgreSQL took longer than {self._seconds:.0f} s, or is out of reach."
            ) from error
        return rows

    def _unavailable(self, error: BaseException) -> DatabaseUnavailable:
        reason = str(error) or type(error).__name__
        if self._log_failures:
            log.warning("database unavailable reason=%r", reason)
        return DatabaseUnavailable(
            f"PostgreSQL can't be used: {reason}. Is it running, and are {self._names} right? "
            "`immich-indexer doctor` says more."
        )


class NoDatabase(Queries):
    """In place of a database where the gateway was started without one."""

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def fetch(self, sql: str, *values: object) -> list[Row]:  # noqa: ARG002
        """Always raises DatabaseUnavailable."""
        raise DatabaseUnavailable("This gateway runs without a database; set DB_URL to search.")

    async def listen(
        self,
        channels: Sequence[str],
        *,
        heard: Callable[[str, str], None],
        listening: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        """Nothing will ever be heard."""
