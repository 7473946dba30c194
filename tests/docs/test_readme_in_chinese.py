"""The Chinese README is in step with the English one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh.md"))


def tables(text: str) -> list[list[str]]:
    """First columns, table by table; the settings are in one of the two only."""
    text = re.sub(r"<!-- settings -->.*<!-- /settings -->", "", text, flags=re.S)
    found = re.findall(r"^\|[^\n]*\|\n\|---[^\n]*\n((?:\|[^\n]*\n)+)", text, re.M)
    return [re.findall(r"^\| *(.*?) *\|(?: |$)", rows, re.M) for rows in found]


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """Language and lines of what is to be typed, without comments and without what they name."""
    return [
        (
            language,
            [re.sub(r"\s*(?:#|--).*|/where\S*|/本仓库\S*", "", line) for line in body.splitlines()],
        )
        for language, body in re.findall(r"^ *```(\w+)\n(.*?)^ *```", text, re.M | re.S)
    ]


def test_what_is_to_be_typed_is_the_same() -> None:
    assert len(blocks(ENGLISH)) > 3
    assert blocks(CHINESE) == blocks(ENGLISH)


def test_queries_and_commands_are_the_same_and_every_symptom_is_there() -> None:
    (queries, commands, symptoms), chinese = tables(ENGLISH), tables(CHINESE)
    assert len(queries) > 3
    assert len(commands) > 8
    assert chinese[0] == queries
    assert [re.findall("`[^`]+`", row) for row in chinese[1]] == [
        re.findall("`[^`]+`", row) for row in commands
    ]
    assert len(chinese[2]) == len(symptoms)
