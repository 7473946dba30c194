"""Write the README's table of settings from the descriptions in indexer/settings.py."""

from __future__ import annotations

from pathlib import Path

import msgspec

from indexer.settings import Settings

README = Path(__file__).parent.parent / "README.md"


def table() -> str:
    """One row a setting: variable, default, description."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    for field in msgspec.inspect.type_info(Settings).fields:  # type: ignore[attr-defined]
        default = "" if field.default in ("", None) else f"`{field.default}`"
        description = (field.type.extra_json_schema or {})["description"]
        rows.append(f"| `{field.name.upper()}` | {default} | {description} |")
    return "\n".join(rows)


def main() -> None:
    text = README.read_text("utf-8")
    before, rest = text.split("<!-- settings -->")
    _, after = rest.split("<!-- /settings -->")
    README.write_text(
        f"{before}<!-- settings -->\n{table()}\n<!-- /settings -->{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
