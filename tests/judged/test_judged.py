"""The judged set is consistent, and its measures are the textbook's."""

from collections import Counter
from math import log2
from pathlib import Path

import pytest

from tests.judged.check import overlooked
from tests.judged.judged import SETS, Query, Set, literal_matches, queries, texts
from tests.judged.measures import Measures, mean, measure

EVERY = [pytest.param(of, query, id=query.q) for of in SETS for query in queries(of)]


@pytest.mark.parametrize(("of", "query"), EVERY)
def test_letters_and_judgement_agree_or_the_difference_is_written_down(
    of: Set, query: Query
) -> None:
    assert overlooked(query, of) == ([], [])
    literal = set(literal_matches(query.q, of))
    assert set(query.lookalikes) <= literal - set(query.relevant)
    assert set(query.variants) <= set(query.relevant) - literal
    assert set(query.relevant) <= {text.id for text in texts(of)}


@pytest.mark.parametrize("of", SETS)
def test_ids_and_queries_are_unique(of: Set) -> None:
    assert len({text.id for text in texts(of)}) == len(texts(of))
    assert len({query.q for query in queries(of)}) == len(queries(of))


def test_nothing_of_the_blind_sets_is_for_tuning() -> None:
    assert {query.split for of in SETS[1:] for query in queries(of)} == {"report"}


def test_every_kind_is_divided_evenly() -> None:
    counts = Counter((query.kind, query.split) for query in queries())
    for kind in {query.kind for query in queries()}:
        assert abs(counts[kind, "tune"] - counts[kind, "report"]) <= 1


def test_the_set_is_as_large_as_it_says() -> None:
    readme = Path(__file__).with_name("README.md").read_text("utf-8")
    assert f"{len(texts())} invented texts" in readme
    assert f"{len(queries())} queries" in readme


def test_measures_by_hand() -> None:
    found = ["no", "yes", "also", "no2"]
    expected = Measures(
        recall=2 / 3,
        precision=1 / 2,
        mrr=1 / 2,
        ndcg=(1 / log2(3) + 1 / log2(4)) / (1 + 1 / log2(3) + 1 / log2(4)),
    )
    got = measure(found, ["yes", "also", "never"])
    assert got.recall == pytest.approx(expected.recall)
    assert got.precision == pytest.approx(expected.precision)
    assert got.mrr == pytest.approx(expected.mrr)
    assert got.ndcg == pytest.approx(expected.ndcg)


def test_precision_is_over_everything_found_and_ndcg_over_ten() -> None:
    found = [f"right{n}" for n in range(10)] + [f"wrong{n}" for n in range(10)]
    got = measure(found, found[:10])
    assert (got.precision, got.ndcg) == (0.5, 1.0)


def test_nothing_to_find() -> None:
    assert measure([], []) == Measures(None, 1.0, None, None)
    assert measure(["noise"], []) == Measures(None, 0.0, None, None)


def test_nothing_found_counts_against_recall_only() -> None:
    assert measure([], ["answer"]) == Measures(0.0, None, 0.0, 0.0)
    both = mean([measure([], ["answer"]), measure(["answer"], ["answer"])])
    assert both == Measures(0.5, 1.0, 0.5, 0.5)
