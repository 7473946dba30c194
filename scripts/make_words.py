"""Write pg/sql/functions/15_words.sql: the words of Chinese, and the characters OCR confuses.

Needs `pip install jieba==0.42.1 pycorrector==1.1.4 --no-deps` (MIT and Apache-2.0): the word
counts are jieba's, the first list of look-alike characters is pycorrector's. What is younger than
jieba, or known to be confused, stands in words/ beside this file. Run once; the result is
committed.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from itertools import permutations
from math import log10
from pathlib import Path

HERE = Path(__file__).parent
TARGET = HERE.parent / "pg/sql/functions/15_words.sql"

# Words seen less often than this in jieba's corpus (60 million words) cost more than they bring.
LEAST = {1: 300, 2: 10, 3: 15, 4: 30}
# What a word of our own counts for: more than its characters one by one, less than a common word.
OWN = 300
# Strokes that may differ between two look-alikes: so many, or this share of the longer one's.
STROKES = 2
SHARE = 1 / 3
MOST_LOOKALIKES = 8


def main() -> None:
    words = dict(sorted(jieba_words().items()))
    total = sum(words.values())
    for name in own_words():
        words[name] = max(words.get(name, 0), OWN)
    costs: dict[str, dict[str, int]] = {}  # first character → the others → cost
    for word, count in words.items():
        if len(word) <= 4:
            costs.setdefault(word[0], {})[word[1:]] = round(10 * log10(total / count))
    alike, close = lookalikes(words)
    TARGET.write_text(
        SQL.format(
            count=sum(map(len, costs.values())),
            costs=packed(costs),
            names=" ".join(sorted(own_words())),
            alike=packed(alike),
            close=packed(close),
        ),
        encoding="utf-8",
    )
    print(f"{TARGET.name}: {len(words)} words, {len(alike) + len(close)} look-alikes")


def packed(table: dict[str, dict[str, int]] | dict[str, str]) -> str:
    return json.dumps(table, ensure_ascii=False, separators=(",", ":"))


def data(package: str, path: str) -> Iterator[str]:
    """Lines of a data file, without importing the package, which may want much more."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"pip install --no-deps {package}, then run this again")
    folder = Path(spec.submodule_search_locations[0])
    yield from (folder / path).read_text("utf-8").splitlines()


def jieba_words() -> dict[str, int]:
    words = {}
    for line in data("jieba", "dict.txt"):
        word, count, *_ = line.split(" ")
        least = LEAST.get(len(word))
        if least and int(count) >= least and re.fullmatch("[一-鿿]+", word):
            words[word] = int(count)
    return words


def own_words() -> set[str]:
    lines = (HERE / "words/names.txt").read_text("utf-8").splitlines()
    words = {word for line in lines if not line.startswith("#") for word in line.split()}
    return {word for word in words if re.fullmatch("[一-鿿]{2,}", word)}


def lookalikes(words: dict[str, int]) -> tuple[dict[str, str], dict[str, str]]:
    """Character → its look-alikes: those that can't be told apart, and the other ones."""
    alike: dict[str, list[str]] = {}
    close: dict[str, list[str]] = {}
    for line in (HERE / "words/lookalikes.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            chosen = alike if line.startswith("= ") else close
            for one, other in permutations(line.removeprefix("= "), 2):
                chosen.setdefault(one, []).append(other)
    strokes = dict(
        parts
        for line in data("pycorrector", "data/stroke.txt")
        if len(parts := line.split()) == 2 and len(parts[0]) == 1
    )
    common = {character for word in words for character in word}
    found: dict[str, list[tuple[float, str]]] = {}
    for line in data("pycorrector", "data/same_stroke.txt"):
        group = [c for c in line.split() if c in strokes and c in common]
        for one, other in permutations(group, 2):
            longer = max(len(strokes[one]), len(strokes[other]))
            differ = distance(strokes[one], strokes[other])
            share = differ / longer
            if one != other and (differ <= STROKES or share <= SHARE):
                found.setdefault(one, []).append((share, other))
    for one, others in found.items():
        for _, other in sorted(others):
            if other not in alike.get(one, []) and other not in close.setdefault(one, []):
                close[one].append(other)
    return (
        {one: "".join(others) for one, others in sorted(alike.items())},
        {one: "".join(others[:MOST_LOOKALIKES]) for one, others in sorted(close.items()) if others},
    )


def distance(one: str, other: str) -> int:
    """Levenshtein's."""
    row = list(range(len(other) + 1))
    for i, x in enumerate(one, 1):
        following = [i]
        for j, y in enumerate(other, 1):
            following.append(min(row[j] + 1, following[-1] + 1, row[j - 1] + (x != y)))
        row = following
    return row[-1]


SQL = (HERE / "words/words.sql.in").read_text("utf-8")

if __name__ == "__main__":
    main()
