"""Whatever is read in pictures and typed into search boxes: the same tokens, no error, no way out.

More of it: test_tokenizer.py and test_query.py, each beside what it is about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from assets import add_asset
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from immich.base import load_schema
from pg.connect import Connection, connect
from pg.migrate import migrate
from pg.query import fetch_one, fetch_value

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.text(CHARACTERS, max_size=80) | st.text(
    st.sampled_from("發票增值稅上海ＡＢｃＯ０ｌ１Ⅷ㈱½ｶﾞé.,-/年月日 \n¥￥：:2024"), max_size=40
)

# What strings do that are put into statements by hand; %s and %L: format() of the functions.
PAYLOADS = [
    "'; DROP TABLE public.asset CASCADE; --",
    "' OR '1'='1",
    "x') OR true --",
    "\\'; SELECT pg_sleep(9); --",
    "E'\\x27 OR 1=1 --",
    "$$ OR true $$",
    "$1",
    "%L %I %s %1$s",
    '") OR ("1"="1',
    "/* */ UNION SELECT 1 --",
    "{a,b}",
    "\uff07 OR 1=1 --",  # normalizing makes an apostrophe of it
    "a' | 'b:* & !c",
]
STRINGS = st.sampled_from(PAYLOADS) | st.text(CHARACTERS, max_size=30)
# fmt: off
KEYS = [
    "takenAfter", "takenBefore", "type", "isFavorite", "isNotInAlbum", "visibility", "albumIds",
    "personIds", "tagIds", "city", "state", "country", "make", "model", "lensModel", "rating",
]
# fmt: on
JSON = (
    STRINGS
    | st.none()
    | st.booleans()
    | st.integers()
    | st.lists(STRINGS, max_size=3)
    | st.dictionaries(STRINGS, STRINGS, max_size=2)
)
CALM = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def tsvector(connection: Connection, text: str) -> str:
    made: str = fetch_value(connection, "SELECT indexer_v1.to_tsvector(%s)::text", [text])
    return made


@CALM
@given(TEXTS)
@example("ＷｉＦｉ密碼：１２３４")
@example("㈱①½ﬁ㎏ｶﾞ")
def test_one_normal_form_has_one_set_of_tokens(functions: Connection, text: str) -> None:
    normal = fetch_value(functions, "SELECT indexer_v1.normalize(%s)", [text])
    assert tsvector(functions, text) == tsvector(functions, normal)
    asked = "SELECT p.wanted::text, p.loose::text FROM indexer_v1.parse_query(%s) AS p"
    # Signs of the query language may come out of normalizing, e.g. a quotation mark.
    if normal.isalnum():
        assert fetch_one(functions, asked, [text]) == fetch_one(functions, asked, [normal])


@CALM
@given(TEXTS.filter(str.strip), st.data())
def test_marks_are_in_the_lines_that_are_shown(
    bigram: Connection, text: str, data: st.DataObject
) -> None:
    lines = text.split("\n")
    query = data.draw(st.sampled_from(lines) | TEXTS)
    with bigram.transaction(force_rollback=True):
        asset = add_asset(bigram)
        bigram.execute(
            "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model,"
            " content_hash) VALUES (%s, %s, %s::jsonb, indexer_v1.to_tsvector(%s), 'x', 'x',"
            " sha256('x'))",
            [asset, text, json.dumps([{"text": line} for line in lines]), text],
        )
        found = bigram.execute(
            "SELECT line, text, marks FROM indexer_v1.matches(%s, ARRAY[%s::uuid])", [query, asset]
        ).fetchall()
    for number, said, marks in found:
        assert said == lines[number - 1]
        assert marks
        assert all(0 <= start < end <= len(said) for start, end in marks)


@pytest.fixture(scope="module")
def scoped(databases: Any) -> Iterator[tuple[Connection, UUID]]:
    """A photo with a text, and its owner. Searching in another's name must find nothing."""

    def build(connection: Connection) -> None:
        load_schema(connection)
        migrate(connection)

    url = databases.fresh("indexed 3.1", build)
    with connect(url) as connection:
        asset = add_asset(connection)
        connection.execute(
            "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model,"
            " content_hash) VALUES (%s, '发票', '[]', indexer_v1.to_tsvector('发票'), 'x', 'x',"
            " sha256('x'))",
            [asset],
        )
        assert found(connection, None, "发票", {}) == 1
        yield connection, asset
        assert found(connection, None, "发票", {}) == 1  # still there
    databases.drop(url)


def found(connection: Connection, owner: UUID | None, query: str, chosen: object) -> int:
    """How many photos a search finds."""
    count: int = fetch_value(
        connection,
        "SELECT count(*) FROM indexer_v1.search(%s, owners => %s, filter => %s::jsonb)",
        [query, owner and [owner], json.dumps(chosen)],
    )
    return count


def outside(connection: Connection, query: str, chosen: object) -> None:
    """Nothing is found in a stranger's name; errors are those only that say what is wrong."""
    with suppress(psycopg.DataError, psycopg.errors.FeatureNotSupported):
        assert found(connection, uuid4(), query, chosen) == 0


@CALM
@given(STRINGS)
def test_no_query_gets_out_of_its_scope(scoped: tuple[Connection, UUID], text: str) -> None:
    outside(scoped[0], f"发票 OR {text}", {})
    outside(scoped[0], f"{text} 发票", {})


@CALM
@given(
    st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3)
    | st.dictionaries(STRINGS, JSON, max_size=2)
    | JSON
)
@example({"city": "x' OR true --"})
@example({"visibility": ["locked", "timeline'} OR true --"]})
@example({"albumIds": ["' OR true --"]})
def test_no_filter_gets_out_of_its_scope(scoped: tuple[Connection, UUID], chosen: object) -> None:
    try:
        encoded = json.dumps(chosen)
    except ValueError:
        return
    if "\\u0000" in encoded:
        return
    outside(scoped[0], "发票", chosen)
