"""Nobody is told about those who run this, by none of the libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# What each would import to send, or does send on its own unless it is told not to.
PROGRAM = """
import indexer.models
import openvino
import onnxruntime
from openvino.tools.ovc import convert_impl, telemetry_utils
print(telemetry_utils.tm.__name__, convert_impl.tm.__name__)
"""


def test_libraries_send_nothing_and_leave_no_mark_to_be_known_by(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if name != "CI"},
            "HOME": str(tmp_path),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["openvino.tools.ovc.telemetry_stub"] * 2
    assert "telemetry" not in run.stderr
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []
