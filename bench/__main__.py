"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import os
import sys

from rich.console import Console

from bench import machine
from bench.report import Report, show, to_json
from bench.sections import SECTIONS
from bench.stage import FULL, QUICK, Stage
from immich_indexer.runtime import configure_logging
from indexer.settings import Settings, SettingsError

# Where the table goes into a file or a pipe: wide enough for all of it.
_WIDTH = 180


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table or JSON to standard output; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, side by side.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--only", metavar="SECTION,…", help=f"some of {', '.join(SECTIONS)}", default=""
    )
    given = parser.parse_args(arguments)
    chosen = [name for name in given.only.split(",") if name] or list(SECTIONS)
    if unknown := [name for name in chosen if name not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    configure_logging("warning")
    progress = Console(stderr=True)
    plan = QUICK if given.quick else FULL
    seen = machine.look()
    try:
        with Stage(Settings.from_env(os.environ), plan) as stage:
            report = Report.begin(seen, stage.clip_model, stage.weights_are)
            for name in chosen:
                with progress.status(f"measuring {name} …"):
                    report.rows += SECTIONS[name](stage)
            report.engines = stage.engines()
    except SettingsError as error:
        parser.error(str(error))
    if given.json:
        sys.stdout.write(to_json(report) + "\n")
    else:
        show(report, Console(width=None if sys.stdout.isatty() else _WIDTH))
    return 0


if __name__ == "__main__":
    sys.exit(main())
