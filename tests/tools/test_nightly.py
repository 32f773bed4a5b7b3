"""The nightly workflow's own steps, on nights that are there already."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.paired_records import losses, quality
from tests.workplace import REPOSITORY, keep

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

WORKFLOW = REPOSITORY / ".github" / "workflows" / "nightly.yml"
SUITE = """\
name: quickstart
models: [bundled:tiny-mistral]
precisions: [fp32]
measure: [footprint]
gate: {perplexity: {max_increase: 1%}}
"""


def script(name: str) -> str:
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    (step,) = [one for one in jobs["measure"]["steps"] if one.get("name") == name]
    return str(step["run"])


def take(place: Workplace, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script(name)],
        cwd=place.folder,
        env={**place.environment, "PYTHON": sys.executable, "SUITE": "suite.yaml", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("worse_by", "code"), [(0.0, 0), (0.05, 1)])
def test_what_is_new_since_the_last_night(place: Workplace, worse_by: float, code: int) -> None:
    place.write("suite.yaml", SUITE)
    (place.folder / "tools").symlink_to(REPOSITORY / "tools")
    outputs = place.folder / "outputs"
    folders = []
    for number, worse in (("8", 0.0), ("9", worse_by)):
        outputs.write_text("", encoding="utf-8")
        variables = {
            "GITHUB_OUTPUT": str(outputs),
            "GITHUB_RUN_NUMBER": number,
            "GITHUB_RUN_ATTEMPT": "1",
        }
        done = take(place, "Folders of this night and of the last", **variables)
        assert done.returncode == 0, done.stderr
        told = dict(line.split("=", 1) for line in outputs.read_text("utf-8").splitlines())
        folders.append(told)
        keep(place.folder / told["this"], quality("fp32", losses(worse, seed=3)))
    first, second = folders
    assert (first["last"], second["last"]) == ("", first["this"])

    summary = place.folder / "summary.md"
    nights = {"THIS": second["this"], "LAST": second["last"]}
    done = take(
        place, "What is new since the last night", **nights, GITHUB_STEP_SUMMARY=str(summary)
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "qbench gate" in summary.read_text("utf-8")
    assert ("::error file=suite.yaml" in done.stdout) == bool(code)

    summary.unlink()
    variables = {"GITHUB_STEP_SUMMARY": str(summary), "RUNNER_TEMP": str(place.folder)}
    done = take(place, "History of the nights", **variables)
    assert done.returncode == 0, done.stderr
    assert "perplexity" in summary.read_text("utf-8")
    page = (place.folder / "history.html").read_text("utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "perplexity" in page
