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
class Line:
    """A line of text in a photo that answers the query.

    Attributes:
        marks: which of its characters do, as [from, to), at least one.
    """

    text: str
    marks: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Result:
    """One photo found.

    Attributes:
        text_rank, text_score: its place and score among those whose text matches, or None.
        vector_rank, vector_distance: its place and cosine distance among the nearest, or None.
        line: the line of text that OCR is surest of among those that match, or None.
    """

    asset_id: UUID
    file_name: str
    score: float
    text_rank: int | None
    text_score: float | None
    vector_rank: int | None
    vector_distance: float | None
    line: Line | None


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
        WITH page AS (
            SELECT s.*
            FROM indexer_v1.search(%(query)s, %(embedding)s::vector, %(owners)s, %(limit)s,
                                   %(offset)s, %(method)s) WITH ORDINALITY AS s
        ), best AS (
            SELECT DISTINCT ON (m.asset_id) m.asset_id, m.text, m.marks
            FROM indexer_v1.matches(
                %(query)s, ARRAY(SELECT p.asset_id FROM page p WHERE p.text_rank IS NOT NULL)) AS m
            ORDER BY m.asset_id, m.score DESC NULLS LAST, m.line
        )
        SELECT p.asset_id, a."originalFileName", p.score, p.text_rank, p.text_score,
               p.vector_rank, p.vector_distance, b.text, b.marks
        FROM page p
        JOIN public.asset a ON a.id = p.asset_id
        LEFT JOIN best b ON b.asset_id = p.asset_id
        ORDER BY p.ordinality
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
    return [Result(*row[:-2], *[_line(*row[-2:])]) for row in rows]


def _line(text: str | None, marks: list[list[int]]) -> Line | None:
    return None if text is None else Line(text, [(first, last) for first, last in marks])


def excerpt(line: Line, width: int = 32) -> Text:
    """Return the part of a line around its first mark, what matches in bold."""
    shown = Text(line.text)
    for first, last in line.marks:
        shown.stylize("bold", first, last)
    first, last = line.marks[0]
    start = max(0, min(first - (width - (last - first)) // 2, len(line.text) - width))
    part = shown[start : start + width]
    return Text.assemble("…" if start else "", part, "…" if start + width < len(shown) else "")


def table(query: str, results: list[Result]) -> Table:
    """Rank, file, why it matched, scores."""
    made = Table("#", "file", "why", "score", "text", "picture", title=Text(query), min_width=72)
    for rank, result in enumerate(results, start=1):
        why = []
        if result.line:
            why.append(Text.assemble("text: ", excerpt(result.line)))
        if result.vector_rank:
            why.append(Text(f"picture: no. {result.vector_rank}"))
        made.add_row(
            str(rank),
            Text(result.file_name),
            Text(", ").join(why),
            f"{result.score:.4f}",
            "" if result.text_score is None else f"{result.text_score:.3f}",
            "" if result.vector_distance is None else f"{1 - result.vector_distance:.3f}",
        )
    if not results:
        made.add_row("", "nothing found", "", "", "", "")
    return made
