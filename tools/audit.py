"""Asks a database of known vulnerabilities about each package of constraints.txt: `make audit`.

pip-audit does it, in an environment of its own, since its needs clash with those of qbench. It ends
with 0 where every package was asked about and none is known to be vulnerable, 1 where some are, and
2 where they could not be asked about: that is no good news, and is said.

    python tools/audit.py constraints.txt
    python tools/audit.py constraints.txt --osv-url http://127.0.0.1:8000/v1/query
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PIP_AUDIT = "pip-audit>=2.10,<3"
FOUND, NOT_ASKED = 1, 2


def main() -> int:
    """Audits, and prints what was found; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("constraints", type=Path)
    parser.add_argument("--osv-url", help="another service that answers as api.osv.dev does")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        answer, reason = ask(asked.constraints, Path(folder) / "audit.json", asked.osv_url)
    if answer is None:
        print(f"audit: NOT DONE, nothing is known of any package: {reason}", file=sys.stderr)
        return NOT_ASKED
    for package in answer:
        for one in package["vulns"]:
            fixed = ", ".join(one["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {one['id']}, fixed in {fixed}")
    bad = sum(bool(package["vulns"]) for package in answer)
    print(f"audit: {len(answer)} packages asked about, {bad} of them with known vulnerabilities")
    return FOUND if bad else 0


def ask(
    constraints: Path, output: Path, osv_url: str | None
) -> tuple[list[dict[str, Any]] | None, str]:
    """What pip-audit found of every package, or None and the reason why not."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv is None:
        return None, "uv is not installed: pip install uv"
    command = [uv, "tool", "run", "--from", PIP_AUDIT, "pip-audit"]
    # Strict: without it a package that the service does not know of is left out.
    command += ["--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    command += ["--vulnerability-service", "osv", "--requirement", str(constraints)]
    command += ["--format", "json", "--output", str(output)]
    command += ["--osv-url", osv_url] if osv_url else []
    done = subprocess.run(
        command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False
    )
    if not output.is_file():
        lines = done.stderr.strip().splitlines()
        return None, lines[-1] if lines else f"pip-audit ended with {done.returncode}"
    answer = json.loads(output.read_text(encoding="utf-8"))["dependencies"]
    left_out = [package["name"] for package in answer if "skip_reason" in package]
    if left_out or not answer:
        return None, f"pip-audit left out {', '.join(left_out) or 'all of them'}"
    return answer, ""


if __name__ == "__main__":
    sys.exit(main())
