"""Short statements that return one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pg.connect import Connection


def fetch_one(
    connection: Connection,
    statement: str | bytes,
    parameters: Sequence[Any] | Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Run a statement that always returns a row, and return it.

    Raises:
        LookupError: it returned none.
    """
    text = statement.encode() if isinstance(statement, str) else statement
    row = connection.execute(text, parameters).fetchone()
    if row is None:
        raise LookupError(f"no row from: {text.decode()[:100]}")
    return row


def fetch_value(
    connection: Connection,
    statement: str | bytes,
    parameters: Sequence[Any] | Mapping[str, Any] | None = None,
) -> Any:
    """Like `fetch_one`, the first column only."""
    return fetch_one(connection, statement, parameters)[0]
