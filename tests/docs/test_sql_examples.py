"""Every example of docs/sql.md gives what the page says."""

from __future__ import annotations

import io
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from PIL import Image

from immich.events import FakeImmich

PAGE = Path(__file__).parents[2] / "docs" / "sql.md"
BLOCK = re.compile(r"```sql\n(.*?)```\n(?:```text\n(.*?)```\n)?", re.DOTALL)

PHOTOS = {
    "exit.jpg": ("地铁站\n紧急出口", "2023-02-03T12:00Z"),
    "invoice.jpg": ("电子发票\n2024年5月1日\n金额 ¥128.00", "2024-05-01T12:00Z"),
    "receipt.jpg": ("收据 作废\n2024-06-12", "2024-06-12T12:00Z"),
    "sign.jpg": ("上海虹桥站\nRE16", "2023-11-20T12:00Z"),
}


@pytest.fixture
def photos(indexed_immich: FakeImmich) -> psycopg.Connection[Any]:
    connection = indexed_immich.db
    first, second = np.zeros(512), np.zeros(512)
    first[0], second[0], second[1] = 1, 0.8, 0.6
    for number, (name, (text, taken)) in enumerate(PHOTOS.items()):
        asset = indexed_immich.upload(
            picture(number), name=name, taken=datetime.fromisoformat(taken)
        )
        connection.execute(
            "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model,"
            " content_hash) SELECT %(id)s, %(text)s,"
            " (SELECT jsonb_agg(jsonb_build_object('text', line))"
            "  FROM string_to_table(%(text)s, E'\\n') AS line),"
            " indexer_v1.to_tsvector(%(text)s), indexer_v1.tokenizer(), 'test', sha256('')",
            {"id": asset, "text": text},
        )
        if name in ("invoice.jpg", "receipt.jpg"):
            connection.execute(
                "INSERT INTO indexer_v1.clip (asset_id, embedding, model, content_hash)"
                " VALUES (%s, %s::real[]::vector::halfvec(512), 'test', sha256(%s))",
                [asset, (first if number == 1 else second).tolist(), bytes([number])],
            )
    connection.execute("DELETE FROM indexer_v1.job")
    return connection


def test_every_example_gives_what_the_page_says(photos: psycopg.Connection[Any]) -> None:
    examples = BLOCK.findall(PAGE.read_text("utf-8"))
    assert len(examples) > 10
    for statement, expected in examples:
        cursor = photos.execute(statement)
        assert bool(cursor.description) == bool(expected), statement
        if expected:
            assert rendered(cursor) == expected.splitlines(), statement


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (number * 50, 100, 100)).save(file, "PNG")
    return file.getvalue()


def rendered(cursor: psycopg.Cursor[Any]) -> list[str]:
    assert cursor.description
    rows = [[column.name for column in cursor.description], *cursor.fetchall()]
    return [" | ".join("NULL" if cell is None else str(cell) for cell in row) for row in rows]
