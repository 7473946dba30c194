"""Write pg/sql/functions/15_words.sql: the words of Chinese, and the characters OCR confuses.

Needs `pip install jieba==0.42.1` (MIT), whose word counts these are, and Noto's CJK fonts, in which
characters are compared (alike.py). What is younger than jieba, or can't be told apart in small
print, stands in words/ beside this file. Run once; the result is committed.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from itertools import permutations
from math import log10
from pathlib import Path

from scripts.alike import lookalikes

HERE = Path(__file__).parent
TARGET = HERE.parent / "pg/sql/functions/15_words.sql"

# Words seen less often than this in jieba's corpus (60 million words) cost more than they bring.
LEAST = {1: 300, 2: 10, 3: 15, 4: 30}
# What a word of our own counts for: more than its characters one by one, less than a common word.
OWN = 300


def main() -> None:
    words = dict(sorted(jieba_words().items()))
    total = sum(words.values())
    for name in own_words():
        words[name] = max(words.get(name, 0), OWN)
    costs: dict[str, dict[str, int]] = {}  # first character → the others → cost
    for word, count in words.items():
        if len(word) <= 4:
            costs.setdefault(word[0], {})[word[1:]] = round(10 * log10(total / count))
    alike = sure_lookalikes()
    close = {
        one: kept
        for one, others in lookalikes(words).items()
        if (kept := "".join(c for c in others if c not in alike.get(one, "")))
    }
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


def sure_lookalikes() -> dict[str, str]:
    """Character → those that can't be told apart from it in small print."""
    found: dict[str, str] = {}
    for line in (HERE / "words/lookalikes.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            for one, other in permutations(line, 2):
                found[one] = found.get(one, "") + other
    return found


SQL = (HERE / "words/words.sql.in").read_text("utf-8")

if __name__ == "__main__":
    main()
