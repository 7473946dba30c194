"""The judged set: texts as OCR gives them, and queries with the texts that answer them.

How it was judged: README.md beside this file.
"""

from __future__ import annotations

import json
import re
import unicodedata
import uuid
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import msgspec

HERE = Path(__file__).parent

Split = Literal["tune", "report"]
Set = Literal["main", "blind", "blind2"]  # blind2/README.md: why three
SETS: tuple[Set, ...] = get_args(Set)


class Text(msgspec.Struct, frozen=True):
    """What an OCR engine read in one invented photo: lines joined by line breaks."""

    id: str
    text: str

    @property
    def asset_id(self) -> uuid.UUID:
        """The same for a text at every run, and in no order that a rule could profit from."""
        return uuid.uuid5(uuid.NAMESPACE_URL, f"judged:{self.id}")


class Query(msgspec.Struct, frozen=True):
    """One query and its judgement.

    Attributes:
        q: what is typed.
        kind: the phenomenon it is about; figures are given by kind.
        split: `tune` may be looked at while the search is improved, `report` only counted.
        relevant: ids of all the texts that answer it.
        lookalikes: texts with the query's letters that don't mean it (花生 in 鲜花生日).
        variants: those of `relevant` that lack the query's letters (an OCR mistake, the same date
            in another writing).
    """

    q: str
    kind: str
    split: Split
    relevant: list[str]
    lookalikes: list[str] = []
    variants: list[str] = []


@cache
def texts(of: Set = "main") -> tuple[Text, ...]:
    lines = (_folder(of) / "texts.jsonl").read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=Text) for line in lines)


@cache
def queries(of: Set = "main") -> tuple[Query, ...]:
    lines = (_folder(of) / "queries.jsonl").read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=Query) for line in lines)


def _folder(of: Set) -> Path:
    return HERE if of == "main" else HERE / of


def words(query: str) -> list[str]:
    """What stands between spaces, and what stands in quotation marks, without them."""
    return [quoted or word for quoted, word in re.findall(r'"([^"]*)"|(\S+)', query)]


def literal_matches(query: str, of: Set = "main") -> list[str]:
    """Ids of the texts that hold the letters of every word of a query.

    Wide and narrow, upper and lower case, traditional and simplified letters count as the same.
    """
    wanted = [_fold(word) for word in words(query)]
    return [text.id for text in texts(of) if all(word in _fold(text.text) for word in wanted)]


@cache
def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower().translate(simplified())


@cache
def simplified() -> dict[int, str]:
    """Traditional characters to simplified ones, as `str.translate` wants them."""
    source = (files("pg") / "sql/functions/10_normalize.sql").read_text("utf-8")
    found = re.search(r"'(\{.*\})'", source)
    assert found, "10_normalize.sql has no table of traditional characters any more"
    return str.maketrans(json.loads(found[1]))
