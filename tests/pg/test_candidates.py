"""What the text index is asked before rows are read, and the impacts that it is asked for."""

from __future__ import annotations

from bisect import bisect_right

import pytest

from pg.connect import Connection
from pg.query import fetch_one, fetch_value
from tests.judged.judged import queries, texts


def lexemes(connection: Connection, text: str) -> set[str]:
    found: list[str] = fetch_value(
        connection, "SELECT tsvector_to_array(indexer_v1.to_tsvector(%s))", [text]
    )
    return set(found)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("'发票':A", "'发票'"),
        ("'发':*", "'发':*"),
        ("'starbuck':*AC", "'starbuck':*"),
        ("'海底' <-> '底捞'", "'海底' & '底捞'"),
        ("'a1':A <2> ('b':AB | '#88')", "'a1' & ('b' | '#88')"),
    ],
)
def test_weights_and_distances_go(bigram: Connection, asked: str, expected: str) -> None:
    found = fetch_one(
        bigram, "SELECT indexer_v1.candidates(%s, 0)::text, %s::tsquery::text", [asked, expected]
    )
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("impact", "expected"),
    [
        (4, "('++++发票' | '+++++发票') & ('++++a':* | '+++++a':*)"),
        (5, "'+++++发票' & '+++++a':*"),
    ],
)
def test_words_with_an_impact(bigram: Connection, impact: int, expected: str) -> None:
    found = fetch_one(
        bigram,
        "SELECT indexer_v1.candidates($$'发票':A & 'a':*C$$, %s)::text, %s::tsquery::text",
        [impact, expected],
    )
    assert found[0] == found[1]


def test_no_match_is_missed(functions: Connection) -> None:
    """Every text that a query matches is among the candidates."""
    missed = functions.execute(
        "SELECT q.said, t.said FROM ("
        "    SELECT said, p.* FROM unnest(%s::text[]) AS said,"
        "        LATERAL indexer_v1.parse_query(said) AS p) AS q,"
        "    (SELECT said, indexer_v1.to_tsvector(said) AS tsv FROM unnest(%s::text[]) AS said"
        "     OFFSET 0) AS t"
        " WHERE t.tsv @@ q.loose AND NOT t.tsv @@ indexer_v1.candidates(q.loose, 0)"
        "    OR t.tsv @@ q.wanted AND NOT t.tsv @@ q.sure"
        "       AND NOT t.tsv @@ indexer_v1.candidates(q.widened, 0)",
        [[query.q for query in queries()[::4]], [text.text for text in texts()[::4]]],
    ).fetchall()
    assert missed == []


def test_the_impact_grows_with_the_word_and_shrinks_with_the_text(bigram: Connection) -> None:
    line = "店名地址电话日期金额数量单价服务欢迎光临谢谢惠顾超市餐厅门票商品规格生产单位"
    once, thrice = f"{line}\n{line[::-1]}\n发票", f"{line}\n{line[::-1]}\n发票\n发票\n发票"
    assert steps(bigram, "发票") == {"+++++"}
    assert steps(bigram, thrice) == {"+++++"}
    assert steps(bigram, once) == set()
    assert not any(word.startswith("+") and "电话" in word for word in lexemes(bigram, thrice))


def test_the_impact_is_the_rank(functions: Connection) -> None:
    """Of a query for the word alone: no text that is left out ranks above one that isn't."""
    ranks = functions.execute(
        """
        SELECT ts_rank_cd('{0.4,0.7,0.8,1}', t.tsv, quote_literal(w.lexeme)::tsquery, 1),
               (SELECT step FROM generate_series(1, 5) AS step
                WHERE t.tsv @@ quote_literal(repeat('+', step) || w.lexeme)::tsquery)
        FROM (SELECT indexer_v1.to_tsvector(said) AS tsv FROM unnest(%s::text[]) AS said
              OFFSET 0) AS t, unnest(t.tsv) AS w
        WHERE cardinality(w.positions) > 0
        """,
        [[text.text for text in texts()[::4]]],
    ).fetchall()
    assert {step for _, step in ranks} == {None, 1, 2, 3, 4, 5}
    for rank, step in ranks:
        right = bisect_right((0.25, 0.29, 0.35, 0.45, 0.6), rank)
        # The second lexemes of its neighbours may have made a word's rank less than the least.
        assert step == (right or None) or (step == 1 and rank < 0.25), (rank, step)


def steps(connection: Connection, text: str) -> set[str]:
    return {
        word.removesuffix("发票") for word in lexemes(connection, text) if word.endswith("+发票")
    }


def test_impacts_are_added_once(bigram: Connection) -> None:
    again, once = fetch_one(
        bigram,
        "SELECT indexer_v1.with_impacts(tsv)::text, tsv::text"
        " FROM indexer_v1.to_tsvector(%s) AS tsv",
        ["发票 发票\n合计 88.00"],
    )
    assert again == once


def test_ranking_does_not_fetch_tsvectors_from_elsewhere(bigram: Connection) -> None:
    storage = fetch_value(
        bigram,
        "SELECT attstorage FROM pg_attribute"
        " WHERE attrelid = 'indexer_v1.ocr'::regclass AND attname = 'tsv'",
    )
    assert storage in ("m", b"m")
