"""Write pg/sql/functions/10_normalize.sql from the OpenCC tables.

Needs `pip install opencc-python-reimplemented` (Apache-2.0; carries the tables of BYVoid/OpenCC).
Run once; the result is committed.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

TARGET = Path(__file__).parent.parent / "pg/sql/functions/10_normalize.sql"
# 么 is simplified (什么) where OpenCC's Taiwan table reads 幺; 著 is a word of its own (著名).
KEEP = {"么", "著"}


def table(folder: Path, name: str) -> dict[str, str]:
    rows = (line.split("\t") for line in (folder / name).read_text("utf-8").splitlines() if line)
    return {key: value.split(" ")[0] for key, value in rows}


def traditional_to_simplified() -> dict[str, str]:
    spec = importlib.util.find_spec("opencc")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install opencc-python-reimplemented, then run this again")
    folder = Path(spec.submodule_search_locations[0]) / "dictionary"
    to_simplified = table(folder, "TSCharacters.txt")
    pairs = dict(to_simplified)
    for variants in ("TWVariantsRev.txt", "HKVariantsRev.txt"):
        for variant, traditional in table(folder, variants).items():
            pairs.setdefault(variant, to_simplified.get(traditional, traditional))
    pairs = {
        key: value
        for key, value in pairs.items()
        if len(key) == len(value) == 1 and key != value and key not in KEEP
    }
    for key in pairs:
        while pairs[key] in pairs:
            pairs[key] = pairs[pairs[key]]
    return pairs


SQL = """\
-- Made by scripts/make_normalize.py from the tables of OpenCC (Apache-2.0). Do not edit.
--
-- normalize(text): one form for all writings of the same text: NFKC (full-width to half-width),
-- lower case, traditional to simplified, one character for one, so positions stay.
--
-- Only the characters that occur are looked up: translate() over all {count} pairs takes fifty
-- times as long. No regular expression of them decides whether to: PostgreSQL keeps 32 compiled
-- ones, the tokenizer needs more, and to compile this one takes longer than all the rest.
CREATE OR REPLACE FUNCTION indexer_v1.normalize(input text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $function$
DECLARE
    result text := lower(normalize(input, NFKC) COLLATE "default");
    found  text;
    wanted text;
BEGIN
    SELECT string_agg(c, ''), string_agg(simplified ->> c, '') INTO found, wanted
    FROM (SELECT DISTINCT c FROM unnest(string_to_array(result, NULL)) AS c) AS characters,
         (SELECT '{pairs}'::jsonb AS simplified OFFSET 0) AS tables
    WHERE simplified ? c;
    RETURN CASE WHEN found IS NULL THEN result ELSE translate(result, found, wanted) END;
END
$function$;
"""


def main() -> None:
    pairs = traditional_to_simplified()
    packed = json.dumps(pairs, ensure_ascii=False, separators=(",", ":"))
    TARGET.write_text(SQL.format(count=len(pairs), pairs=packed), encoding="utf-8")
    print(f"{TARGET.name}: {len(pairs)} pairs")


if __name__ == "__main__":
    main()
