"""The exact answer to a search: every photo compared, every text ranked, nothing cut short."""

from __future__ import annotations

from typing import Any

from pg.connect import Connection
from pg.query import fetch_value

POOL = 200

_SCOPE = "SELECT indexer_v1.search_scope(%(owners)s::uuid[], %(filter)s::jsonb)"

# One word: what is asked surely, then widely, then loosely, as 60_search.sql says.
_TEXTS = """
SELECT o.asset_id::text,
       CASE WHEN o.tsv @@ q.sure THEN 3 WHEN o.tsv @@ q.wanted THEN 2 ELSE 1 END
       + ts_rank_cd('{{0.4,0.7,0.8,1}}', o.tsv,
                    CASE WHEN o.tsv @@ q.sure THEN q.sure WHEN o.tsv @@ q.wanted THEN q.wanted
                         ELSE q.loose END, 33)::float8 AS score
FROM (SELECT * FROM indexer_v1.parse_query(%(query)s) OFFSET 0) AS q, indexer_v1.ocr o
JOIN asset a ON a.id = o.asset_id
WHERE o.tsv @@ q.loose AND {scope}
ORDER BY score DESC, o.asset_id
"""

_VECTORS = """
SELECT c.asset_id::text, c.embedding <=> %(probe)s::vector::halfvec AS distance
FROM indexer_v1.clip c JOIN asset a ON a.id = c.asset_id
WHERE {scope}
ORDER BY distance, c.asset_id LIMIT {pool}
"""


def recall(connection: Connection, found: list[Any], asked: dict[str, Any]) -> float:
    """Share of the `k` best photos that is in `found`; of equal ones any will do."""
    best = scores(connection, asked)
    wanted = min(asked["k"], len(best))
    if not wanted:
        return 1.0
    least = sorted(best.values(), reverse=True)[wanted - 1]
    right = sum(best.get(str(asset), -1.0) >= least for asset in found)
    return float(min(right, wanted) / wanted)


def scores(connection: Connection, asked: dict[str, Any]) -> dict[str, float]:
    """Every photo of the answer, and its score."""
    asked = {"query": None, "filter": None, "owners": None, **asked}
    scope = fetch_value(connection, _SCOPE, asked).replace("%", "%%")
    pool = max(POOL, asked["k"])
    texts: list[tuple[str, float]] = []
    vectors: list[tuple[str, float]] = []
    with connection.transaction():
        connection.execute("SET LOCAL enable_indexscan = off")
        connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        if asked["query"]:
            texts = connection.execute(_TEXTS.format(scope=scope).encode(), asked).fetchall()
        if asked["probe"]:
            statement = _VECTORS.format(scope=scope, pool=pool)
            vectors = connection.execute(statement.encode(), asked).fetchall()
    texts = _widened(texts, pool)
    fused: dict[str, float] = {}
    for side in (texts, vectors):
        for place, (asset, _) in enumerate(side, 1):
            fused[asset] = fused.get(asset, 0) + 1 / (60 + place)
    return fused if texts and vectors else _raw(texts, vectors)


def _widened(texts: list[tuple[str, float]], pool: int) -> list[tuple[str, float]]:
    """A level is asked only where those above it don't fill the pool; the last where none has."""
    sure = [row for row in texts if row[1] >= 3]
    wide = [row for row in texts if 2 <= row[1] < 3] if len(sure) < pool else []
    loose = texts if not sure and not wide else []
    return (sure + wide + loose)[:pool]


def _raw(texts: list[tuple[str, float]], vectors: list[tuple[str, float]]) -> dict[str, float]:
    """Of one side its own scores, which show what is equal."""
    return dict(texts) or {asset: -distance for asset, distance in vectors}
