"""matches(): the lines that answer a query, and which characters in them."""

from __future__ import annotations

import json
from uuid import UUID, uuid4

import pytest
from assets import add_asset
from hypothesis import given, settings
from hypothesis import strategies as st

from immich.base import load_schema
from pg.connect import Connection, connect
from pg.migrate import migrate

BOX = [0.1, 0.2, 0.9, 0.2, 0.9, 0.3, 0.1, 0.3]


@pytest.fixture(scope="module")
def db(databases):  # type: ignore[no-untyped-def]
    def build(connection: Connection) -> None:
        load_schema(connection)
        migrate(connection)

    url = databases.fresh("indexed 3.1", build)
    with connect(url) as connection:
        yield connection
    databases.drop(url)


def add(db: Connection, text: str, *, boxes: bool = True) -> UUID:
    asset = add_asset(db, jobs=False)
    lines = [
        {"text": line, "box": BOX, "box_score": 0.9, "text_score": 0.75}
        for line in text.split("\n")
    ]
    db.execute(
        "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash)"
        " VALUES (%s, %s, %s, indexer_v1.to_tsvector(%s), indexer_v1.tokenizer(), 'm', sha256(''))",
        [asset, text, json.dumps(lines if boxes else []), text],
    )
    return asset


def marked(db: Connection, text: str, query: str) -> list[str]:
    """The lines that match, with what matches in brackets."""
    asset = add(db, text)
    shown = []
    for line, marks in db.execute(
        "SELECT text, marks FROM indexer_v1.matches(%s, %s)", [query, [asset]]
    ):
        parts, at = [], 0
        for first, last in marks:
            assert at <= first < last <= len(line)
            parts += [line[at:first], "[", line[first:last], "]"]
            at = last
        shown.append("".join([*parts, line[at:]]))
    return shown


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        ("超市\n增值税发票 发票\n合计 8", "发票", ["增值税[发票] [发票]"]),
        ("增值税发票\n合计 8", "发票 合计", ["增值税[发票]", "[合计] 8"]),
        ("增值税发票\n收据", "发票 OR 收据", ["增值税[发票]", "[收据]"]),
        ("增值税发票\n作废", "发票 -作废", ["增值税[发票]"]),
        ("增值税发票", "收据", []),
        ("海底捞火锅\n海底的世界", "海底捞", ["[海底捞]火锅"]),  # a phrase is marked whole
        ("药品\n服药", "药", ["[药]品", "服[药]"]),
        ("電子發票證明聯", "发票", ["電子[發票]證明聯"]),
        ("ＴＯＴＡＬ：８８．００", "total 88", ["[ＴＯＴＡＬ]：[８８．００]"]),
        ("㈱ 发票 ½ 发票", "发票", ["㈱ [发票] ½ [发票]"]),  # NFKC makes three of one
        ("ｶﾞ発 e\u0301 发票", "发票", ["ｶﾞ発 e\u0301 [发票]"]),  # and one of two
        ("発券 ｶﾞｲﾄﾞ", "ガイド", ["発券 [ｶﾞｲﾄﾞ]"]),
        ("Cheeseburger", "burger", ["Cheese[burger]"]),
        ("Tablets 200 mg", "tablet", ["[Tablet]s 200 mg"]),
        ("京A·RE168", "RE16", ["京A·[RE16]8"]),
        ("京A·RE168", "京A", ["[京A]·RE168"]),
        ("1,286.40元", "1286.4", ["[1,286.40]元"]),
        ("T0TAL", "total", ["[T0TAL]"]),
        ("Starb uck s Reserve", "starbucks", ["[Starb uck s] Reserve"]),
        ("Free Wi-Fi here", "wifi", ["Free [Wi-Fi] here"]),
        ("日期 2024-05-01 18:42", "2024年5月1日", ["日期 [2024-05-01] 18:42"]),
        ("May 1, 2024 ok", "2024.5.1", ["[May 1, 2024] ok"]),
        ("至二〇二四年五月一日止", "2024-05-01", ["至[二〇二四年五月一日]止"]),
        ("發 票 代 码 112", "发票代码", ["[發 票 代 码] 112"]),
        ("徽信支付凭证", "微信支付", ["[徽信支付]凭证"]),
        ("布洛缓释胶囊", "布洛芬缓释胶囊", ["[布洛缓释胶囊]"]),
        ("某某有限公\n司", "有限公司", ["某某[有限公]", "[司]"]),  # a line break divides it
        ("有限公\n中间一行\n司", "有限公司", []),
        ("WiFi名称\n无关\n密码：1234", "WiFi密码", ["[WiFi]名称", "[密码]：1234"]),
        ("鲜花生日礼盒", "花生", []),
        ("吴明天天迟到", "吴明", ["[吴明]天天迟到"]),  # a name that no list knows
        ("鲜花生日礼盒\n花生米", "花生", ["[花生]米"]),
        ("😀发票😀", "发票", ["😀[发票]😀"]),
        ("发票", "", []),
        ("发票", "-发票", []),
    ],
)
def test_marks(db: Connection, text: str, query: str, expected: list[str]) -> None:
    assert marked(db, text, query) == expected


def test_lines_as_they_were_read(db: Connection) -> None:
    asset = add(db, "超市\n发票 88")
    rows = db.execute("SELECT * FROM indexer_v1.matches('发票', %s)", [[asset]]).fetchall()
    assert rows == [(asset, 2, "发票 88", BOX, 0.75, [[0, 2]])]


def test_texts_without_lines(db: Connection) -> None:
    asset = add(db, "超市\n发票 88", boxes=False)
    rows = db.execute("SELECT * FROM indexer_v1.matches('发票', %s)", [[asset]]).fetchall()
    assert rows == [(asset, 2, "发票 88", None, None, [[0, 2]])]


def test_only_the_photos_asked_for_in_their_order(db: Connection) -> None:
    assets = [add(db, f"发票 {number}") for number in range(4)]
    asked = [assets[2], uuid4(), assets[0]]
    found = db.execute("SELECT asset_id FROM indexer_v1.matches('发票', %s)", [asked])
    assert [row[0] for row in found] == [assets[2], assets[0]]
    for nothing in ([], None):
        rows = db.execute("SELECT FROM indexer_v1.matches('发票', %s::uuid[])", [nothing])
        assert rows.fetchall() == []
    assert db.execute("SELECT FROM indexer_v1.matches(NULL, %s)", [assets]).fetchall() == []


ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@given(ANY, ANY)
@settings(max_examples=150, deadline=None)
def test_nothing_is_an_error(db: Connection, text: str, query: str) -> None:
    marked(db, text, query)


WORDS = (
    "发票",
    "海底捞",
    "RE168",
    "88.00",
    "2024年5月1日",
    "total",
    "药",
    "停車場",
    "Wi-Fi",
    "合計",
)


@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=6),
    st.sampled_from(WORDS),
    st.sampled_from([" ", "\n", "，"]),
)
@settings(max_examples=150, deadline=None)
def test_what_is_found_is_marked(
    db: Connection, words: list[str], query: str, between: str
) -> None:
    """A photo is found if and only if something in it is marked, and that says the word."""
    text = between.join(words)
    found = db.execute(
        "SELECT indexer_v1.to_tsvector(%s) @@ indexer_v1.to_tsquery(%s)", [text, query]
    ).fetchone()
    assert found == (query in words,)
    shown = marked(db, text, query)
    assert bool(shown) == (query in words)
    assert sum(line.count(f"[{query}]") for line in shown) == words.count(query)
