"""The workflows keep the rules that no run of theirs would show."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = REPOSITORY / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40}")


def read(path: Path) -> dict[str, Any]:
    """The workflow; YAML 1.1 reads its key `on` as true."""
    found: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"on" if key is True else str(key): value for key, value in found.items()}


def steps(path: Path) -> list[dict[str, Any]]:
    """The steps of all jobs."""
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def test_there_are_two() -> None:
    assert [path.name for path in FILES] == ["ci.yml", "gpu-regression.yml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_actions_are_pinned_permissions_least_and_runs_bounded(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    assert "pull_request_target" not in workflow["on"]
    for step in steps(path):
        if "uses" in step:
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_gates_and_keeps_what_it_found(path: Path) -> None:
    commands = " ".join(step.get("run", "") for step in steps(path))
    assert "qbench gate" in commands
    for option in ("--baseline", "--junit", "--step-summary", "--annotations"):
        assert option in commands
    assert any("upload-artifact" in step.get("uses", "") for step in steps(path))
