"""How good is the search? Every rule on the judged set, by kind of query.

    python -m tests.judged.evaluate                            # the embedded server: bigrams
    python -m tests.judged.evaluate --url postgresql://…       # a server with zhparser: all rules
    python -m tests.judged.evaluate --url … --split report     # the figures to quote
    python -m tests.judged.evaluate --url … --errors "ours, zhparser"
    python -m tests.judged.evaluate --url … --set blind2       # a set that nobody tuned on

The user of the URL must be allowed to create databases: the texts go into a scratch database that
is dropped at the end. What the figures mean: measures.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from rich.console import Console
from rich.table import Table

from pg.embedded import Server
from tests.judged.judged import SETS, Query, Set, queries, texts
from tests.judged.measures import Measures, mean, measure
from tests.judged.rules import RULES, Rule


@dataclass(frozen=True, slots=True)
class Answer:
    """What one rule found for one query, best first."""

    query: Query
    found: list[str]

    @property
    def measures(self) -> Measures:
        return measure(self.found, self.query.relevant)


def evaluate(
    url: str, asked: Sequence[Query], rules: Sequence[Rule] = RULES, of: Set = "main"
) -> dict[str, list[Answer]]:
    """Ask every query of every rule that the server can run; answers by name of the rule."""
    answers = {}
    with scratch_database(url) as database:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            zhparser = _has_zhparser(connection)
            if zhparser:
                connection.execute("CREATE EXTENSION IF NOT EXISTS zhparser")
        for rule in rules:
            if rule.zhparser and not zhparser:
                continue
            with psycopg.connect(database, autocommit=True) as connection:
                rule.prepare(connection, texts(of))
            # A connection that hasn't parsed yet: zhparser reads its word lists only once.
            with psycopg.connect(database, autocommit=True) as connection:
                answers[rule.name] = [Answer(q, rule.search(connection, q.q)) for q in asked]
    return answers


@contextmanager
def scratch_database(url: str) -> Iterator[str]:
    """URL of a new database on the same server, dropped afterwards."""
    name = f"judged_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(
                sql.Identifier(name)
            )
        )
        try:
            yield make_conninfo(url, dbname=name)
        finally:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )


def _has_zhparser(connection: psycopg.Connection) -> bool:
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'zhparser')"
    ).fetchone()
    return bool(row and row[0])


def show(console: Console, answers: dict[str, list[Answer]], title: str) -> None:
    """One table: a row per kind of query, four figures per rule."""
    table = Table(title=title, caption="recall  precision  MRR  nDCG@10, means over queries")
    table.add_column("kind")
    table.add_column("n", justify="right")
    for rule in answers:
        table.add_column(rule, justify="center", no_wrap=True)
    asked = [answer.query for answer in next(iter(answers.values()))]
    kinds = list(dict.fromkeys(query.kind for query in asked))
    for kind in [*kinds, "all"]:
        if kind == "all":
            table.add_section()
        chosen = {
            rule: [answer for answer in given if kind in ("all", answer.query.kind)]
            for rule, given in answers.items()
        }
        count = len(next(iter(chosen.values())))
        cells = [_figures(mean([answer.measures for answer in c])) for c in chosen.values()]
        table.add_row(kind, str(count), *cells, style="bold" if kind == "all" else None)
    console.print(table)


def _figures(measures: Measures) -> str:
    values = (measures.recall, measures.precision, measures.mrr, measures.ndcg)
    return " ".join("  - " if value is None else f"{value:.2f}" for value in values)


def show_errors(console: Console, answers: Sequence[Answer]) -> None:
    """What was missed and what was found wrongly, query by query."""
    table = Table("kind", "query", "missed", "false")
    for answer in answers:
        missed = [id_ for id_ in answer.query.relevant if id_ not in answer.found]
        false = [id_ for id_ in answer.found if id_ not in answer.query.relevant]
        if missed or false:
            table.add_row(answer.query.kind, answer.query.q, " ".join(missed), " ".join(false))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", help="a PostgreSQL with pgvector; left out: the embedded one")
    parser.add_argument("--split", choices=["tune", "report", "all"], default="tune")
    parser.add_argument("--set", choices=SETS, default="main", dest="of")
    names = [rule.name for rule in RULES]
    parser.add_argument("--rule", action="append", choices=names, help="only this (repeatable)")
    parser.add_argument("--errors", choices=names, help="list the mistakes of this rule")
    options = parser.parse_args()
    split = options.split if options.of == "main" else "all"
    if options.errors and (options.of, split) not in (("main", "tune"), ("blind", "all")):
        parser.error("--errors lists mistakes of what is for tuning; the rest is for reporting")
    asked = [query for query in queries(options.of) if split in ("all", query.split)]
    rules = [rule for rule in RULES if rule.name in (options.rule or names)]
    with server_of(options.url) as url:
        answers = evaluate(url, asked, rules, options.of)
    # Wide enough for a row per kind, whatever the terminal says.
    console = Console(width=max(Console().width, 24 + 24 * len(answers)))
    left_out = [rule.name for rule in rules if rule.name not in answers]
    if left_out:
        console.print(f"Left out, because this server has no zhparser: {'; '.join(left_out)}.")
    if not answers:
        sys.exit(1)
    show(console, answers, f"{len(asked)} queries ({options.of}, {split})")
    if options.errors in answers:
        show_errors(console, answers[options.errors])


@contextmanager
def server_of(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="immich-indexer-") as folder:
        Path(folder).chmod(0o755)  # the server may run as another user than root
        with Server(Path(folder) / "server") as server:
            yield server.start()


if __name__ == "__main__":
    main()
