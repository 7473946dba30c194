"""Search from the command line, and its results as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from rich.table import Table
from rich.text import Text

from indexer.models.engine import Engine
from indexer.models.types import Lane
from pg.connect import Connection
from pg.query import fetch_value


@dataclass(frozen=True, slots=True)
class Result:
    """One photo found.

    Attributes:
        text_rank, text_score: its place and score among those whose text matches, or None.
        vector_rank, vector_distance: its place and cosine distance among the nearest, or None.
        line: the line of text that matched, or None.
    """

    asset_id: UUID
    file_name: str
    score: float
    text_rank: int | None
    text_score: float | None
    vector_rank: int | None
    vector_distance: float | None
    line: str | None


def search(
    connection: Connection,
    engine: Engine,
    query: str,
    *,
    owners: list[UUID] | None,
    limit: int,
    offset: int = 0,
    method: str = "rrf",
) -> list[Result]:
    """Embed what the query says of the picture, where CLIP is available, and rank in SQL."""
    picture = fetch_value(connection, "SELECT picture FROM indexer_v1.parse_query(%s)", [query])
    embedding: Any = None
    if picture and engine.clip_problem() is None:
        vector = engine.embed_text(picture, Lane.INTERACTIVE).result()
        embedding = "[" + ",".join(map(str, vector.tolist())) + "]"
    rows = connection.execute(
        """
        SELECT s.asset_id, a."originalFileName", s.score, s.text_rank, s.text_score,
               s.vector_rank, s.vector_distance,
               (SELECT line ->> 'text'
                FROM indexer_v1.ocr o, jsonb_array_elements(o.lines) AS line
                WHERE o.asset_id = s.asset_id AND s.text_rank IS NOT NULL
                ORDER BY ts_rank(indexer_v1.to_tsvector(line ->> 'text'),
                                 indexer_v1.to_tsquery(%(query)s)) DESC
                LIMIT 1)
        FROM indexer_v1.search(%(query)s, %(embedding)s::vector, %(owners)s, %(limit)s, %(offset)s,
                               %(method)s) WITH ORDINALITY AS s
        JOIN public.asset a ON a.id = s.asset_id
        ORDER BY s.ordinality
        """,
        {
            "query": query,
            "embedding": embedding,
            "owners": owners,
            "limit": limit,
            "offset": offset,
            "method": method,
        },
    ).fetchall()
    return [Result(*row) for row in rows]


def table(query: str, results: list[Result]) -> Table:
    """Rank, file, why it matched, scores."""
    made = Table("#", "file", "why", "score", "text", "picture", title=Text(query), min_width=72)
    for rank, result in enumerate(results, start=1):
        why = []
        if result.line:
            why.append("text: " + " ".join(result.line.split())[:32])
        if result.vector_rank:
            why.append(f"picture: no. {result.vector_rank}")
        made.add_row(
            str(rank),
            Text(result.file_name),
            Text(", ".join(why)),
            f"{result.score:.4f}",
            "" if result.text_score is None else f"{result.text_score:.3f}",
            "" if result.vector_distance is None else f"{1 - result.vector_distance:.3f}",
        )
    if not results:
        made.add_row("", "nothing found", "", "", "", "")
    return made
