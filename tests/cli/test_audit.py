"""`make audit` fails for a vulnerability, and says so where nobody could be asked."""

import subprocess
from typing import Any

import pytest

from scripts import audit

SAFE = {"name": "safe", "version": "1", "vulns": []}
SKIPPED = {"name": "own", "skip_reason": "not found"}
BAD = {"name": "bad", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([SAFE], 0, "1 packages audited, none"),
        ([SAFE, SKIPPED], 0, "not audited: own"),
        ([SAFE, BAD], 1, "bad 1: CVE-1, fixed in 2"),
        ([SKIPPED, BAD], 1, "bad 1: CVE-1"),
        ([SKIPPED], 0, "not audited: the package index"),
    ],
)
def test_what_was_found(
    capsys: pytest.CaptureFixture[str], packages: list[dict[str, Any]], status: int, said: str
) -> None:
    assert audit.report(packages) == status
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("errors", "status", "said"),
    [
        ("requests.exceptions.ConnectionError: Max retries exceeded", 0, "can't be reached"),
        ("ReadTimeout: timed out", 0, "can't be reached"),
        ("TypeError: something else is broken", 1, "pip-audit failed: TypeError"),
        ("", 1, "no output"),
    ],
)
def test_where_it_does_not_run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    errors: str,
    status: int,
    said: str,
) -> None:
    done = subprocess.CompletedProcess([], 1, stdout="", stderr=errors)
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    assert audit.audit() == status
    assert said in capsys.readouterr().out
