"""Known vulnerabilities in what is installed, by pip-audit; where it can't know, it says so.

Ends with status 1 where a vulnerability is found; with 0 and "not audited" where the service that
knows them can't be reached, or knows none of the packages (a mirror without that service).
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

# Each with the reason why it doesn't concern us, and until when.
IGNORED: dict[str, str] = {}


def audit() -> int:
    """Run pip-audit on this environment and say what it found. Returns an exit status."""
    if find_spec("pip_audit") is None:
        print("not audited: pip-audit isn't installed (pip install '.[dev]')")
        return 1
    ignored = [option for name in IGNORED for option in ("--ignore-vuln", name)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"),
            *("--local", "--skip-editable", "--timeout", "10", *ignored),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return _not_run(done.stderr)
    return report(packages)


def report(packages: list[dict[str, Any]]) -> int:
    """Say what pip-audit's JSON says. Returns an exit status."""
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        for found in package["vulns"]:
            fixed = ", ".join(found.get("fix_versions", [])) or "no version yet"
            print(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    audited = [package for package in packages if "vulns" in package]
    unknown = sorted(package["name"] for package in packages if "vulns" not in package)
    if vulnerable:
        print("Raise the bound in pyproject.toml or constraints.txt, or say in IGNORED why not.")
        return 1
    if not audited:
        print(
            "not audited: the package index that pip uses here has no vulnerability service (it "
            f"knows none of {len(unknown)} packages)"
        )
        return 0
    print(f"{len(audited)} packages audited, none with a known vulnerability")
    if unknown:
        print(f"not audited: {', '.join(unknown)}")
    return 0


def _not_run(errors: str) -> int:
    last = errors.strip().splitlines()[-1] if errors.strip() else "no output"
    if any(sign in errors for sign in ("Connection", "Max retries", "timed out", "Timeout")):
        print(f"not audited: the vulnerability service can't be reached ({last[:200]})")
        return 0
    print(f"pip-audit failed: {last[:500]}")
    return 1


if __name__ == "__main__":
    sys.exit(audit())
