"""What the index holds of photos: texts and embeddings, and the models that they are made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from indexer.media import modified_at
from indexer.models.types import Embedding, Line
from pg.connect import Connection
from pg.query import fetch_value


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Size in bytes and time of modification: a file that changed at the same path has another."""

    size: int
    modified: datetime

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Look at a file. Raises OSError."""
        status = path.stat()
        return cls(status.st_size, modified_at(status))


@dataclass(frozen=True, slots=True)
class Text:
    """A result of OCR: lines in reading order; model, hash and file they are from."""

    lines: list[Line]
    model: str
    content_hash: bytes
    file: FileStamp


@dataclass(frozen=True, slots=True)
class Vector:
    """A result of CLIP: embedding (dim,) float32; model and hash of the picture it is from."""

    embedding: Embedding
    model: str
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The picture and the model are those of the present result; the file may be newer."""

    file: FileStamp


class ClipModelChangedError(Exception):
    """The index has moved on to another CLIP model; embeddings of the old one must not get in."""


# One statement for all rows, not `executemany`: that is a pipeline, and a session in the middle of
# one is not idle for PostgreSQL. A worker that froze there would hold its locks for ever.


def write_texts(
    cursor: psycopg.Cursor[Any], results: Sequence[tuple[UUID, Text | Unchanged]]
) -> None:
    """Write texts of photos; of unchanged ones, that their file may be newer."""
    texts = [(asset_id, text) for asset_id, text in results if isinstance(text, Text)]
    if texts:
        cursor.execute(
            """
            INSERT INTO indexer_v1.ocr AS o
                (asset_id, text, lines, tsv, tokenizer, model, content_hash, file_size,
                 file_modified)
            SELECT r.asset_id, r.text, r.lines, indexer_v1.to_tsvector(r.text),
                   indexer_v1.tokenizer(), r.model, r.content_hash, r.size, r.modified
            FROM unnest(%s::uuid[], %s::text[], %s::jsonb[], %s::text[], %s::bytea[], %s::bigint[],
                        %s::timestamptz[])
                 AS r(asset_id, text, lines, model, content_hash, size, modified)
            ON CONFLICT (asset_id) DO UPDATE SET
                text = excluded.text, lines = excluded.lines, tsv = excluded.tsv,
                tokenizer = excluded.tokenizer, model = excluded.model,
                content_hash = excluded.content_hash, updated_at = now(),
                file_size = excluded.file_size, file_modified = excluded.file_modified
            """,
            [
                [asset_id for asset_id, _ in texts],
                [_text(text) for _, text in texts],
                [_lines(text) for _, text in texts],
                [text.model for _, text in texts],
                [text.content_hash for _, text in texts],
                [text.file.size for _, text in texts],
                [text.file.modified for _, text in texts],
            ],
        )
    touched = [(asset_id, same.file) for asset_id, same in results if isinstance(same, Unchanged)]
    if touched:
        cursor.execute(
            """
            UPDATE indexer_v1.ocr o SET file_size = r.size, file_modified = r.modified
            FROM unnest(%s::uuid[], %s::bigint[], %s::timestamptz[]) AS r(asset_id, size, modified)
            WHERE o.asset_id = r.asset_id
            """,
            [
                [asset_id for asset_id, _ in touched],
                [file.size for _, file in touched],
                [file.modified for _, file in touched],
            ],
        )


def _text(text: Text) -> str:
    return "\n".join(line.text for line in text.lines).replace("\0", "")


def _lines(text: Text) -> Jsonb:
    return Jsonb(
        [
            {
                "text": line.text.replace("\0", ""),
                "box": [round(value, 5) for value in line.box],
                "box_score": round(line.box_score, 4),
                "text_score": round(line.text_score, 4),
            }
            for line in text.lines
        ]
    )


def write_vectors(cursor: psycopg.Cursor[Any], vectors: Sequence[tuple[UUID, Vector]]) -> None:
    """Write embeddings of photos.

    Raises:
        ClipModelChangedError: they aren't by the model that the index is made with.
    """
    if not vectors:
        return
    models = {vector.model for _, vector in vectors}
    recorded = recorded_clip_model(cursor.connection, lock="FOR SHARE")
    if models != {recorded}:
        raise ClipModelChangedError(f"the index is made with {recorded}, not {models}")
    cursor.execute(
        """
        INSERT INTO indexer_v1.clip AS c (asset_id, embedding, model, content_hash)
        SELECT r.asset_id, r.embedding::halfvec, r.model, r.content_hash
        FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::bytea[])
             AS r(asset_id, embedding, model, content_hash)
        ON CONFLICT (asset_id) DO UPDATE SET
            embedding = excluded.embedding, model = excluded.model,
            content_hash = excluded.content_hash, updated_at = now()
        """,
        [
            [asset_id for asset_id, _ in vectors],
            ["[" + ",".join(f"{v:.6g}" for v in vector.embedding) + "]" for _, vector in vectors],
            [vector.model for _, vector in vectors],
            [vector.content_hash for _, vector in vectors],
        ],
    )


def recorded_clip_model(connection: Connection, lock: Literal["", "FOR SHARE"] = "") -> str | None:
    """Name of the CLIP model that the index is made with; None before the first."""
    row = connection.execute(
        f"SELECT value FROM indexer_v1.setting WHERE name = 'clip_model' {lock}"  # noqa: S608
    ).fetchone()
    return str(row[0]).rsplit("/", 1)[0] if row else None


def use_clip_model(connection: Connection, name: str, dim: int) -> bool:
    """Make the index one of this CLIP model. Another model's embeddings are thrown away.

    Returns:
        True where something changed: every photo then needs a CLIP job (`backfill`).
    """
    changed: bool = fetch_value(connection, "SELECT indexer_v1.use_clip_model(%s, %s)", [name, dim])
    return changed


def use_ocr_model(connection: Connection, model: str) -> bool:
    """Record what texts are to be read with; those read otherwise are read again (`backfill`).

    Returns:
        True where something changed.
    """
    return bool(
        connection.execute(
            "INSERT INTO indexer_v1.setting AS s VALUES ('ocr_model', %s)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
            " WHERE s.value <> excluded.value",
            [model],
        ).rowcount
    )
