"""The SQL files of this version, and which of them a database has had."""

from __future__ import annotations

from importlib.resources import files

from pg.connect import Connection


def read(folder: str) -> dict[str, str]:
    """The files of ``migrations`` or ``functions``, in order: ``folder/name.sql``, and its text."""
    found = (entry for entry in (files("pg") / "sql" / folder).iterdir())
    texts = {e.name: e.read_text("utf-8") for e in found if e.name.endswith(".sql")}
    return {f"{folder}/{name}": texts[name] for name in sorted(texts)}


def recorded(connection: Connection, folder: str) -> dict[str, str]:
    """Those that were run in this database: under which name, and the SHA-256 of what was run."""
    rows = connection.execute(
        "SELECT name, sha256 FROM indexer_v1.migration WHERE starts_with(name, %s)", [folder + "/"]
    ).fetchall()
    return dict(rows)


def record(connection: Connection, name: str, sha256: str) -> None:
    """Note that a file was run."""
    connection.execute(
        "INSERT INTO indexer_v1.migration (name, sha256) VALUES (%s, %s) ON CONFLICT (name)"
        " DO UPDATE SET sha256 = excluded.sha256, applied_at = now()",
        [name, sha256],
    )
