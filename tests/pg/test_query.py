"""The query language: several words, OR, phrases, exclusion, ocr: ; and nothing is an error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pg.connect import Connection
from pg.query import fetch_one, fetch_value

TEXTS = {
    "invoice": "增值税发票 2024年\nInvoice total 12.50",
    "void": "发票 已作废",
    "receipt": "超市收据 2024",
    "station": "上海虹桥火车站",
    "apart": "上海大学\n虹桥校区",
    "english": "the red door in Shanghai",
}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("发票", {"invoice", "void"}),
        ("  发票\t", {"invoice", "void"}),
        ("发票 2024", {"invoice"}),
        ("2024 发票", {"invoice"}),
        ("发票　2024", {"invoice"}),  # an ideographic space
        ("发票 收据", set()),
        ("发票 OR 收据", {"invoice", "void", "receipt"}),
        ("发票|收据", {"invoice", "void", "receipt"}),
        ("发票｜收据", {"invoice", "void", "receipt"}),
        ("发票 | 收据 | 火车", {"invoice", "void", "receipt", "station"}),
        ("发票 OR 收据 2024", {"invoice", "receipt"}),
        ("2024 发票 OR 收据", {"invoice", "receipt"}),
        ("发票 or 收据", set()),  # in lower case it is a word
        ("OR 发票", {"invoice", "void"}),
        ("发票 OR", {"invoice", "void"}),
        ("发票 OR OR 收据", {"invoice", "void", "receipt"}),
        ("发票 -作废", {"invoice"}),
        ("-作废 发票", {"invoice"}),
        ("发票　－作废", {"invoice"}),  # full-width, as Chinese keyboards give it
        ("发票 -作废 -2024", set()),
        ('发票 -"已作废"', {"invoice"}),
        ("-作废", set()),  # what only excludes finds nothing
        ("发票 -", {"invoice", "void"}),
        ("发票 -收据", {"invoice", "void"}),
        ('"red door"', {"english"}),
        ('"RED door"', {"english"}),
        ("door red", {"english"}),
        ('"虹桥火车站"', {"station"}),
        ('"虹桥火车站', {"station"}),  # the end of the phrase is the end of the query
        ("“虹桥火车站”", {"station"}),
        ("「虹桥火车站」", {"station"}),
        ("上海 虹桥", {"station", "apart"}),
        ("ocr:发票", {"invoice", "void"}),
        ("OCR：发票", {"invoice", "void"}),
        (" ocr : 发票 -作废", {"invoice"}),
        ("ocr:", set()),
        ("", set()),
        ('""', set()),
        ("|", set()),
        ("- - -", set()),
        ("，。！？", set()),
        ("😀", set()),
        ("收據", {"receipt"}),
        ("ＩＮＶＯＩＣＥ", {"invoice"}),
        ("12.50", {"invoice"}),
        ("red&door", {"english"}),
        ("red!", {"english"}),
        ("(red)", {"english"}),
        ("don't", set()),
        ("\\", set()),
    ],
)
def test_language(functions: Connection, query: str, expected: set[str]) -> None:
    rows = functions.execute(
        "SELECT name FROM unnest(%s::text[], %s::text[]) AS t(name, body)"
        " WHERE indexer_v1.to_tsvector(body) @@ indexer_v1.to_tsquery(%s)",
        [list(TEXTS), list(TEXTS.values()), query],
    )
    assert {name for (name,) in rows} == expected


@pytest.mark.parametrize(
    ("words", "found"),
    [('"red door"', True), ('"door red"', False), ('"red in"', False), ('"上海虹桥"', True)],
)
def test_phrases(bigram: Connection, words: str, found: bool) -> None:
    text = TEXTS["english"] + "\n" + TEXTS["station"]
    matches = "SELECT indexer_v1.to_tsvector(%s) @@ indexer_v1.to_tsquery(%s)"
    assert fetch_value(bigram, matches, [text, words]) is found


@pytest.mark.parametrize(
    ("query", "picture"),
    [
        ("红色的圆", "红色的圆"),
        ("red  circle", "red circle"),
        ("红色 -蓝色", "红色"),
        ("红色　－蓝色", "红色"),
        ('"红色的圆" 海边', "红色的圆 海边"),
        ("海边 OR 山", "海边 山"),
        ("ocr:红色", None),
        ("OCR：红色", None),
        ("-红色", None),
        ("", None),
        ("  ", None),
        (None, None),
        ("😀", "😀"),
    ],
)
def test_what_is_embedded(functions: Connection, query: str | None, picture: str | None) -> None:
    found = "SELECT picture FROM indexer_v1.parse_query(%s)"
    assert fetch_value(functions, found, [query]) == picture


def ask(connection: Connection, query: str) -> tuple[Any, ...]:
    return fetch_one(
        connection,
        "SELECT indexer_v1.to_tsquery(%(q)s)::text, p.wanted::text, p.unwanted::text, p.picture"
        " FROM indexer_v1.parse_query(%(q)s) AS p",
        {"q": query},
    )


ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
# What the language, tsquery, regular expressions and quoting are made of.
SIGNS = st.text(
    st.sampled_from("\"'“”|-:：*&!()<>\\%$~^[]{}.,+?#@ \n\tocrOR发票a1年月12"), max_size=40
)


@given(ANY)
@settings(max_examples=200, deadline=None)
def test_no_text_is_an_error(functions: Connection, query: str) -> None:
    ask(functions, query)


@given(SIGNS)
@settings(max_examples=300, deadline=None)
def test_no_signs_are_an_error(functions: Connection, query: str) -> None:
    ask(functions, query)


@given(st.lists(ANY | SIGNS, max_size=6))
@settings(max_examples=100, deadline=None)
def test_no_search_is_an_error(functions: Connection, words: list[str]) -> None:
    functions.execute("SELECT * FROM indexer_v1.search(%s)", [" ".join(words)])


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("发票" * 50_000, id="one word"),
        pytest.param("发票 " * 50_000, id="words"),
        pytest.param("a|" * 100_000, id="alternatives"),
        pytest.param("-a " * 60_000, id="exclusions"),
        pytest.param('"a b" ' * 30_000, id="phrases"),
        pytest.param("".join(map(chr, range(0x4E00, 0x9FFF))), id="many characters"),
        pytest.param(" ".join(f"w{n}" for n in range(30_000)), id="many words"),
        pytest.param("a" * 200_000, id="letters"),
        pytest.param("1" * 200_000, id="digits"),
        pytest.param('"' * 100_000, id="quotation marks"),
        pytest.param("-" * 100_000, id="dashes"),
        pytest.param(" " * 100_000, id="blanks"),
        pytest.param("\ufdfa" * 50_000, id="NFKC makes 18 of each"),
    ],
)
def test_long_queries(functions: Connection, query: str) -> None:
    """A pasted book is answered like its beginning, and soon."""
    functions.execute("SET statement_timeout = '20s'")
    try:
        wanted = ask(functions, query)[1]
        functions.execute("SELECT * FROM indexer_v1.search(%s)", [query])
    finally:
        functions.execute("RESET statement_timeout")
    if query.startswith("发票 "):
        assert "发票" in wanted


def test_null(functions: Connection) -> None:
    assert fetch_value(functions, "SELECT indexer_v1.to_tsquery(NULL) IS NULL")
