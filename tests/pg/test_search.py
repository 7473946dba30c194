"""The hybrid search: both sides, the ranking, who sees what, and the indexes it must use."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from assets import add_asset, add_assets, add_owner

from immich.base import load_schema
from indexer import results
from pg.connect import Connection, connect
from pg.migrate import migrate

DIM = 16
COLUMNS = "asset_id, score, text_rank, text_score, vector_rank, vector_distance"


@dataclass(frozen=True)
class Hit:
    asset_id: UUID
    score: float
    text_rank: int | None
    text_score: float | None
    vector_rank: int | None
    vector_distance: float | None


def search(connection: Connection, query: str | None = None, **how: Any) -> list[Hit]:
    """Vectors as lists; however far, unless the test says otherwise."""
    if (embedding := how.get("embedding")) is not None:
        how["embedding"] = str(list(embedding))
    how = {"query": query, "max_distance": 2, **how}
    casts = {"embedding": "::public.vector", "owners": "::uuid[]"}
    arguments = ", ".join(f"{name} => %({name})s{casts.get(name, '')}" for name in how)
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM indexer_v1.search({arguments})".encode(), how
    ).fetchall()
    return [Hit(*row) for row in rows]


def ids(hits: Sequence[Hit]) -> list[UUID]:
    return [hit.asset_id for hit in hits]


def direction(*parts: float) -> list[float]:
    return [*parts, *[0.0] * (DIM - len(parts))]


RED, BLUE, GREEN = direction(1), direction(0, 1), direction(0, 0, 1)


def add(
    connection: Connection,
    text: str | None = None,
    embedding: Sequence[float] | None = None,
    **how: Any,
) -> UUID:
    """A photo with these results."""
    asset = add_asset(connection, jobs=False, **how)
    if text is not None:
        connection.execute(
            "INSERT INTO indexer_v1.ocr"
            " (asset_id, text, lines, tsv, tokenizer, model, content_hash)"
            " VALUES (%s, %s, '[]', indexer_v1.to_tsvector(%s), indexer_v1.tokenizer(), 'm',"
            " sha256(''))",
            [asset, text, text],
        )
    if embedding is not None:
        connection.execute(
            "INSERT INTO indexer_v1.clip (asset_id, embedding, model, content_hash)"
            " VALUES (%s, %s::vector, 'test', sha256(''))",
            [asset, str(list(embedding))],
        )
    return asset


def build(connection: Connection) -> None:
    load_schema(connection)
    migrate(connection)
    results.use_clip_model(connection, "test", DIM)


@pytest.fixture
def db(databases: Any) -> Iterator[Connection]:
    url = databases.fresh(f"clip of {DIM}", build)
    with connect(url) as connection:
        yield connection
    databases.drop(url)


# One side


def test_text_alone(db: Connection) -> None:
    found = add(db, "增值税发票")
    add(db, "收据")
    (hit,) = search(db, "发票")
    assert (hit.asset_id, hit.text_rank) == (found, 1)
    assert hit.text_score
    assert (hit.vector_rank, hit.vector_distance) == (None, None)
    assert hit.score == pytest.approx(1 / 61)


def test_vector_alone(db: Connection) -> None:
    near, far = add(db, embedding=RED), add(db, embedding=direction(1, 1))
    first, second = search(db, embedding=RED)
    assert [first.asset_id, second.asset_id] == [near, far]
    assert [first.vector_rank, second.vector_rank] == [1, 2]
    assert first.vector_distance == pytest.approx(0, abs=1e-3)
    assert second.vector_distance == pytest.approx(1 - 2**-0.5, abs=1e-3)
    assert (first.text_rank, first.text_score) == (None, None)


def test_length_of_the_embedding_says_nothing(db: Connection) -> None:
    add(db, embedding=RED)
    add(db, embedding=BLUE)
    short = search(db, embedding=[value * 0.01 for value in RED])
    assert [(hit.asset_id, hit.vector_rank) for hit in short] == [
        (hit.asset_id, hit.vector_rank) for hit in search(db, embedding=RED)
    ]


def test_words_that_nobody_wrote(db: Connection) -> None:
    add(db, "收据")
    assert search(db, "发票") == []
    seen = add(db, "收据", embedding=RED)
    assert ids(search(db, "发票", embedding=RED)) == [seen]


@pytest.mark.parametrize("query", [None, "", "  "])
def test_nothing_asked(db: Connection, query: str | None) -> None:
    add(db, "发票", RED)
    assert search(db, query) == []


def test_empty_index(db: Connection) -> None:
    assert search(db, "发票", embedding=RED) == []


# Both


@pytest.fixture
def four(db: Connection) -> tuple[UUID, UUID, UUID, UUID]:
    """Both; text alone; picture alone; text, but another picture."""
    return (
        add(db, "发票", direction(1, 0.1)),
        add(db, "发票"),
        add(db, "", RED),
        add(db, "红色 发票 收据 无关", BLUE),
    )


def test_reciprocal_rank_fusion_by_hand(
    db: Connection, four: tuple[UUID, UUID, UUID, UUID]
) -> None:
    both, text, picture, other = four
    hits = {hit.asset_id: hit for hit in search(db, "发票", embedding=RED)}
    assert {asset: hit.vector_rank for asset, hit in hits.items()} == {
        picture: 1,
        both: 2,
        other: 3,
        text: None,
    }
    assert {hit.text_rank for hit in hits.values()} == {1, 2, 3, None}
    assert hits[picture].text_rank is None
    for hit in hits.values():
        expected = sum(1 / (60 + rank) for rank in (hit.text_rank, hit.vector_rank) if rank)
        assert hit.score == pytest.approx(expected)
    assert ids(search(db, "发票", embedding=RED))[0] == both


@pytest.mark.parametrize("method", ["rrf", "weighted"])
def test_order_is_by_score(
    db: Connection, four: tuple[UUID, UUID, UUID, UUID], method: str
) -> None:
    hits = search(db, "发票", embedding=RED, method=method)
    assert len(hits) == 4
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(0 <= hit.score <= 1 for hit in hits)


@pytest.mark.parametrize("method", ["rrf", "weighted"])
def test_ranks_are_those_of_the_raw_scores(
    db: Connection, four: tuple[UUID, UUID, UUID, UUID], method: str
) -> None:
    hits = search(db, "发票", embedding=RED, method=method)
    by_text = sorted((hit.text_rank, -hit.text_score) for hit in hits if hit.text_rank)  # type: ignore[operator]
    assert [score for _, score in by_text] == sorted(score for _, score in by_text)
    by_vector = sorted((hit.vector_rank, hit.vector_distance) for hit in hits if hit.vector_rank)  # type: ignore[type-var]
    distances: list[Any] = [distance for _, distance in by_vector]
    assert distances == sorted(distances)
    assert [rank for rank, _ in by_vector] == [1, 2, 3]


def test_weights_by_hand(db: Connection, four: tuple[UUID, UUID, UUID, UUID]) -> None:
    """Scores of each side stretched to 0..1, the best being 1."""
    both, text, picture, other = four

    def scores(weight: float) -> dict[UUID, float]:
        hits = search(db, "发票", embedding=RED, method="weighted", text_weight=weight)
        return {hit.asset_id: hit.score for hit in hits}

    vector_side = scores(0)
    assert vector_side[picture] == pytest.approx(1)
    assert vector_side[other] == pytest.approx(0)
    assert vector_side[text] == 0
    # From distance 0 to 1 here: (1 - 0.005) / (1 - 0)
    assert vector_side[both] == pytest.approx(1.01**-0.5, abs=2e-3)
    text_side = scores(1)
    assert text_side[picture] == 0
    assert max(text_side.values()) == pytest.approx(1)
    assert text_side[both] == pytest.approx(text_side[text])
    for weight in (0.25, 0.5, 0.75):
        for asset, score in scores(weight).items():
            expected = weight * text_side[asset] + (1 - weight) * vector_side[asset]
            assert score == pytest.approx(expected)


def test_one_candidate_is_the_best_of_its_side(db: Connection) -> None:
    add(db, "发票", RED)
    (hit,) = search(db, "发票", embedding=BLUE, method="weighted", text_weight=0.3)
    assert hit.score == pytest.approx(1)


def test_too_far_is_dropped(db: Connection) -> None:
    near, far = add(db, "发票", direction(1, 0.1)), add(db, "发票", BLUE)
    assert ids(search(db, embedding=RED, max_distance=0.5)) == [near]
    hits = {hit.asset_id: hit for hit in search(db, "发票", embedding=RED, max_distance=0.5)}
    assert hits[far].vector_rank is None
    assert hits[far].text_rank is not None


# The query language on both sides


def test_ocr_is_for_text_alone(db: Connection) -> None:
    written = add(db, "红色")
    add(db, embedding=RED)
    assert ids(search(db, "ocr:红色", embedding=RED)) == [written]
    assert len(search(db, "红色", embedding=RED)) == 2


def test_what_is_excluded_is_no_picture_either(db: Connection) -> None:
    void, fine = add(db, "发票 作废", RED), add(db, "发票", BLUE)
    unread = add(db, embedding=GREEN)
    assert set(ids(search(db, "发票 -作废", embedding=RED))) == {fine, unread}
    assert set(ids(search(db, "发票", embedding=RED))) == {void, fine, unread}


def test_only_excluding_finds_nothing(db: Connection) -> None:
    add(db, "发票", RED)
    assert search(db, "-作废", embedding=RED) == []


# Who sees what


def test_owners(db: Connection) -> None:
    alice, bob, eve = (add_owner(db) for _ in range(3))
    hers = add(db, "发票", RED, owner=alice)
    his = add(db, "发票", direction(1, 0.1), owner=bob)
    for query in ("发票", None):
        embedding = None if query else RED
        assert ids(search(db, query, embedding=embedding, owners=[alice])) == [hers]
        assert set(ids(search(db, query, embedding=embedding, owners=[alice, bob]))) == {hers, his}
        assert search(db, query, embedding=embedding, owners=[eve]) == []
        assert search(db, query, embedding=embedding, owners=[]) == []
        assert len(search(db, query, embedding=embedding, owners=None)) == 2


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("visibility = 'timeline'", True),
        ("visibility = 'archive'", True),
        ("visibility = 'hidden'", False),
        ("visibility = 'locked'", False),
        ("\"deletedAt\" = now(), status = 'trashed'", False),
        ("\"deletedAt\" = now(), status = 'deleted'", False),
    ],
)
def test_trashed_hidden_and_locked_are_never_shown(
    db: Connection, change: str, shown: bool
) -> None:
    asset = add(db, "发票", RED)
    db.execute(f"UPDATE asset SET {change}".encode())
    owner = db.execute('SELECT "ownerId" FROM asset').fetchone()
    assert owner
    for how in ({"query": "发票"}, {"embedding": RED}, {"query": "发票", "embedding": RED}):
        for owners in (None, list(owner)):
            for method in ("rrf", "weighted"):
                hits = search(db, **how, owners=owners, method=method)  # type: ignore[arg-type]
                assert ids(hits) == ([asset] if shown else [])


# Pages


def test_pages(db: Connection) -> None:
    for number in range(30):
        add(db, "发票 " * (number % 5 + 1), direction(1, number / 10))
    everything = ids(search(db, "发票", embedding=RED))
    assert len(set(everything)) == 30
    pages = [
        ids(search(db, "发票", embedding=RED, max_results=7, skip=skip)) for skip in range(0, 35, 7)
    ]
    assert [asset for page in pages for asset in page] == everything
    assert search(db, "发票", skip=30) == []
    assert search(db, "发票", max_results=0) == []
    assert len(search(db, "发票", max_results=1000)) == 30


def test_equal_scores_have_one_order(db: Connection) -> None:
    assets = sorted(add(db, "发票", RED) for _ in range(12))
    assert ids(search(db, "发票")) == assets
    assert ids(search(db, embedding=RED, method="weighted")) == assets
    assert ids(search(db, "发票", embedding=RED)) == assets


@pytest.mark.parametrize("how", [{"max_results": -1}, {"skip": -1}])
def test_negative_pages_are_refused(db: Connection, how: dict[str, int]) -> None:
    with pytest.raises(psycopg.DataError):
        search(db, "发票", **how)


# What can't be


@pytest.mark.parametrize("method", ["best", "", None, "RRF"])
def test_unknown_method(db: Connection, method: str | None) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="method is rrf or weighted"):
        search(db, "发票", method=method)


def test_wrong_dimension(db: Connection) -> None:
    add(db, embedding=RED)
    with pytest.raises(psycopg.DataError, match=f"dimensions.*{DIM}"):
        search(db, embedding=[1.0, 2.0, 3.0])


def test_null_and_zero_vectors_are_none(db: Connection) -> None:
    asset = add(db, "发票", RED)
    for embedding in (None, [0.0] * DIM):
        (hit,) = search(db, "发票", embedding=embedding)
        assert (hit.asset_id, hit.vector_rank) == (asset, None)
        assert search(db, None, embedding=embedding) == []


def test_zero_vector_in_the_index(db: Connection) -> None:
    """A blank picture may have one: it is far from everything, and no error."""
    add(db, "", [0.0] * DIM)
    seen = add(db, "", RED)
    assert ids(search(db, embedding=RED))[0] == seen


# Scale: the plans, and the answers, with enough photos for the planner to have a reason

MANY = 8000
WORDS = (
    *("合计", "金额", "日期", "地址", "电话", "数量", "单价", "服务"),
    *("欢迎", "光临", "谢谢", "惠顾", "超市", "餐厅", "门票"),
)


@dataclass(frozen=True)
class Large:
    connection: Connection
    most: UUID
    few: UUID
    vectors: dict[UUID, list[float]]


@pytest.fixture(scope="module")
def large(databases: Any) -> Iterator[Large]:
    """8,000 photos: 7,600 of one owner, 400 of another; 20 with a rare word."""
    url = databases.fresh(f"clip of {DIM}", build)
    with connect(url) as connection:
        dice = random.Random(5)
        most, few = add_owner(connection), add_owner(connection)
        assets = add_assets(connection, MANY - 400, owner=most, preview=False)
        assets += add_assets(connection, 400, owner=few, preview=False)
        vectors = {asset: [dice.gauss(0, 1) for _ in range(DIM)] for asset in assets}
        connection.execute("DROP INDEX indexer_v1.clip_embedding_idx")  # faster built afterwards
        with (
            connection.cursor() as cursor,
            cursor.copy(
                "COPY indexer_v1.clip (asset_id, embedding, model, content_hash) FROM STDIN"
            ) as copy,
        ):
            for asset, vector in vectors.items():
                copy.write_row([asset, str(vector), "test", bytes(32)])
        connection.execute("SELECT indexer_v1.ensure_clip_index()")
        texts = [" ".join(dice.choices(WORDS, k=4)) for _ in assets]
        for number in range(0, MANY, MANY // 20):
            texts[number] += " 机密"
        connection.execute(
            "INSERT INTO indexer_v1.ocr"
            " (asset_id, text, lines, tsv, tokenizer, model, content_hash)"
            " SELECT id, body, '[]', tsv[n], indexer_v1.tokenizer(), 'm', sha256('')"
            " FROM unnest(%s::uuid[], %s::text[]) AS t(id, body),"
            " LATERAL (SELECT ARRAY[indexer_v1.to_tsvector(body)] AS tsv, 1 AS n) AS made",
            [assets, texts],
        )
        connection.execute("VACUUM ANALYZE asset, indexer_v1.clip, indexer_v1.ocr")
        yield Large(connection, most, few, vectors)
    databases.drop(url)


@contextmanager
def plans(connection: Connection) -> Iterator[list[str]]:
    """Plans of everything that is run inside, also inside of functions."""
    heard: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        heard.append(diagnostic.message_primary or "")

    try:
        connection.execute("LOAD 'auto_explain'")
    except psycopg.errors.UndefinedFile:
        pytest.skip("this PostgreSQL comes without auto_explain")
    for setting in (
        "log_min_duration = 0",
        "log_nested_statements = on",
        "log_analyze = on",
        "log_level = notice",
    ):
        connection.execute(f"SET auto_explain.{setting}".encode())
    connection.add_notice_handler(note)
    try:
        yield heard
    finally:
        connection.remove_notice_handler(note)
        connection.execute("SET auto_explain.log_min_duration = -1")


QUERIES: dict[str, dict[str, Any]] = {
    "hybrid": {"query": "机密", "embedding": RED},
    "with exclusion": {"query": "机密 -超市", "embedding": RED},
    "weighted": {"query": "机密", "embedding": RED, "method": "weighted"},
    "second page": {"query": "机密", "embedding": RED, "skip": 50},
    "near ones": {"query": "机密", "embedding": RED, "max_distance": 0.9},
}


@pytest.mark.parametrize("kind", QUERIES)
@pytest.mark.parametrize("scoped", [False, True], ids=["everybody", "one owner"])
def test_both_indexes_are_used(large: Large, kind: str, scoped: bool) -> None:
    how = {**QUERIES[kind], "owners": [large.most] if scoped else None}
    for _ in range(7):  # a generic plan would come with the sixth
        with plans(large.connection) as heard:
            assert search(large.connection, **how)
        text = "\n".join(heard)
        assert "Index Scan using clip_embedding_idx" in text, text
        assert "Bitmap Index Scan on ocr_tsv_idx" in text, text
        assert "Seq Scan on ocr" not in text, text
        assert "Seq Scan on clip" not in text, text


def test_the_best_texts_for_a_word_that_is_everywhere(large: Large) -> None:
    """Cut short by impact: the texts on the page score what the best of all do."""
    exact = large.connection.execute(
        "SELECT 3 + ts_rank_cd('{0.4,0.7,0.8,1}', tsv, sure, 33) FROM indexer_v1.ocr,"
        " indexer_v1.parse_query('合计') WHERE tsv @@ sure ORDER BY 1 DESC"
    ).fetchall()
    assert len(exact) > 1000
    with plans(large.connection) as heard:
        hits = search(large.connection, "合计", max_results=100)
    assert [hit.text_score for hit in hits] == pytest.approx([score for (score,) in exact[:100]])
    text = "\n".join(heard)
    assert "+合计" in text, text
    assert "(tsv @@ '''合计'''::tsquery)" not in text, text  # not everything that has the word


def test_the_index_is_asked_what_it_can_answer(large: Large) -> None:
    """Without weights: no row is read to look at its text before it is known to be in scope."""
    with plans(large.connection) as heard:
        assert search(large.connection, "机密", owners=[large.most])
    text = "\n".join(heard)
    assert "Index Cond: (tsv @@ '''机密'''::tsquery)" in text, text
    assert "Rows Removed by Index Recheck" not in text, text


def test_a_side_that_is_not_asked_is_not_run(large: Large) -> None:
    with plans(large.connection) as heard:
        search(large.connection, "ocr:机密", embedding=RED)
    assert "Index Scan using clip_embedding_idx" not in "\n".join(
        line for line in heard if "never executed" not in line
    )
    with plans(large.connection) as heard:
        search(large.connection, embedding=RED)
    assert "Seq Scan on ocr" not in "\n".join(heard)


def nearest(large: Large, probe: Sequence[float], among: set[UUID], count: int) -> set[UUID]:
    """The exact answer."""

    def cosine(vector: Sequence[float]) -> float:
        dot = sum(a * b for a, b in zip(vector, probe, strict=True))
        return dot / sum(a * a for a in vector) ** 0.5

    return set(sorted(among, key=lambda asset: -cosine(large.vectors[asset]))[:count])


def owned(large: Large, owner: UUID) -> set[UUID]:
    rows = large.connection.execute('SELECT id FROM asset WHERE "ownerId" = %s', [owner])
    return {asset for (asset,) in rows}


def test_the_nearest_are_found(large: Large) -> None:
    dice = random.Random(7)
    found = 0
    for _ in range(10):
        probe = [dice.gauss(0, 1) for _ in range(DIM)]
        hits = search(large.connection, embedding=probe, max_results=100)
        assert len(hits) == 100
        found += len(nearest(large, probe, set(large.vectors), 100) & set(ids(hits)))
    assert found >= 950


@pytest.mark.parametrize("owner", ["most", "few"])
def test_an_owners_nearest_are_found(large: Large, owner: str) -> None:
    """A filter inside the vector side: as many come as are asked for, and the right ones."""
    mine = getattr(large, owner)
    probe = large.vectors[next(iter(large.vectors))]
    hits = search(large.connection, embedding=probe, owners=[mine], max_results=100)
    assert len(hits) == 100
    among = owned(large, mine)
    assert set(ids(hits)) <= among
    assert len(nearest(large, probe, among, 100) & set(ids(hits))) >= 95


def test_every_text_is_found(large: Large) -> None:
    assert len(search(large.connection, "机密", max_results=1000)) == 20
    assert len(search(large.connection, "机密", owners=[large.few], max_results=1000)) == 1
    common = search(large.connection, "合计", max_results=5000)
    exact = large.connection.execute(
        "SELECT count(*) FROM indexer_v1.ocr WHERE text LIKE '%合计%'"
    ).fetchone()
    assert exact == (len(common),)


def test_deep_pages(large: Large) -> None:
    pages = [
        set(ids(search(large.connection, embedding=RED, max_results=50, skip=skip)))
        for skip in (0, 150, 400)
    ]
    assert [len(page) for page in pages] == [50, 50, 50]
    assert not pages[0] & pages[1]


def test_nobodys_photos(large: Large) -> None:
    assert search(large.connection, "机密", embedding=RED, owners=[uuid4()]) == []
