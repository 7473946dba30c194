"""Rows of Immich's tables by the thousand, for tests that care about rows only."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]


def add_owner(connection: Connection) -> UUID:
    row = connection.execute(
        "INSERT INTO \"user\" (email, name) VALUES (gen_random_uuid()::text, 'somebody')"
        " RETURNING id"
    ).fetchone()
    assert row
    return UUID(str(row[0]))


def add_assets(
    connection: Connection,
    count: int = 1,
    *,
    owner: UUID | None = None,
    preview: bool = True,
    jobs: bool = True,
    visibility: str = "timeline",
) -> list[UUID]:
    """Photos, in the order of their ids.

    Args:
        preview: each gets a row for its preview, which makes its jobs.
        jobs: False: the jobs are removed again.
    """
    rows = connection.execute(
        'INSERT INTO asset ("ownerId", type, "originalPath", "fileCreatedAt", "fileModifiedAt",'
        ' checksum, "originalFileName", "localDateTime", "checksumAlgorithm", visibility)'
        " SELECT %s, 'IMAGE', '/data/upload/' || n, now(), now(),"
        " uuid_send(gen_random_uuid()), n || '.jpg', now(), 'sha1', %s::asset_visibility_enum"
        " FROM generate_series(1, %s) AS n RETURNING id",
        [owner or add_owner(connection), visibility, count],
    ).fetchall()
    ids = sorted(row[0] for row in rows)
    if preview:
        add_previews(connection, ids)
        if not jobs:
            connection.execute("DELETE FROM indexer_v1.job WHERE asset_id = ANY (%s)", [ids])
    return ids


def add_asset(connection: Connection, **how: Any) -> UUID:
    return add_assets(connection, **how)[0]


def add_previews(connection: Connection, assets: list[UUID]) -> None:
    connection.execute(
        'INSERT INTO asset_file ("assetId", type, path)'
        " SELECT id, 'preview', '/data/thumbs/' || id || '_preview.jpeg' FROM unnest(%s) AS id",
        [assets],
    )


def change_preview(connection: Connection, asset: UUID) -> None:
    """The preview is another one now: an event."""
    connection.execute(
        "UPDATE asset_file SET path = path || '.new' WHERE \"assetId\" = %s AND type = 'preview'",
        [asset],
    )
