"""The rules that are compared: ours, and those that others use.

Every rule gets the texts as the rows it wants and answers a query with ids, best first. Rules
without a ranking answer newest first, as Immich does; the texts' dates say nothing about them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, LiteralString

from pg.connect import Connection
from pg.migrate import create_library_tables, migrate
from tests.judged.judged import SETS, Text, texts, words

# More than there are texts: precision is about everything that is found.
EVERYTHING = 1000


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to search.

    Attributes:
        prepare: makes its tables and fills them with the texts; run once, then connections are made
            anew.
        search: ids of the texts found for a query, best first.
        zhparser: whether the server must have it.
    """

    name: str
    prepare: Callable[[Connection, Sequence[Text]], None]
    search: Callable[[Connection, str], list[str]]
    zhparser: bool = False


def _ours(
    tokenizer: Literal["zhparser", "bigram"],
) -> Callable[[Connection, Sequence[Text]], None]:
    def prepare(connection: Connection, texts: Sequence[Text]) -> None:
        create_library_tables(connection)
        migrate(connection, tokenizer)
        connection.execute("TRUNCATE public.asset CASCADE")
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(
                'INSERT INTO public.asset (id, "ownerId", type, "originalPath", "originalFileName",'
                ' "fileCreatedAt", "fileModifiedAt", "localDateTime")'
                " VALUES (%s, gen_random_uuid(), 'IMAGE', %s, %s, now(), now(), now())",
                [(text.asset_id, text.id, text.id) for text in texts],
            )
            cursor.executemany(
                "INSERT INTO indexer_v1.ocr"
                " (asset_id, text, lines, tsv, tokenizer, model, content_hash)"
                " VALUES (%s, %s, %s, indexer_v1.to_tsvector(%s), indexer_v1.tokenizer(),"
                " 'judged', %s)",
                [
                    (
                        text.asset_id,
                        text.text,
                        _lines(text),
                        text.text,
                        hashlib.sha256(text.id.encode()).digest(),
                    )
                    for text in texts
                ],
            )
        connection.execute("ANALYZE indexer_v1.ocr")

    return prepare


def _lines(text: Text) -> str:
    """Lines one below the other, as wide as their letters ask for."""
    lines = text.text.split("\n")
    height = 1 / len(lines)
    widest = max(len(line) for line in lines)
    found = []
    for number, line in enumerate(lines):
        right, top, bottom = len(line) / widest, number * height, (number + 0.8) * height
        box = [0.0, top, right, top, right, bottom, 0.0, bottom]
        found.append({"text": line, "box": box, "box_score": 0.9, "text_score": 0.9})
    return json.dumps(found, ensure_ascii=False)


def _search_ours(connection: Connection, query: str) -> list[str]:
    rows = connection.execute(
        "SELECT asset_id FROM indexer_v1.search(query => %s, max_results => %s)"
        " ORDER BY score DESC, asset_id",
        [query, EVERYTHING],
    )
    names = {text.asset_id: text.id for of in SETS for text in texts(of)}
    return [names[asset_id] for (asset_id,) in rows]


def _beside(connection: Connection, texts: Sequence[Text]) -> None:
    """A table with the texts as they are, in the schema of the rules beside ours."""
    connection.execute("CREATE SCHEMA IF NOT EXISTS beside")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS beside.photo"
        " (id text PRIMARY KEY, taken uuid NOT NULL, text text NOT NULL, tokens text NOT NULL)"
    )
    connection.execute("TRUNCATE beside.photo")
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO beside.photo VALUES (%s, %s, %s, %s)",
            [
                (text.id, text.asset_id, text.text, _immich_tokens(text.text.split("\n")))
                for text in texts
            ],
        )


def _immich_tokens(lines: list[str]) -> str:
    """Immich's tokens (3.1): pairs of CJK characters, everything else between spaces."""
    tokens: list[str] = []
    for line in lines:
        for run in re.findall(r"[㐀-䶿一-鿿぀-ヿ가-힯]+|[^\s㐀-䶿一-鿿぀-ヿ가-힯]+", line):
            is_cjk = re.match(r"[㐀-䶿一-鿿぀-ヿ가-힯]", run)
            pairs = [run[at : at + 2] for at in range(len(run) - 1)]
            tokens += pairs if is_cjk and pairs else [run]
    return " ".join(tokens)


def _prepare_immich(connection: Connection, texts: Sequence[Text]) -> None:
    _beside(connection, texts)
    connection.execute("CREATE EXTENSION IF NOT EXISTS unaccent")
    connection.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    connection.execute(
        "CREATE OR REPLACE FUNCTION beside.f_unaccent(text) RETURNS text"
        " LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE"
        " RETURN unaccent('unaccent', $1)"
    )


def _search_immich(connection: Connection, query: str) -> list[str]:
    return _ids(
        connection,
        "SELECT id FROM beside.photo WHERE beside.f_unaccent(tokens) %%>> beside.f_unaccent(%s)"
        " ORDER BY taken",
        _immich_tokens([query]),
    )


def _search_ilike(connection: Connection, query: str) -> list[str]:
    patterns = ["%" + re.sub(r"([%_\\])", r"\\\1", word) + "%" for word in words(query)]
    return _ids(
        connection, "SELECT id FROM beside.photo WHERE text ILIKE ALL (%s) ORDER BY taken", patterns
    )


def _prepare_common_zhparser(connection: Connection, texts: Sequence[Text]) -> None:
    """The configuration that most articles about zhparser give."""
    _beside(connection, texts)
    connection.execute("CREATE EXTENSION IF NOT EXISTS zhparser")
    # Ours, in the same database, has added words to it.
    connection.execute("DELETE FROM zhparser.zhprs_custom_word")
    connection.execute("SELECT sync_zhprs_custom_word()")
    connection.execute("DROP TEXT SEARCH CONFIGURATION IF EXISTS beside.chinese")
    connection.execute("CREATE TEXT SEARCH CONFIGURATION beside.chinese (PARSER = zhparser)")
    connection.execute(
        "ALTER TEXT SEARCH CONFIGURATION beside.chinese"
        " ADD MAPPING FOR n, v, a, i, e, l WITH simple"
    )


def _search_common_zhparser(connection: Connection, query: str) -> list[str]:
    return _ids(
        connection,
        "SELECT id FROM beside.photo, to_tsvector('beside.chinese', text) AS tsv,"
        " plainto_tsquery('beside.chinese', %s) AS wanted"
        " WHERE tsv @@ wanted ORDER BY ts_rank(tsv, wanted) DESC, taken",
        query,
    )


def _ids(connection: Connection, statement: LiteralString, argument: str | list[str]) -> list[str]:
    return [row[0] for row in connection.execute(statement, [argument])]


RULES = (
    Rule("ours, zhparser", _ours("zhparser"), _search_ours, zhparser=True),
    Rule("ours, bigrams", _ours("bigram"), _search_ours),
    Rule("Immich", _prepare_immich, _search_immich),
    Rule("ILIKE", _beside, _search_ilike),
    Rule("zhparser, common", _prepare_common_zhparser, _search_common_zhparser, zhparser=True),
)
