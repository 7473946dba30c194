"""What goes to Immich's own tables: noted with the results, written afterwards (55_immich.sql)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from pg.connect import Connection
from pg.query import fetch_value


@dataclass(frozen=True, slots=True)
class WriteBack:
    """What goes to Immich's own tables.

    Attributes:
        redone: results that somebody asked to have redone.
        mend: stock defects (search texts emptied, edited photos without embedding).
        embeddings: Immich's embeddings are of the index's model, so they may be written.
    """

    redone: bool
    mend: bool
    embeddings: bool


def note(
    cursor: psycopg.Cursor[Any],
    beside: WriteBack,
    *,
    redone: Sequence[tuple[UUID, str]],
    embedded: Sequence[UUID],
) -> None:
    """Note, in the transaction that writes the results, what `flush` is to write to Immich.

    Args:
        redone: photo and task (``ocr`` or ``clip``) of results that somebody had asked for.
        embedded: photos that have a new embedding.
    """
    if beside.redone and redone:
        cursor.execute(
            "INSERT INTO indexer_v1.write_back (asset_id, what)"
            " SELECT * FROM unnest(%s::uuid[], %s::text[]) ON CONFLICT DO NOTHING",
            [[asset_id for asset_id, _ in redone], [task for _, task in redone]],
        )
    if beside.mend and beside.embeddings and embedded:
        cursor.execute(
            "INSERT INTO indexer_v1.write_back (asset_id, what)"
            " SELECT asset_id, 'clip' FROM unnest(%s::uuid[]) AS e(asset_id)"
            " WHERE indexer_v1.is_edited(asset_id) ON CONFLICT DO NOTHING",
            [list(embedded)],
        )


def flush(connection: Connection, beside: WriteBack) -> None:
    """Write what waits to Immich's tables, and take the tags of ended requests off.

    A photo at a time: whoever holds several may end in a deadlock with Immich.
    """
    while fetch_value(connection, "SELECT indexer_v1.flush_write_back(1, %s)", [beside.embeddings]):
        pass
    while fetch_value(connection, "SELECT indexer_v1.settle_tags(1)"):
        pass
