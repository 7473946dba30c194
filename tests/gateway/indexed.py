"""What a worker would have written of a photo: its text, and an embedding of what it shows."""

import json
from typing import Any
from uuid import UUID

import psycopg

from indexer.models.engine import Engine
from indexer.models.types import Lane


def write_text(
    rows: psycopg.Connection[Any], asset: UUID, text: str, *lines: dict[str, Any]
) -> None:
    """The text in a photo, and its lines as they are in the database."""
    rows.execute(
        "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash)"
        " VALUES (%s, %s, %s, indexer_v1.to_tsvector(%s), indexer_v1.tokenizer(), 'm',"
        " sha256('x'))",
        [asset, text, json.dumps(lines), text],
    )


def embed(rows: psycopg.Connection[Any], engine: Engine, asset: UUID, shows: str) -> None:
    """The embedding of a caption, in place of that of the picture."""
    vector = engine.embed_text(shows, Lane.BULK).result()
    rows.execute(
        "INSERT INTO indexer_v1.clip (asset_id, embedding, model, content_hash)"
        " VALUES (%s, %s::halfvec, 'm', sha256('x'))",
        [asset, str(vector.tolist())],
    )
