"""Nothing that people can set or type is undocumented."""

from __future__ import annotations

from pathlib import Path

from immich_indexer.cli import cli
from scripts.make_readme import table

ROOT = Path(__file__).parents[2]


def test_every_setting_is_in_the_readme() -> None:
    assert table() in (ROOT / "README.md").read_text("utf-8"), "run python -m scripts.make_readme"


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    section = text[text.index("## Commands") : text.index("## Settings")]
    missing = [name for name in cli.commands if f"`{name}`" not in section]
    assert not missing


def test_every_command_says_what_it_does() -> None:
    for name, command in cli.commands.items():
        assert command.help, name
