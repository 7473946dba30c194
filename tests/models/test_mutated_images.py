"""Damaged and hostile image files: an ImageError or a photo, never the end of the process.

Run in a process of its own, so that a crash inside a decoder is seen; and small: a corpus of
thousands is `python tests/models/mutated_images.py SEED COUNT`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("mutated_images.py")
COUNT = 1500


def test_no_mutation_ends_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", PROGRAM, "20261123", str(COUNT)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    last = done.stdout.splitlines()[-1] if done.stdout else "nothing"
    assert done.returncode == 0, f"after {last}:\n{done.stderr[-4000:]}"
    assert last.startswith(f"{COUNT} files: "), last
    decoded, refused = (int(word) for word in last.split() if word.isdigit() and word != str(COUNT))
    assert decoded > COUNT / 20  # some damage is only seen in the picture
    assert refused > COUNT / 20
