"""The audit of the dependencies: what is found, and that no answer is never good news."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.loopback import Handler, served
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VULNERABLE = {
    "id": "GHSA-xxxx-yyyy-zzzz",
    "modified": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "wicked"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}],
        }
    ],
}


class _Database(Handler):
    """Answers as https://google.github.io/osv.dev/post-v1-query/ says."""

    def answer(self) -> None:
        asked = json.loads(self.body())
        known = [VULNERABLE] if asked["package"]["name"] == "wicked" else []
        self.reply(200, json.dumps({"vulns": known} if known else {}).encode())


@pytest.fixture
def database() -> Iterator[str]:
    with served(_Database) as url:
        yield f"{url}/v1/query"


def audit(folder: Path, packages: str, url: str) -> subprocess.CompletedProcess[str]:
    (folder / "constraints.txt").write_text(packages, encoding="utf-8")
    command = [sys.executable, str(REPOSITORY / "tools" / "audit.py"), "constraints.txt"]
    done = subprocess.run(
        [*command, "--osv-url", url], cwd=folder, capture_output=True, text=True, check=False
    )
    if "pip-audit" in done.stderr and "resolve" in done.stderr and "127.0.0.1" not in done.stderr:
        pytest.skip("pip-audit cannot be installed here")
    return done


@pytest.mark.slow
def test_what_is_known_of_a_package_is_told_and_fails(tmp_path: Path, database: str) -> None:
    done = audit(tmp_path, "good==1.0\nwicked==1.0\n", database)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        "wicked 1.0: GHSA-xxxx-yyyy-zzzz, fixed in 2.0",
        "audit: 2 packages asked about, 1 of them with known vulnerabilities",
    ]
    done = audit(tmp_path, "good==1.0\n", database)
    assert (done.returncode, done.stdout) == (
        0,
        "audit: 1 packages asked about, 0 of them with known vulnerabilities\n",
    )


@pytest.mark.slow
def test_a_service_that_does_not_answer_is_no_good_news(tmp_path: Path) -> None:
    done = audit(tmp_path, "good==1.0\n", "http://127.0.0.1:9/v1/query")
    assert (done.returncode, done.stdout) == (2, "")
    assert "audit: NOT DONE, nothing is known of any package: " in done.stderr
