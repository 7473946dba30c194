"""Compares every asset with what it should have: nothing missing, nothing twice, nothing stale."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psycopg

from faults.pictures import embedding_of, hash_of, text_of
from pg.connect import Connection
from pg.query import fetch_value

# Nothing waits, and nobody works.
SETTLED = """
    SELECT NOT EXISTS (SELECT FROM indexer_v1.job WHERE dead_at IS NULL)
       AND NOT EXISTS (SELECT FROM indexer_v1.write_back)
       AND NOT EXISTS (SELECT FROM indexer_v1.missed)
       AND NOT EXISTS (SELECT FROM indexer_v1.reprocess
                       WHERE finished_at IS NULL OR tag_id IS NOT NULL)
"""

_ASSETS = """
    SELECT a.id, indexer_v1.preview_path(a.id),
           o.asset_id IS NOT NULL, o.text, o.lines, o.content_hash,
           o.tsv = indexer_v1.to_tsvector(o.text), o.file_size,
           c.asset_id IS NOT NULL, c.content_hash, c.embedding
    FROM asset a
    LEFT JOIN indexer_v1.ocr o ON o.asset_id = a.id
    LEFT JOIN indexer_v1.clip c ON c.asset_id = a.id
"""

_ORPHANS = """
    SELECT 'ocr' FROM indexer_v1.ocr WHERE asset_id NOT IN (SELECT id FROM asset)
    UNION ALL SELECT 'clip' FROM indexer_v1.clip WHERE asset_id NOT IN (SELECT id FROM asset)
    UNION ALL SELECT 'job' FROM indexer_v1.job WHERE asset_id NOT IN (SELECT id FROM asset)
"""

_TWICE = """
    SELECT asset_id FROM indexer_v1.ocr GROUP BY 1 HAVING count(*) > 1
    UNION ALL SELECT asset_id FROM indexer_v1.clip GROUP BY 1 HAVING count(*) > 1
    UNION ALL SELECT asset_id FROM indexer_v1.job GROUP BY asset_id, task HAVING count(*) > 1
"""

# Search texts of Immich's that should have been mended.
_BROKEN = """
    SELECT "assetId" FROM ocr_search
    WHERE indexer_v1.is_broken_search_text(text)
      AND coalesce(indexer_v1.right_search_text("assetId"), '') NOT IN ('', text)
"""


def audit(
    db: Connection,
    here: Callable[[str], Path],
    failed: Collection[UUID] = (),
    *,
    real: bool = False,
) -> list[str]:
    """Every fault that is found, in words.

    Args:
        db: to a database that has settled.
        here: where a preview of Immich's lies.
        failed: photos that can't have been indexed: they must have two dead jobs, each with a
            reason, and others none.
        real: models read them, so that only the hashes say what was read.
    """
    found: list[str] = []
    rows = db.execute(_ASSETS).fetchall()
    for asset, path, *results in rows:
        if asset not in failed:
            found += [f"{asset}: {fault}" for fault in _faults(path and here(path), results, real)]
    dead: dict[UUID, list[str]] = {}
    for asset, task, reason in db.execute(
        "SELECT asset_id, task, last_error FROM indexer_v1.job"
        " WHERE dead_at IS NOT NULL AND last_error <> '' ORDER BY task"
    ):
        dead.setdefault(asset, []).append(task)
        if asset not in failed:
            found.append(f"{asset}: {task} is dead: {reason}")
    found += [
        f"{asset}: dead jobs {dead.get(asset)}, not both"
        for asset in failed
        if dead.get(asset) != ["clip", "ocr"]
    ]
    for what, statement in (("orphan", _ORPHANS), ("twice", _TWICE), ("broken", _BROKEN)):
        found += [f"{what}: {row[0]}" for row in db.execute(statement.encode())]
    found += [
        f"request {number} for {asset}: {status}"
        for number, asset, status in db.execute(
            "SELECT id, asset_id, status FROM indexer_v1.reprocess"
            " WHERE status NOT IN ('done', 'failed: the photo was deleted',"
            "                      'failed: there is no asset with this id')"
        )
        if asset not in failed
    ]
    if not fetch_value(db, SETTLED):
        found.append("it hasn't settled")
    if db.execute("SELECT FROM indexer_v1.missing_triggers()").rowcount:
        found.append("triggers are missing")
    return found


def _faults(preview: Path | None, results: list[Any], real: bool) -> list[str]:
    has_text, text, lines, text_hash, indexed, size, has_vector, vector_hash, embedding = results
    if preview is None:
        return ["results without a preview"] if has_text or has_vector else []
    data = preview.read_bytes()
    sha256 = hash_of(data)
    if not (has_text and has_vector):
        return [f"missing: text {has_text}, embedding {has_vector}"]
    faults = []
    if text_hash != sha256 or not (real or text == text_of(sha256)):
        faults.append("the text is stale")
    if "\n".join(line["text"] for line in lines) != text or not indexed:
        faults.append("lines or index don't belong to the text")
    if size != len(data):
        faults.append("the file's size is stale")
    near = real or np.allclose(embedding.to_numpy(), embedding_of(sha256), atol=2e-3)
    if vector_hash != sha256 or not near:
        faults.append("the embedding is stale")
    return faults


def audit_write_back(db: psycopg.Connection[Any], assets: Collection[UUID]) -> list[str]:
    """Photos that have just been redone: what is in Immich's own tables is what is in ours."""
    found = []
    for asset in assets:
        texts, search_text, right, same = (
            db.execute(
                """
            SELECT (SELECT array_agg(l.text ORDER BY l.y1) FROM asset_ocr l
                    WHERE l."assetId" = o.asset_id),
                   (SELECT s.text FROM ocr_search s WHERE s."assetId" = o.asset_id),
                   indexer_v1.immich_search_text(string_to_array(o.text, E'\n')),
                   (SELECT array_agg(v.embedding::halfvec = c.embedding) FROM smart_search v
                    WHERE v."assetId" = o.asset_id)
            FROM indexer_v1.ocr o JOIN indexer_v1.clip c USING (asset_id) WHERE asset_id = %s
            """,
                [asset],
            ).fetchone()
            or (None,) * 4
        )
        expected = fetch_value(db, "SELECT text FROM indexer_v1.ocr WHERE asset_id = %s", [asset])
        if texts != expected.split("\n") or search_text != right:
            found.append(f"{asset}: Immich has {texts}, {search_text!r}")
        if same != [True]:
            found.append(f"{asset}: Immich's embedding is another")
    return found
