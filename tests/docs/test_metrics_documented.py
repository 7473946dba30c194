"""docs/operations.md explains every metric, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import served_metrics

from indexer.queue import FailureKind

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
ROW = re.compile(r"^\| `immich_indexer_(\w+)(?:\{([\w,]+)\})?` \| (\w+) \| \S.* \|$", re.MULTILINE)


def test_every_metric_is_documented() -> None:
    documented = {
        name: served_metrics.Family(kind, set(filter(None, labels.split(","))))
        for name, labels, kind in ROW.findall(PAGE.read_text("utf-8"))
    }
    assert documented == served_metrics.families()


def test_every_kind_of_failure_is_documented() -> None:
    (row,) = re.findall(r"^.*failures_total.*$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert all(f"`{kind}`" in row for kind in get_args(FailureKind))
