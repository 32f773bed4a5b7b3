"""The workflows keep the rules that no run of theirs would show."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = REPOSITORY / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
ACTION = REPOSITORY / "action.yml"
OWN = "./"
"""The repository's own action."""
PINNED = re.compile(r"[\w-]+(/[\w-]+)+@[0-9a-f]{40}")


def read(path: Path) -> dict[str, Any]:
    """The workflow; YAML 1.1 reads its key `on` as true."""
    found: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"on" if key is True else str(key): value for key, value in found.items()}


def steps(path: Path) -> list[dict[str, Any]]:
    """The steps of all jobs."""
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


MEASURING = [path for path in FILES if any(step.get("uses") == OWN for step in steps(path))]


def test_three_measure() -> None:
    assert [path.name for path in MEASURING] == ["ci.yml", "gpu-regression.yml", "nightly.yml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_actions_are_pinned_permissions_least_and_runs_bounded(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    assert "concurrency" in workflow
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    assert "pull_request_target" not in workflow["on"]
    for step in steps(path):
        if step.get("uses") == OWN:
            assert set(step["with"]) <= set(read(ACTION)["inputs"])
        elif "uses" in step:
            assert PINNED.fullmatch(step["uses"])
            if step["uses"].startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
        # what somebody else may have written reaches a shell through its environment only
        assert "${{" not in step.get("run", "")


def test_a_self_hosted_runner_never_runs_a_fork() -> None:
    for job in read(FOLDER / "gpu-regression.yml")["jobs"].values():
        assert "self-hosted" in job["runs-on"]
        condition = "github.event.pull_request.head.repo.full_name == github.repository"
        assert condition in " ".join(job["if"].split())


@pytest.mark.parametrize("path", MEASURING, ids=lambda path: path.name)
def test_only_a_job_that_comments_may_write_and_only_comments(path: Path) -> None:
    for job in read(path)["jobs"].values():
        own = [step["with"] for step in job["steps"] if step.get("uses") == OWN]
        comments = any(given.get("comment") != "false" for given in own)
        expected = {"contents": "read", "pull-requests": "write"} if comments else None
        assert job.get("permissions") == expected


def test_the_others_write_nothing_and_a_release_says_alone_who_it_is() -> None:
    for path in set(FILES) - set(MEASURING):
        for job in read(path)["jobs"].values():
            given = job.get("permissions", {})
            written = {name for name, right in given.items() if right != "read"}
            assert written <= ({"id-token"} if path.name == "release.yml" else set())


@pytest.mark.parametrize("path", MEASURING, ids=lambda path: path.name)
def test_each_that_measures_gates_against_a_baseline_and_keeps_what_it_found(path: Path) -> None:
    (given,) = [step["with"] for step in steps(path) if step.get("uses") == OWN]
    assert given["baseline"]
    assert given["artifact"]


def test_the_workflow_on_the_page_asks_for_what_the_action_takes() -> None:
    page = (REPOSITORY / "docs" / "ci.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    workflow = yaml.safe_load(shown)
    (job,) = workflow["jobs"].values()
    checkout, own = job["steps"]
    assert PINNED.fullmatch(checkout["uses"])
    assert own["uses"].startswith("OWNER/qbench@")
    action = read(ACTION)["inputs"]
    assert set(own["with"]) <= set(action)
    assert {name for name, one in action.items() if one.get("required")} <= set(own["with"])
    assert job["permissions"] == {"contents": "read", "pull-requests": "write"}


def nights(folder: Path, number: int, *, kept: int = 2) -> dict[str, str]:
    """What the step of the nightly workflow tells of its folders."""
    done = subprocess.run(
        [REPOSITORY / "tools" / "action" / "nights.sh", folder / "nightly", str(kept)],
        env={**os.environ, "GITHUB_RUN_NUMBER": str(number), "GITHUB_RUN_ATTEMPT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def test_a_night_is_held_against_the_last_and_the_oldest_go(tmp_path: Path) -> None:
    before = ""
    for number in (8, 9, 10, 11):
        told = nights(tmp_path, number)
        assert told["last"] == before
        before = told["this"]
        (tmp_path / before / "quickstart").mkdir(parents=True)
        (tmp_path / before / "quickstart" / "quality.json").write_text("{}", encoding="utf-8")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-000011-1", before.rpartition("/")[2])
    left = sorted(path.name[-8:] for path in (tmp_path / "nightly").iterdir())
    assert left == ["000009-1", "000010-1", "000011-1"]


def test_a_night_that_measured_nothing_is_no_night_to_be_held_against(tmp_path: Path) -> None:
    measured, broken = nights(tmp_path, 8)["this"], nights(tmp_path, 9)["this"]
    (tmp_path / measured).mkdir(parents=True)
    (tmp_path / measured / "quality.json").write_text("{}", encoding="utf-8")
    (tmp_path / broken / "quickstart").mkdir(parents=True)
    assert nights(tmp_path, 10)["last"] == measured
