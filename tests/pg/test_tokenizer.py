"""normalize, the tokens of a text, and what is found by them, with our own words and zhparser's."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pg.connect import Connection
from pg.query import fetch_value

# What PostgreSQL can hold: any character but NUL, and no half of a surrogate pair.
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
# Letters and digits of every script, spaces and line breaks: what words are made of.
WORDS = st.text(st.characters(categories=["Lu", "Ll", "Lo", "Nd"]), min_size=1, max_size=12)
PLAIN = "[0-9a-z一-鿿]"


def normalize(connection: Connection, text: str) -> str:
    result: str = fetch_value(connection, "SELECT indexer_v1.normalize(%s)", [text])
    return result


def lexemes(connection: Connection, text: str) -> list[str]:
    found: list[str] = fetch_value(
        connection, "SELECT tsvector_to_array(indexer_v1.to_tsvector(%s))", [text]
    )
    return sorted(found)


def finds(connection: Connection, text: str, query: str) -> bool:
    found: bool = fetch_value(
        connection,
        "SELECT indexer_v1.to_tsvector(%s) @@ indexer_v1.to_tsquery(%s)",
        [text, query],
    )
    return found


# normalize


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("ABC Ünïcode", "abc ünïcode"),
        ("ＡＢＣ　１２３", "abc 123"),
        ("電話號碼", "电话号码"),
        ("繁體中文與简体", "繁体中文与简体"),
        ("㈱ ① ½ ﬁ ㎏", "(株) 1 1⁄2 fi kg"),
        ("ｶﾞｷﾞ", "ガギ"),
        ("e\u0301", "é"),
        ("第一行\n第二行\tX", "第一行\n第二行\tx"),
        ("😀 ok", "😀 ok"),
        ("𡞋𫝦", "𡞋𫝦"),
    ],
)
def test_normalize(bigram: Connection, text: str, expected: str) -> None:
    assert normalize(bigram, text) == expected


@given(st.text(CHARACTERS, max_size=60))
@settings(max_examples=150, deadline=None)
def test_simplifying_moves_no_character(bigram: Connection, text: str) -> None:
    """After NFKC and lower case, one character stays one: positions don't move."""
    lowered = fetch_value(bigram, "SELECT lower(normalize(%s, NFKC))", [text])
    assert len(normalize(bigram, text)) == len(lowered)


@given(st.text(st.characters(min_codepoint=0x3400, max_codepoint=0x9FFF), max_size=60))
@settings(max_examples=150, deadline=None)
def test_normalize_twice_is_once(bigram: Connection, text: str) -> None:
    once = normalize(bigram, text)
    assert normalize(bigram, once) == once


# What is found, with both tokenizers

FOUND = [
    ("增值税普通发票", "发票"),
    ("增值税普通发票", "增值税"),
    ("朝阳区建国路", "朝阳"),
    ("上海虹桥站", "上海虹桥"),
    ("上海虹桥站", "虹桥"),
    ("上海 虹桥", '"上海 虹桥"'),
    ("上海虹桥火车站", "虹桥 上海"),
    ("電話號碼", "电话"),
    ("电话号码", "電話號碼"),
    ("ＡＢＣ１２３", "abc123"),
    ("价格88号", "88"),
    ("88号", "88号"),
    ("5月20日", "5月"),
    ("订单号:2024001", "2024001"),
    ("共12.50元", "12.50"),
    ("2024-05-01", "2024-05-01"),
    ("图😀片", "图"),
    ("好", "好"),
    ("hello world", "hello world"),
    ("Hello, WORLD!", "world hello"),
    ("café", "CAFÉ"),
    ("user@example.com", "user@example.com"),
    ("https://immich.app/docs", "immich.app"),
    ("微信支付", "微信"),
    ("海底捞火锅", "海底捞"),
    ("ありがとう", "ありがとう"),
    ("カタカナ", "カタカナ"),
    ("第一行\n第二行", "第一行 第二行"),
    ("ﬁne ①", "fine 1"),
    ("13800138000", "13800138000"),
    ("Wi-Fi密码abc123", "密码"),
    ("Wi-Fi密码abc123", "wi-fi"),
]

NOT_FOUND = [
    ("增值税普通发票", "收据"),
    ("增值税普通发票", "发票 收据"),
    ("Invoice Total", "voic"),
    ("鲜花", "花生"),
    ("", "发票"),
    ("发票", "😀"),
    ("发票", "，。！"),
    ("1880", "88"),
    ("hello", "helloworld"),
]


@pytest.mark.parametrize(("text", "query"), FOUND)
def test_found(functions: Connection, text: str, query: str) -> None:
    assert finds(functions, text, query)


@pytest.mark.parametrize(("text", "query"), NOT_FOUND)
def test_not_found(functions: Connection, text: str, query: str) -> None:
    assert not finds(functions, text, query)


# Tokens: lexeme, position and weight; what they mean is said in 25_tokens.sql


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \n\t ", ""),
        ("。，！“”（）😀…—", ""),
        ("发票", "发票:1A 票:2C"),
        ("发", "发:1A"),
        ("鲜花生日", "鲜花:1A 花生:2D 生日:3A 日:4C"),
        ("发票\n收据", "发票:1A 票收:2D 收据:3A 据:4C"),  # of two lines: no word
        ("发 票 代 码", "发票:1A 票代:2D 代码:3A 码:4C"),
        ("博物馆电动车", "博物:1A 物馆:2C 馆电:3D 电动:4A 动车:5C 车:6C"),
        ("No.88号", "#88:2A 88:2A n088:1A no:1A 号:3A"),
        ("RE-168", "168:2A re:1A re168:1A"),  # no amount
        ("K8RE1688", "8re1688:1C e1688:1C k8re1688:1A re1688:1C 1688:1C"),
        ("Tablets", "1ets:1D ab1ets:1D b1ets:1D tab1ets:1A"),
        ("to tal 1O0", "#100:3A 100:3A tal:2A ta1100:2B to:1A t0ta1100:1B"),
        ("¥1,286.40", "#1286.4:1A 1286:1C"),
        ("2.16.0", "#2:1A #16:2A #0:3A 0:3A 16:2A 2:1A 2160:1A"),
        ("007 8:30", "007:1A 8:2A 30:3A"),
        ("𠀀𠀁", "𠀀𠀁:1A 𠀁:2A"),
        ("안녕", "녕:2A 안녕:1A"),
    ],
)
def test_tokens(bigram: Connection, text: str, expected: str) -> None:
    found = bigram.execute(
        "SELECT lexeme || ':' || pos || weight FROM indexer_v1.tokens(indexer_v1.normalize(%s))",
        [text],
    )
    assert sorted(row[0] for row in found) == sorted(expected.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01", "@2024-05-01 @-05-01"),
        ("2024.5.1", "@2024-05-01 @-05-01"),
        ("2024 年 5 月 1 日", "@2024-05-01 @-05-01"),
        ("20240501", "@2024-05-01 @-05-01"),
        ("2O24/O5/O1", "@2024-05-01 @-05-01"),
        ("May 1, 2024", "@2024-05-01 @-05-01"),
        ("1 MAY 2024", "@2024-05-01 @-05-01"),
        ("01MAY24", "@2024-05-01 @-05-01"),
        ("05/01/2024", "@2024-05-01 @-05-01"),
        ("25/12/2023", "@2023-12-25 @-12-25"),
        ("二〇二四年五月一日", "@2024-05-01 @-05-01"),
        ("二〇二三年十二月三十一日", "@2023-12-31 @-12-31"),
        ("民國113年5月1日", "@2024-05-01 @-05-01"),
        ("5月1日", "@-05-01"),
        ("5月1号", "@-05-01"),
        ("5/10", "@-05-10"),
        ("2024年5月", "@2024-05"),
        ("EXP 05/2026", "@2026-05"),
        ("2024年", ""),
        ("2024-0117", ""),
        ("2024-13-01", ""),
        ("N20231225", ""),
        ("128/82", ""),
        ("1.2.3", ""),
        ("113年5月", ""),
        ("三个月", ""),
    ],
)
def test_dates(bigram: Connection, text: str, expected: str) -> None:
    found = bigram.execute(
        "SELECT lexeme FROM indexer_v1.tokens(indexer_v1.normalize(%s)) WHERE lexeme ~ '^@'", [text]
    )
    assert {row[0] for row in found} == set(expected.split())


@pytest.mark.parametrize(
    ("text", "query", "found"),
    [
        ("Invoice Total", "invo", True),  # a beginning
        ("Invoice Total", "oice", True),  # an end
        ("Invoice Total", "nvoic", True),  # of five letters and more: anywhere
        ("Invoice Total", "inv", False),  # too short for one
        ("Invoice Total", '"inv"', False),
        ("Invoice Total", '"invoice total"', True),
        ("Invoice Total", '"total invoice"', False),
        ("Invoice no Total", '"invoice total"', False),
        ("ThankYouForShopping", '"thank you"', True),
        ("ThankYouForShopping", "thank you", True),
        ("Starb uck s", "starbucks", True),
        ("T0TAL", "total", True),
        ("RECElPT", "receipt", True),
        ("cats and dogs", "cat", True),
        ("category", "cat", False),
        ("京A·RE168", "RE16", True),
        ("京A·RE168", "京A", True),
        ("京A·RE168", "京ARE168", True),
        ("粤B C站", "粤C", False),
        ("订单2024001", "2024", True),
        ("1,286.40元", "1286.4", True),
        ("88.00", "88", True),
        ("88.70", "88", False),
        ("1880", "88", False),
        ("1880", "188", False),
        ("1880", "1880", True),
        ("2024.5.1", "2024年5月1日", True),
        ("2024.5.1", "2024年5月", True),
        ("2024.5.1", "5月1日", True),
        ("5月1日", "2024年5月1日", False),
        ("2024年1月5日", "2024.5.1", False),
        ("朝阳区", "朝阳", True),
        ("鲜花生日", "花生", False),
        ("鲜花生日", '"花生"', True),  # exactly these letters
        ("你好", "好", True),
        ("上海\n虹桥", "上海虹桥", True),  # a line break divides it
        ("上海\n虹桥", "上海 虹桥", True),
        ("上海大学虹桥校区", '"上海虹桥"', False),
        ("妈妈生曰", "生日", True),
        ("徽信支付", "微信", True),
        ("布洛缓释胶囊", "布洛芬缓释胶囊", True),  # one missing
        ("停水通知", "停电通知", False),  # one wrong, of four
        ("WiFi名称\n密码：1234", "WiFi密码", True),
        ("3号线路检修", "3号线", False),
        ("啊啊啊", "啊啊啊啊", False),
        ("啊啊啊啊", "啊啊啊", True),
    ],
)
def test_search_by_words(functions: Connection, text: str, query: str, found: bool) -> None:
    assert finds(functions, text, query) is found


@given(
    st.text(st.sampled_from("发票增值税普通上海虹桥站号月日元"), min_size=1, max_size=30),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_every_substring_is_found_in_quotation_marks(
    bigram: Connection, text: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    assert finds(bigram, text, f'"{text[start:end]}"')


@given(
    st.text(st.sampled_from("发票增值税普通上海虹桥站号月日元 \n"), min_size=1, max_size=30),
    st.text(st.sampled_from("发票增值税普通上海虹桥站号月日元"), min_size=1, max_size=3),
)
@settings(max_examples=150, deadline=None)
def test_sure_is_in_wide_is_in_loose(bigram: Connection, text: str, query: str) -> None:
    sure, wide, loose = bigram.execute(
        "SELECT v @@ sure, v @@ wanted, v @@ loose"
        " FROM indexer_v1.parse_query(%s), indexer_v1.to_tsvector(%s) AS v",
        [query, text],
    ).fetchone() or (None, None, None)
    assert wide or not sure
    assert loose or not wide
    # whatever is found without a doubt has the letters
    assert not sure or query in text.replace(" ", "").replace("\n", "")


@given(st.text(st.sampled_from("增值税普通发票上海虹桥站号月日 a1\n"), max_size=40))
@settings(max_examples=150, deadline=None)
def test_words_are_the_text(functions: Connection, text: str) -> None:
    """Whatever cuts a text into words, nothing is lost: positions depend on it."""
    runs = " ".join("".join(c if "一" <= c <= "鿿" else " " for c in text).split())
    words = fetch_value(functions, "SELECT indexer_v1.words(%s)", [runs])
    assert "".join(words or []) == runs.replace(" ", "")
    edges = fetch_value(functions, "SELECT indexer_v1.edges(%s)", [words or []])
    assert len(edges) == len(runs.replace(" ", ""))


# What holds of any text


@given(st.lists(WORDS, min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_indexed_text_is_found_by_its_words(bigram: Connection, words: list[str]) -> None:
    text = " ".join(words)
    for word in words:
        if lexemes(bigram, word):
            assert finds(bigram, text, f'"{word}"'), word
    # Words that PostgreSQL's normalising leaves nothing of can't be asked for.
    if lexemes(bigram, text):
        assert finds(bigram, text, " ".join(f'"{word}"' for word in words))


@pytest.mark.zhparser
@given(st.text(st.sampled_from("发票增值税普通上海虹桥站号月日元 a1b2\n"), min_size=1, max_size=30))
@settings(max_examples=150, deadline=None)
def test_zhparser_finds_a_text_by_itself(zhparser: Connection, text: str) -> None:
    """Whatever a query of the whole text asks for is in the index."""
    asked = "SELECT numnode(indexer_v1.to_tsquery(%s)) > 0"
    if fetch_value(zhparser, asked, [text]):
        assert finds(zhparser, text, text)


@pytest.mark.zhparser
def test_somebody_elses_settings_of_zhparser_change_nothing(zhparser: Connection) -> None:
    parsed = "SELECT count(*) FROM ts_parse('zhparser', '北京大学生前来应聘')"
    words = "SELECT indexer_v1.words('北京大学生前来应聘')"
    with zhparser.transaction(force_rollback=True):
        plain = fetch_value(zhparser, parsed), fetch_value(zhparser, words)
        for option in ("multi_short", "multi_duality", "multi_zall"):
            zhparser.execute(f"SET LOCAL zhparser.{option} = on".encode())
        assert fetch_value(zhparser, parsed) > plain[0]
        assert fetch_value(zhparser, words) == plain[1]


@given(st.text(CHARACTERS, max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_can_be_indexed(functions: Connection, text: str) -> None:
    lexemes(functions, text)


def test_every_block_of_unicode_can_be_indexed(functions: Connection) -> None:
    # The smallest blocks have sixteen characters: every seventh is of them, too.
    valid = [c for c in map(chr, range(1, 0x110000, 7)) if not "\ud800" <= c <= "\udfff"]
    random.Random(1).shuffle(valid)
    for start in range(0, len(valid), 40_000):
        lexemes(functions, "".join(valid[start : start + 40_000]))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("发票 abc " * 100_000, id="the same again"),
        pytest.param(
            "".join(random.Random(2).choices("".join(map(chr, range(0x4E00, 0x9FFF))), k=350_000)),
            id="noise",
        ),
        pytest.param("a" * 1_000_000, id="one word"),
        pytest.param("1" * 1_000_000, id="one number"),
        pytest.param("号" * 350_000, id="one character"),
        pytest.param(" \n" * 500_000, id="nothing"),
        pytest.param(" ".join(f"w{n}" for n in range(150_000)), id="words"),
        pytest.param("é" * 500_000, id="accents"),
        pytest.param("\ufdfa" * 300_000, id="NFKC makes 18 of each"),
    ],
)
def test_very_long_text(functions: Connection, text: str) -> None:
    """A megabyte is indexed by its beginning; no size is an error."""
    words = lexemes(functions, text)
    assert all(len(word.encode()) <= 2046 for word in words)
    if text.startswith("发票"):
        assert finds(functions, text, "发票 abc")


def test_beginning_of_a_long_text_is_found(functions: Connection) -> None:
    assert finds(functions, "增值税发票\n" + "无关 " * 300_000, "增值税")


def test_null_is_null(functions: Connection) -> None:
    assert fetch_value(functions, "SELECT indexer_v1.to_tsvector(NULL) IS NULL")
    assert fetch_value(functions, "SELECT indexer_v1.normalize(NULL) IS NULL")
