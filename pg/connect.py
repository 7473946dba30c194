"""Connections: psycopg where a worker thread does batches, asyncpg where the code is asynchronous.

All of them call themselves ``immich-indexer`` in ``pg_stat_activity``, wait ten seconds at most to
be connected, and carry pgvector's types where the extension is installed: ``pgvector.Vector`` and
``HalfVector`` (``to_numpy()``) come out, and go in, in binary.

No password gets into a message: a URL whose password would be read as a part of the host name is
refused before a driver sees it and quotes it.
"""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pgvector.asyncpg
import psycopg
from pgvector.psycopg.halfvec import register_halfvec_info
from pgvector.psycopg.vector import register_vector_info
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.types import TypeInfo
from psycopg_pool import ConnectionPool

logger = logging.getLogger(__name__)

APPLICATION_NAME = "immich-indexer"
CONNECT_SECONDS = 10

Connection = psycopg.Connection[tuple[Any, ...]]

_PARAMETERS: dict[str, Any] = {
    "application_name": APPLICATION_NAME,
    "connect_timeout": CONNECT_SECONDS,
    # A worker that waits for jobs notices within a minute that the database's machine is gone.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # the same, where something was sent and isn't acknowledged
}

# A client that froze, or whose machine went, in the middle of a transaction would hold its locks
# until the server's own keepalives notice, after hours: Immich would wait for them.
_IDLE_IN_TRANSACTION = "SET idle_in_transaction_session_timeout = '30s'"

_VECTOR_SCHEMA = (
    "SELECT n.nspname FROM pg_catalog.pg_extension e"
    " JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'"
)


class UrlError(ValueError):
    """This isn't the URL of a PostgreSQL database; the message doesn't quote it."""


class UnreachableError(ConnectionError):
    """No connection after a long wait; the message says to where, why, and what to check."""


def address(url: str, variable: str = "DB_URL") -> str:
    """``user@host:port/database`` of a URL, for messages: no password.

    Args:
        variable: the setting that the URL is from, for messages.

    Raises:
        UrlError: not a PostgreSQL URL, or one that a driver would misread.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise UrlError(
            f"{variable} must look like postgresql://user:password@host:5432/database; it begins "
            "otherwise."
        )
    hint = (
        "In the user's name and the password, write @ as %40, / as %2F, : as %3A, ? as %3F, # as "
        "%23, % as %25 and a space as %20, or give them as DB_USERNAME and DB_PASSWORD."
    )
    try:
        parts = conninfo_to_dict(url)
        urlsplit(url)  # asyncpg reads it with this
    except (psycopg.ProgrammingError, ValueError):
        raise UrlError(f"{variable} can't be read as a URL. {hint}") from None
    others = [str(value) for name, value in parts.items() if name not in ("user", "password")]
    if any(sign.isspace() for sign in url):
        raise UrlError(f"{variable} has a space or a line break in it. {hint}")
    if "#" in url or "@" in url.partition("?")[2] or any("@" in value for value in others):
        raise UrlError(f"{variable} has an @ or # too many, or a / or ? before the @. {hint}")
    ports = str(parts.get("port", 5432))
    if not all(
        0 < int(port) < 65536 if port.isdecimal() else not port for port in ports.split(",")
    ):
        raise UrlError(f"The port in {variable} must be a number from 1 to 65535. {hint}")
    user = f"{parts['user']}@" if "user" in parts else ""
    return f"{user}{parts.get('host', 'localhost')}:{ports}/{parts.get('dbname', '')}"


def connect(url: str, *, autocommit: bool = True, **parameters: str | int) -> Connection:
    """Open a psycopg connection.

    Args:
        url: ``postgresql://…``.
        autocommit: every statement is a transaction of its own unless
            ``connection.transaction()`` says otherwise.
        parameters: more of libpq's, e.g. ``options="-c statement_timeout=5000"``.

    Raises:
        UrlError: not a PostgreSQL URL.
        psycopg.OperationalError: can't be reached, or refuses.
    """
    address(url)
    connection = psycopg.connect(url, autocommit=autocommit, **{**_PARAMETERS, **parameters})
    try:
        _configure(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: Connection) -> None:
    with connection.transaction():
        connection.execute(_IDLE_IN_TRANSACTION)
    register_vectors(connection)


def register_vectors(connection: Connection) -> None:
    """Teach a connection pgvector's types, as far as they are installed.

    `connect` and `pool` do; call it again after a CREATE EXTENSION vector.
    """
    with connection.transaction():
        row = connection.execute(_VECTOR_SCHEMA).fetchone()
    if row is None:
        return
    vector = TypeInfo.fetch(connection, sql.Identifier(row[0], "vector"))
    halfvec = TypeInfo.fetch(connection, sql.Identifier(row[0], "halfvec"))
    if vector:
        register_vector_info(connection, vector)
    if halfvec:
        register_halfvec_info(connection, halfvec)


def pool(
    url: str, *, min_size: int = 1, max_size: int = 4, autocommit: bool = True
) -> ConnectionPool[Connection]:
    """A pool of psycopg connections for worker threads, open; a dead one is replaced on use.

    Doesn't wait for the database: ``pool.connection()`` does.

    Raises:
        UrlError: not a PostgreSQL URL.
    """
    address(url)
    return ConnectionPool(
        url,
        connection_class=Connection,
        kwargs={**_PARAMETERS, "autocommit": autocommit},
        min_size=min_size,
        max_size=max_size,
        configure=_configure,
        check=ConnectionPool.check_connection,
        open=True,
        name=APPLICATION_NAME,
    )


async def async_pool(url: str, *, min_size: int = 1, max_size: int = 8) -> asyncpg.Pool:
    """A pool of asyncpg connections; the caller closes it.

    Raises:
        UrlError: not a PostgreSQL URL.
        OSError, TimeoutError, asyncpg.PostgresError: can't be reached, or refuses.
    """
    address(url)
    return await asyncpg.create_pool(
        url,
        min_size=min_size,
        max_size=max_size,
        timeout=CONNECT_SECONDS,
        server_settings={"application_name": APPLICATION_NAME},
        init=register_vectors_async,
    )


async def register_vectors_async(connection: asyncpg.Connection) -> None:
    """`register_vectors` for asyncpg; also for a connection of one's own, e.g. to LISTEN."""
    schema = await connection.fetchval(_VECTOR_SCHEMA)
    if schema is not None:
        await pgvector.asyncpg.register_vector(connection, schema=schema)


def wait_until_reachable(url: str, seconds: float = 60.0) -> None:
    """Return when the database answers; try again, ever more slowly, while it doesn't.

    Raises:
        UrlError: not a PostgreSQL URL.
        UnreachableError: it didn't answer within `seconds`.
    """
    where = address(url)
    deadline = time.monotonic() + seconds
    pause = 0.1
    while True:
        try:
            connect(url).close()
        except psycopg.OperationalError as error:
            reason = " ".join(str(error).split())
            if time.monotonic() + pause > deadline:
                raise UnreachableError(
                    f"PostgreSQL at {where} can't be reached: {reason}. Check that it runs, and "
                    "DB_URL (or DB_HOSTNAME, DB_PORT, DB_USERNAME, DB_PASSWORD)."
                ) from None
            if pause == 0.1:
                logger.warning("waiting for PostgreSQL at %s: %s", where, reason)
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
        else:
            return
