"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import os
import sys
import time

from rich.console import Console

from bench import machine
from bench.report import Report, show, to_json
from bench.sections import SECTIONS, WAITING
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
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="by the processor's seconds: where others keep the machine busy",
    )
    given = parser.parse_args(arguments)
    clock = time.process_time if given.cpu else time.perf_counter
    measurable = [name for name in SECTIONS if not (given.cpu and name in WAITING)]
    chosen = [name for name in given.only.split(",") if name] or measurable
    if unknown := [name for name in chosen if name not in measurable]:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(measurable)}")
    configure_logging("warning")
    progress = Console(stderr=True)
    plan = QUICK if given.quick else FULL
    seen = machine.look()
    try:
        with Stage(Settings.from_env(os.environ), plan, clock) as stage:
            report = Report.begin(seen, stage.clip_model, stage.weights_are, given.cpu)
            for name in chosen:
                started = time.monotonic()
                with progress.status(f"measuring {name} …"):
                    report.rows += SECTIONS[name](stage)
                progress.print(f"measured {name}: {time.monotonic() - started:.0f} s")
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
