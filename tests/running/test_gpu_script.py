"""The script for GPU machines: its options, and its steps rehearsed without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench.core.store import read_folder
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from tests.workplace import Workplace

SCRIPT = REPOSITORY / ".ci" / "gpu"
SUITE = """\
name: small
models: [bundled:tiny-mistral]
precisions: [fp32]
measure: [footprint]
"""


def call(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *arguments],
        env=environment or dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def test_help_and_wrong_options() -> None:
    done = call("--help")
    assert done.returncode == 0
    assert "--rehearse" in done.stdout
    wrong = call("--no-such-option")
    assert wrong.returncode == 2
    assert "expected --rehearse" in wrong.stderr


def test_the_suites_that_it_runs_are_there() -> None:
    named = re.findall(r'"\$root/(suites/[\w-]+\.yaml)"', SCRIPT.read_text(encoding="utf-8"))
    assert len(named) == 2
    assert all((REPOSITORY / name).is_file() for name in named)


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_every_step_is_rehearsed_without_a_gpu(workplace: Workplace) -> None:
    suite = workplace.write("small.yaml", SUITE)
    out = workplace.folder / "out"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**workplace.environment, "PATH": path}
    done = call("--rehearse", "--out", str(out), str(suite), environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = re.findall(r"^== (.*)$", done.stdout, re.MULTILINE)
    assert steps == [
        "what this machine can do",
        "tests on the GPU",
        "small: plan",
        "small: run",
        "small: publish",
        "small: report",
    ]
    published = out / "results" / "published" / "rehearsal" / "small"
    records, unreadable = read_folder(published)
    assert not unreadable
    assert {record.status for record in records} == {"ok"}
    assert not list(published.rglob("*.log"))
    assert len(list((out / "reports").glob("small-rehearsal-*.md"))) == 1
