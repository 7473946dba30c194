"""The harness on a real server: every rule that needs no zhparser, on known answers."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.judged.evaluate import Answer, evaluate, server_of
from tests.judged.judged import Query, queries
from tests.judged.rules import RULES

ASKED = ("海底捞", "花生", "發票", "乌鲁木齐")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with server_of(None) as url:
        yield url


@pytest.fixture(scope="module")
def answers(url: str) -> dict[str, dict[str, Answer]]:
    asked = [query for query in queries() if query.q in ASKED]
    asked.append(Query(q="100%", kind="extra", split="tune", relevant=["label-03"]))
    return {
        rule: {answer.query.q: answer for answer in given}
        for rule, given in evaluate(url, asked).items()
    }


def test_rules_for_zhparser_are_left_out_without_it(answers: dict[str, dict[str, Answer]]) -> None:
    assert set(answers) == {rule.name for rule in RULES if not rule.zhparser}


@pytest.mark.parametrize("rule", [rule.name for rule in RULES if not rule.zhparser])
def test_every_rule_finds_a_plain_word_and_nothing_for_a_stranger(
    answers: dict[str, dict[str, Answer]], rule: str
) -> None:
    assert answers[rule]["海底捞"].measures.recall == 1
    assert answers[rule]["乌鲁木齐"].found == []


def test_ilike_finds_letters_and_nothing_else(answers: dict[str, dict[str, Answer]]) -> None:
    peanuts = answers["ILIKE"]["花生"]
    assert sorted(peanuts.found) == sorted(peanuts.query.relevant + peanuts.query.lookalikes)
    assert answers["ILIKE"]["100%"].found == ["label-03"]  # % is no wildcard here


def test_ours_reads_both_scripts_alike(answers: dict[str, dict[str, Answer]]) -> None:
    found = answers["ours, bigrams"]["發票"].found
    assert {"invoice-01", "invoice-03"} <= set(found)


def test_the_scratch_database_is_gone(url: str, answers: dict[str, dict[str, Answer]]) -> None:
    with psycopg.connect(url) as connection:
        left = connection.execute("SELECT datname FROM pg_database WHERE datname ~ '^judged_'")
        assert left.fetchall() == []
