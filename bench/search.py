"""How fast is the search, and how much of the exact answer does it find?

    python -m bench.search                      # 100,000 photos, embedded server
    python -m bench.search --size 1000000       # also: make bench-search SIZE=1000000
    python -m bench.search --url postgresql://… # a database of its own is made on that server
    python -m bench.search --fill               # only make the photos; can be stopped and resumed
    python -m bench.search --only 'hybrid'      # some of the queries, and what they are beside
    python -m bench.search --json > figures.json

The photos (bench/photos.py) are made once and kept in .data/bench. Every kind of query is asked
once a round, so what else the machine does slows all of them down alike. Times are those of the
client, with the answer fetched; "computing" is the processor time of the server for it, which a
busy machine doesn't stretch. recall@100: which share of the hundred best photos of the exact
answer (bench/exact.py) is among the hundred returned; ties count as found.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import exact, photos
from bench.photos import Library
from pg.connect import Connection
from pg.embedded import Server
from pg.migrate import migrate, retokenize, stale_rows
from pg.query import fetch_value

K = 100
YEAR = {"takenAfter": "2019-01-01T00:00:00Z", "takenBefore": "2019-12-31T23:59:59Z"}


def settings(size: int) -> dict[str, str]:
    """Of a server in whose memory everything is that is searched: of 4 GB, of 16 for a million."""
    return {
        # Both ways' vectors and texts with their indexes are 11 kB a photo.
        "shared_buffers": f"{max(2000, size * 12 // 1000)}MB",
        "effective_cache_size": f"{max(6000, size * 14 // 1000)}MB",
        # An index of vectors that outgrows it while it is built takes many times as long.
        "maintenance_work_mem": f"{max(2000, size * 4 // 1000)}MB",
        "max_parallel_maintenance_workers": "1",
        "max_wal_size": "8GB",
        "checkpoint_timeout": "30min",
        "synchronous_commit": "off",
    }


# In how many photos the words are that are asked for, as shares of all.
SHARES = {"rare": (0.0001, 0.0004), "common": (0.005, 0.02), "very common": (0.04, 1)}


@dataclass
class Kind:
    """One kind of query, and what was measured.

    Attributes:
        beside: name of the pure vector query with the same filter, on the same page.
        statement: SQL with named parameters.
        asked: parameters, one set a round.
        rounds: at most so many; None: as many as are asked for.
        milliseconds, recall: one figure a round.
        computing: the same, only what the server's processor worked on it.
    """

    name: str
    beside: str
    statement: str
    asked: list[dict[str, Any]]
    rounds: int | None = None
    milliseconds: list[float] = field(default_factory=list)
    computing: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        return {
            "beside": self.beside,
            "p50": percentile(self.milliseconds, 50),
            "p95": percentile(self.milliseconds, 95),
            "p50 computing": percentile(self.computing, 50),
            "p95 computing": percentile(self.computing, 95),
            "recall": fmean(self.recall) if self.recall else None,
        }


def percentile(values: list[float], share: int) -> float | None:
    return quantiles(values, n=100, method="inclusive")[share - 1] if values else None


# The statements

OURS = """
SELECT asset_id, score, text_rank, text_score, vector_rank, vector_distance
FROM indexer_v1.search(query => %(query)s, embedding => %(probe)s::vector,
    owners => %(owners)s::uuid[], max_results => %(k)s, skip => %(skip)s, max_distance => 2,
    filter => %(filter)s::jsonb)
"""

# server/src/repositories/search.repository.ts of Immich 3.1, searchSmart with pgvector, by id only.
IMMICH = """
SELECT asset.id FROM asset INNER JOIN smart_search ON asset.id = smart_search."assetId"
WHERE asset.visibility IN ('archive', 'timeline') AND asset."ownerId" = ANY (%(owners)s::uuid[])
    AND asset."deletedAt" IS NULL
ORDER BY smart_search.embedding <=> %(probe)s::vector, asset.id
LIMIT %(k)s
"""

# What is published as hybrid search for pgvector (its Python examples, rrf.py): two limited
# subqueries, text made into tsvectors as it is asked for.
NAIVE = """
WITH semantic AS (
    SELECT "assetId" AS id, rank() OVER (ORDER BY embedding <=> %(probe)s::vector) AS rank
    FROM smart_search ORDER BY embedding <=> %(probe)s::vector LIMIT 200
), keyword AS (
    SELECT asset_id AS id,
           rank() OVER (ORDER BY ts_rank_cd(to_tsvector('simple', text), query) DESC) AS rank
    FROM indexer_v1.ocr, plainto_tsquery('simple', %(query)s) AS query
    WHERE to_tsvector('simple', text) @@ query
    ORDER BY ts_rank_cd(to_tsvector('simple', text), query) DESC LIMIT 200
)
SELECT coalesce(semantic.id, keyword.id) AS id,
       coalesce(1.0 / (60 + semantic.rank), 0) + coalesce(1.0 / (60 + keyword.rank), 0) AS score
FROM semantic FULL OUTER JOIN keyword ON semantic.id = keyword.id
ORDER BY score DESC LIMIT %(k)s
"""


def kinds(made: Library, words: dict[str, list[str]], rounds: int) -> list[Kind]:
    probes = made.probes(rounds)

    def ours(name: str, text: str | None, beside: str | None, **how: Any) -> Kind:
        asked = [
            {
                "query": words[text][n % len(words[text])] if text else None,
                "probe": probes[n] if beside else None,
                "owners": how.get("owners"),
                "filter": json.dumps(how["filter"]) if "filter" in how else None,
                "skip": how.get("skip", 0),
                "k": K,
            }
            for n in range(rounds)
        ]
        return Kind(name, beside or "vector", OURS, asked)

    scopes: dict[str, dict[str, Any]] = {
        "one owner (25 %)": {"owners": [made.owners[1]]},
        "album of 1 %": {"filter": {"albumIds": [made.album]}},
        "one year": {"filter": YEAR},
        "page 11": {"skip": 1000},
    }
    pure = [{"probe": probe, "owners": made.owners, "k": K} for probe in probes]
    naive = [
        {"query": words["common"][n % len(words["common"])], "probe": probe, "k": K}
        for n, probe in enumerate(probes)
    ]
    return [
        *(ours(f"text, {share} word", share, None) for share in SHARES),
        ours("vector", None, "vector"),
        *(ours(f"hybrid, {share} word", share, "vector") for share in SHARES),
        *(
            ours(f"{side}, {scope}", text, f"vector, {scope}", **how)
            for scope, how in scopes.items()
            for side, text in (("vector", None), ("common", "common"), ("very c.", "very common"))
        ),
        Kind("Immich's smart search", "vector", IMMICH, pure),
        Kind("naive hybrid", "vector", NAIVE, naive, rounds=5),
    ]


# Measuring


def ask(connection: Connection, kind: Kind, number: int) -> float:
    """Milliseconds until the whole answer is here."""
    started = time.perf_counter()
    connection.execute(kind.statement.encode(), kind.asked[number]).fetchall()
    return (time.perf_counter() - started) * 1000


def computed(connection: Connection) -> float | None:
    """Milliseconds of processor time of the connection's backend; None where it can't be seen."""
    try:
        schedule = Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text()
    except OSError:
        return None
    return int(schedule.split()[0]) / 1e6


def measure(connection: Connection, made: list[Kind], rounds: int, progress: Progress) -> None:
    """Every kind once a round; the first round only warms up, the last ones are compared."""
    task = progress.add_task("queries", total=rounds + 1)
    for number in range(rounds + 1):
        for kind in made:
            if kind.rounds and number > kind.rounds:
                continue
            before = computed(connection)
            took = ask(connection, kind, number % rounds)
            after = computed(connection)
            if number:
                kind.milliseconds.append(took)
                if before is not None and after is not None:
                    kind.computing.append(after - before)
        progress.advance(task)


def compare(connection: Connection, made: list[Kind], count: int, progress: Progress) -> None:
    """recall@100 of `count` queries of every kind."""
    task = progress.add_task("exact answers", total=len(made) * count)
    for kind in made:
        for number in range(min(count, len(kind.asked))):
            if kind.statement is not NAIVE:  # its ranking is another one
                # Of a later page: everything up to its end.
                asked = kind.asked[number]
                asked = {**asked, "skip": 0, "k": asked.get("skip", 0) + asked["k"]}
                rows = connection.execute(kind.statement.encode(), asked).fetchall()
                kind.recall.append(exact.recall(connection, [row[0] for row in rows], asked))
            progress.advance(task)


def choose_words(connection: Connection, count: int = 20) -> dict[str, list[str]]:
    """Words of two characters, by the share of photos that have them (of 10,000 photos)."""
    total = fetch_value(connection, "SELECT count(*) FROM indexer_v1.ocr")
    connection.execute("SET search_path = pg_catalog, public")
    rows = connection.execute(
        "SELECT word, ndoc FROM ts_stat(format($$SELECT tsv FROM indexer_v1.ocr"
        " WHERE hashtext(asset_id::text) %%%% %%s = 0$$, %s::int))"
        " WHERE word ~ '^[一-鿿]{2}$' AND indexer_v1.is_word(word) ORDER BY md5(word)",
        [max(total // 10_000, 1)],
    ).fetchall()
    sample = min(total, 10_000)
    chosen = {
        name: [word for word, found in rows if low <= found / sample <= high][:count]
        for name, (low, high) in SHARES.items()
    }
    if missing := [name for name, words in chosen.items() if not words]:
        raise SystemExit(f"{total} photos are too few: no {missing[0]} word is in them.")
    return chosen


# What a search costs before it is asked


def costs(connection: Connection, probes: list[str], immich: bool) -> dict[str, float]:
    """Bytes a photo of each table and index, and what it costs to index one."""
    total = fetch_value(connection, "SELECT count(*) FROM asset")
    sizes = {
        "vectors, halfvec": "pg_relation_size('indexer_v1.clip')",
        "index of vectors, halfvec": "pg_relation_size('indexer_v1.clip_embedding_idx')",
        "vectors, Immich's": "pg_relation_size('smart_search')"
        " + pg_relation_size((SELECT reltoastrelid FROM pg_class"
        " WHERE oid = 'smart_search'::regclass))",
        **({"index of vectors, Immich's": "pg_relation_size('clip_index')"} if immich else {}),
        "texts, with lines and tsvectors": "pg_table_size('indexer_v1.ocr')",
        "index of texts": "pg_relation_size('indexer_v1.ocr_tsv_idx')",
    }
    found = {
        f"bytes a photo: {what}": fetch_value(connection, f"SELECT {size}") / total
        for what, size in sizes.items()
    }
    text = fetch_value(
        connection,
        r"SELECT left(string_agg(text, E'\n' ORDER BY md5(n::text)), 500) FROM bench.line"
        " WHERE n % 400 = 0",
    )
    found["CPU ms to index 500 characters"] = _cost(
        connection, "SELECT indexer_v1.to_tsvector(%s)", [[text]] * 30
    )
    ids = connection.execute("SELECT asset_id FROM indexer_v1.clip LIMIT 20").fetchall()
    with connection.transaction(force_rollback=True):
        found["CPU ms to index an embedding"] = _cost(
            connection,
            "UPDATE indexer_v1.clip SET embedding = %s::vector::halfvec WHERE asset_id = %s",
            [[probe, asset] for probe, (asset,) in zip(probes, ids, strict=False)],
        )
    found["recall@100 of halfvec against vector, both compared one by one"] = fmean(
        fetch_value(connection, _HALFVEC, {"probe": probe, "k": K}) / K for probe in probes[:5]
    )
    return found


# No index orders by a sum.
_HALFVEC = """
SELECT count(*)
FROM (SELECT asset_id FROM indexer_v1.clip
      ORDER BY (embedding <=> %(probe)s::vector::halfvec) + 0 LIMIT %(k)s) AS half
JOIN (SELECT "assetId" AS asset_id FROM smart_search
      ORDER BY (embedding <=> %(probe)s::vector) + 0 LIMIT %(k)s) AS whole USING (asset_id)
"""


def _cost(connection: Connection, statement: str, asked: list[list[Any]]) -> float:
    """Median milliseconds, of the server's processor where that can be seen."""
    took = []
    for parameters in asked:
        before, started = computed(connection), time.perf_counter()
        connection.execute(statement.encode(), parameters)
        elapsed, after = (time.perf_counter() - started) * 1000, computed(connection)
        took.append(elapsed if before is None or after is None else after - before)
    return median(took)


# The command


@contextmanager
def database(url: str | None, folder: Path, size: int, seed: int) -> Iterator[str]:
    """URL of the database of this size; made where it isn't there yet, kept afterwards."""
    if url:
        yield _database(url, size, seed)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with Server(folder, settings=settings(size)) as server:
        yield _database(server.start(), size, seed)


def _database(url: str, size: int, seed: int) -> str:
    name = photos.name(size, seed)
    with psycopg.connect(url, autocommit=True) as connection:
        known = fetch_value(
            connection, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = %s)", [name]
        )
        if not known:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(
                    sql.Identifier(name)
                )
            )
    return make_conninfo(url, dbname=name)


def prepare(
    connection: Connection, size: int, seed: int, progress: Progress, immich: bool
) -> dict[str, float]:
    """The photos, and our functions as they are now. Returns seconds each stage took to build."""
    photos.fill(connection, size, seed, progress, immich)
    migrate(connection, "bigram")
    task = progress.add_task("texts of an older tokenizer", total=stale_rows(connection))
    for done in retokenize(connection):
        progress.advance(task, done)
    return dict(connection.execute("SELECT name, seconds FROM bench.built").fetchall())


def _into_memory(connection: Connection) -> None:
    """Read all tables and indexes; otherwise who is asked first would pay for it."""
    connection.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
    connection.execute(
        "SELECT pg_prewarm(oid) FROM pg_class"
        " WHERE relkind IN ('r', 'i', 't') AND pg_relation_size(oid) > 0 AND oid >= 16384"
    )


def show(console: Console, figures: dict[str, Any]) -> None:
    queries = Table(title=f"{figures['photos']:,} photos, {figures['server']}; ms")
    queries.add_column("query")
    columns = ("p50", "p95", "p50 computing", "p95 computing")
    for title in ("p50", "p95", "CPU p50", "CPU p95", "× vector", "recall"):
        queries.add_column(title, justify="right", no_wrap=True)
    by = "p50 computing" if figures["queries"]["vector"]["p50 computing"] else "p50"
    for name, row in figures["queries"].items():
        cells = ["" if row[column] is None else f"{row[column]:.1f}" for column in columns]
        cells.append(f"{row[by] / figures['queries'][row['beside']][by]:.1f}")
        cells.append("" if row["recall"] is None else f"{row['recall']:.3f}")
        queries.add_row(name, *cells)
    console.print(queries)
    rest = Table("", "")
    rest.columns[1].justify = "right"
    for name, seconds in figures["built"].items():
        rest.add_row(f"seconds to build {name}", f"{seconds:.0f}")
    for name, cost in figures["costs"].items():
        rest.add_row(name, f"{cost:,.3g}" if cost < 100 else f"{cost:,.0f}")
    console.print(rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=100_000, help="photos (100000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40, help="queries of each kind (40)")
    parser.add_argument("--url", help="of a superuser; left out: an embedded server of its own")
    parser.add_argument("--folder", type=Path, default=Path(".data/bench"), help="for its data")
    parser.add_argument("--only", metavar="REGEX", help="queries with such names; no costs")
    parser.add_argument("--fill", action="store_true", help="make the photos, ask nothing")
    parser.add_argument(
        "--without-immich", action="store_true", help="without its index, which takes longest"
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON, and nothing else")
    options = parser.parse_args()
    console = Console(stderr=True)
    with (
        database(options.url, options.folder, options.size, options.seed) as url,
        psycopg.connect(url, autocommit=True) as connection,
        Progress(console=console) as progress,
    ):
        immich = not options.without_immich
        built = prepare(connection, options.size, options.seed, progress, immich)
        if options.fill:
            return
        _into_memory(connection)
        made = photos.library(options.size, options.seed)
        asked = kinds(made, choose_words(connection), options.rounds)
        if not immich:
            asked = [kind for kind in asked if kind.statement is not IMMICH]
        if options.only:
            named = [kind for kind in asked if re.search(options.only, kind.name)]
            beside = {kind.beside for kind in named}
            asked = [kind for kind in asked if kind in named or kind.name in beside]
        measure(connection, asked, options.rounds, progress)
        compare(connection, asked, min(options.rounds, 10), progress)
        figures = {
            "photos": options.size,
            "server": fetch_value(
                connection,
                "SELECT 'PostgreSQL ' || current_setting('server_version') || ', pgvector '"
                " || extversion FROM pg_extension WHERE extname = 'vector'",
            ),
            "rounds": options.rounds,
            "queries": {kind.name: kind.figures() for kind in asked},
            "built": built,
            "costs": {} if options.only else costs(connection, made.probes(20), immich),
        }
    if options.json:
        json.dump(figures, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        show(Console(), figures)


if __name__ == "__main__":
    main()
