"""How good the search is: the goals on the judged set, the order of results, both sides together.

What the goals are about, and how the set was judged: tests/judged/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from assets import add_asset

from immich.base import load_schema
from indexer import results
from indexer.models.engine import Engine
from indexer.models.images import decode, read
from indexer.models.types import Lane
from indexer.settings import Settings
from pg.connect import Connection, connect
from pg.migrate import create_library_tables, migrate
from tests.judged.evaluate import evaluate
from tests.judged.judged import queries
from tests.judged.measures import Measures, mean
from tests.judged.rules import RULES

REPORT = [query for query in queries() if query.split == "report"]


def figures(url: str, rule: str, beside: tuple[str, ...]) -> tuple[Measures, list[Measures]]:
    """On the half that is for reporting: of our rule, and of others."""
    chosen = [entry for entry in RULES if entry.name in (rule, *beside)]
    answers = evaluate(url, REPORT, chosen)
    found = {name: mean([a.measures for a in given]) for name, given in answers.items()}
    return found[rule], [found[name] for name in beside]


def check(ours: Measures, others: list[Measures], precision: float) -> None:
    assert ours.recall is not None
    assert ours.precision is not None
    assert ours.ndcg is not None
    assert ours.recall >= 0.97
    assert ours.precision >= precision
    assert ours.ndcg >= 0.95
    for other in others:
        assert other.recall is not None
        assert other.precision is not None
        assert other.ndcg is not None
        assert ours.recall > other.recall
        assert ours.precision > other.precision
        assert ours.ndcg > other.ndcg


def test_goals_with_our_own_words(server_url: str) -> None:
    check(*figures(server_url, "ours, bigrams", ("Immich", "ILIKE")), precision=0.93)


@pytest.mark.zhparser
def test_goals_with_zhparser(zhparser_databases: Any) -> None:
    beside = ("Immich", "ILIKE", "zhparser, common")
    check(*figures(zhparser_databases.url, "ours, zhparser", beside), precision=0.97)


# The order of results


@pytest.fixture(scope="module")
def db(databases: Any) -> Iterator[Connection]:
    def build(connection: Connection) -> None:
        load_schema(connection)
        migrate(connection)

    url = databases.fresh("indexed 3.1", build)
    with connect(url) as connection:
        yield connection
    databases.drop(url)


def add_text(connection: Connection, text: str) -> UUID:
    asset = add_asset(connection, jobs=False)
    connection.execute(
        "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash)"
        " VALUES (%s, %s, '[]', indexer_v1.to_tsvector(%s), indexer_v1.tokenizer(), 'm',"
        " sha256(''))",
        [asset, text, text],
    )
    return asset


@pytest.mark.parametrize(
    ("query", "best_first"),
    [
        # words as they are; what OCR made of them
        ("生日", ["祝你生日快乐", "妈妈生曰快乐"]),
        ("布洛芬缓释胶囊", ["布洛芬缓释胶囊 说明", "布洛缓释胶囊 说明"]),
        # a word; the beginning of one; inside of one
        ("burger", ["burger menu", "cheeseburger menu"]),
        ("RE16", ["车牌 RE16", "车牌 A8RE16220"]),
        # together; apart
        ("发票 金额", ["发票金额", "发票 甲 乙 丙 丁 戊 己 庚 金额"]),
        ("WiFi密码", ["WiFi密码 1", "WiFi 名称 甲 乙 密码 1"]),
        # short texts are about the word; long ones mention it
        ("出口", ["安全出口", "出口" + " 无关的文字" * 30]),
        # more often
        ("发票", ["发票 发票 发票", "发票 其他 其他"]),
    ],
)
def test_order(db: Connection, query: str, best_first: list[str]) -> None:
    db.execute("DELETE FROM asset")
    assets = [add_text(db, text) for text in reversed(best_first)]
    rows = db.execute("SELECT asset_id, text_score FROM indexer_v1.search(%s)", [query]).fetchall()
    assert [row[0] for row in rows] == assets[::-1]
    assert rows[0][1] > rows[1][1]


def test_letters_that_cut_through_words_only_where_nothing_else_is_found(db: Connection) -> None:
    db.execute("DELETE FROM asset")
    cut = add_text(db, "吴明天天迟到")  # 吴|明天|天, for all that a word list knows of people
    search = "SELECT asset_id, text_score FROM indexer_v1.search('吴明')"
    ((found, score),) = db.execute(search).fetchall()
    assert found == cut
    assert 1 <= score < 2
    word = add_text(db, "见吴明了")
    ((found, score),) = db.execute(search).fetchall()
    assert found == word
    assert 3 <= score < 4


def test_letters_of_a_known_word_that_cut_through_words_are_not_found(db: Connection) -> None:
    db.execute("DELETE FROM asset")
    add_text(db, "鲜花生日礼盒")
    assert not db.execute("SELECT FROM indexer_v1.search('花生')").fetchall()


def test_a_cap_that_is_hit_gives_one_answer(db: Connection) -> None:
    """Of a word that is in more photos than are ranked: always the same ones."""
    db.execute("DELETE FROM asset")
    db.execute(
        'INSERT INTO asset (id, "ownerId", type, "originalPath", "fileCreatedAt",'
        ' "fileModifiedAt", checksum, "originalFileName", "localDateTime", "checksumAlgorithm")'
        " SELECT gen_random_uuid(), %s, 'IMAGE', '/' || n, now(), now(),"
        " uuid_send(gen_random_uuid()), n || '.jpg', now(), 'sha1'"
        " FROM generate_series(1, 3000) AS n",
        [_owner(db)],
    )
    db.execute(
        "INSERT INTO indexer_v1.ocr (asset_id, text, lines, tsv, tokenizer, model, content_hash)"
        " SELECT id, '', '[]', indexer_v1.to_tsvector('发票'), 'x', 'm', sha256('') FROM asset"
    )
    db.execute("ANALYZE indexer_v1.ocr")
    pages = [
        [
            row[0]
            for row in db.execute("SELECT asset_id FROM indexer_v1.search('发票', skip => %s)", [s])
        ]
        for s in (0, 50, 0)
    ]
    assert pages[0] == pages[2]
    assert not set(pages[0]) & set(pages[1])
    assert len(pages[0]) == len(pages[1]) == 50


def _owner(db: Connection) -> UUID:
    owner = uuid4()
    db.execute("INSERT INTO \"user\" (id, email, name) VALUES (%s, %s, '')", [owner, str(owner)])
    return owner


# What is written and what is seen: the samples, as they really look, with the texts on them


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine(Settings(clip_model="stand-in", clip_download="off"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def samples(databases: Any, engine: Engine) -> Iterator[Connection]:
    """A database with the samples: texts as truth.json has them, embeddings of the stand-in."""
    from immich_indexer.runtime import SAMPLES

    url = databases.fresh("folder mode", lambda c: (create_library_tables(c), migrate(c)))
    truth = json.loads((SAMPLES / "truth.json").read_bytes())
    with connect(url) as connection:
        results.use_clip_model(connection, engine.clip_info.name, engine.clip_info.dim)
        for entry in truth:
            name, text = entry["file"], "\n".join(entry["lines"])
            photo = decode(read(SAMPLES / name, max_bytes=2**28), max_bytes=2**28, max_pixels=2**28)
            vector = engine.embed_image(photo, Lane.BULK).result()
            asset = uuid4()
            connection.execute(
                'INSERT INTO asset (id, "ownerId", type, "originalPath", "originalFileName",'
                ' "fileCreatedAt", "fileModifiedAt", "localDateTime")'
                " VALUES (%s, gen_random_uuid(), 'IMAGE', %s, %s, now(), now(), now())",
                [asset, name, name],
            )
            connection.execute(
                "INSERT INTO indexer_v1.ocr"
                " (asset_id, text, lines, tsv, tokenizer, model, content_hash)"
                " VALUES (%s, %s, '[]', indexer_v1.to_tsvector(%s), indexer_v1.tokenizer(), 'm',"
                " sha256(''))",
                [asset, text, text],
            )
            connection.execute(
                "INSERT INTO indexer_v1.clip (asset_id, embedding, model, content_hash)"
                " VALUES (%s, %s::vector, 'stand-in', sha256(''))",
                [asset, str(vector.tolist())],
            )
        yield connection
    databases.drop(url)


def found(samples: Connection, engine: Engine, query: str, **how: Any) -> list[tuple[Any, ...]]:
    picture = samples.execute("SELECT picture FROM indexer_v1.parse_query(%s)", [query]).fetchone()
    assert picture
    embedding = engine.embed_text(picture[0], Lane.INTERACTIVE).result() if picture[0] else None
    return samples.execute(
        'SELECT a."originalFileName", s.text_rank, s.text_score, s.vector_rank, s.vector_distance'
        " FROM indexer_v1.search(query => %(query)s, embedding => %(embedding)s::vector,"
        " method => %(method)s) WITH ORDINALITY AS s JOIN asset a ON a.id = s.asset_id"
        " ORDER BY s.ordinality",
        {
            "query": query,
            "embedding": None if embedding is None else str(embedding.tolist()),
            "method": how.get("method", "rrf"),
        },
    ).fetchall()


@pytest.mark.parametrize("method", ["rrf", "weighted"])
@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("红色的圆 出口", "shape-red-circle-exit.jpg"),
        ("出口 红色的圆", "shape-red-circle-exit.jpg"),
        ("蓝色的正方形 出口", "shape-blue-square-exit.jpg"),
        ("紫色的心 春", "shape-purple-heart-spring.jpg"),
        ("a red circle 出口", "shape-red-circle-exit.jpg"),
    ],
)
def test_what_has_both_comes_first(
    samples: Connection, engine: Engine, query: str, first: str, method: str
) -> None:
    rows = found(samples, engine, query, method=method)
    name, text_rank, text_score, vector_rank, _ = rows[0]
    assert name == first
    assert (text_rank, vector_rank is not None) == (1, True)
    assert 0 < text_score < 1  # a share of the words
    # nothing but what is seen: a share of the words alone isn't an answer
    assert all(row[3] for row in rows)


def test_all_the_words_come_before_some(samples: Connection, engine: Engine) -> None:
    """Texts with every word need no picture; those with some need one."""
    rows = found(samples, engine, "微信支付 合计")
    assert rows
    assert all(row[2] >= 3 for row in rows if row[2])


@pytest.mark.parametrize(
    "query", ["asdfghjk", "量子力学", "二手房", "乌鲁木齐", "qwerty uiop", "😀😀", "99887766"]
)
def test_nonsense_finds_nothing(samples: Connection, engine: Engine, query: str) -> None:
    assert found(samples, engine, query) == []


def test_what_is_far_is_left_out_and_what_is_near_is_found(
    samples: Connection, engine: Engine
) -> None:
    rows = found(samples, engine, "红色的圆")
    assert {row[0] for row in rows} == {"shape-red-circle.jpg", "shape-red-circle-exit.jpg"}
    assert all(row[4] < 0.1 for row in rows)


def test_the_floor_can_be_set(samples: Connection, engine: Engine) -> None:
    assert samples.execute("SELECT indexer_v1.max_distance()").fetchone() == (0.3,)
    with samples.transaction(force_rollback=True):
        samples.execute("INSERT INTO indexer_v1.setting VALUES ('max_distance', '2')")
        assert len(found(samples, engine, "量子力学")) > 20
        samples.execute("UPDATE indexer_v1.setting SET value = '0' WHERE name = 'max_distance'")
        assert found(samples, engine, "红色的圆") == []
    with samples.transaction(force_rollback=True):
        samples.execute(
            "UPDATE indexer_v1.setting SET value = 'cn-clip/x/512' WHERE name = 'clip_model'"
        )
        assert samples.execute("SELECT indexer_v1.max_distance()").fetchone() == (0.7,)
