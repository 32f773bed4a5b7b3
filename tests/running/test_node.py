"""What runs on a node of a cluster: the plan that it makes, and jobs without a disk in common."""

from __future__ import annotations

import pickle
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.plan.plan import make_plan
from qbench.plan.suite.suite import load_suite
from qbench.running.executors.executor import Asked
from qbench.running.executors.node import plan_on_node, problems_on_node, run_on_node

if TYPE_CHECKING:
    import pytest

    from tests.workplace import Workplace


def test_a_plan_travels_and_names_the_same_records(workplace: Workplace) -> None:
    workplace.write_suite("fp32", "nf4")
    suite = load_suite(workplace.folder / "suite.yaml")
    results = workplace.folder / "results"
    asked = pickle.loads(pickle.dumps(Asked(suite, results)))
    found = pickle.loads(pickle.dumps(plan_on_node(asked, "cpu", "abc+")))
    here = make_plan(suite, results, device="cpu")
    assert [task.key for task in found.tasks] == [task.key for task in here.tasks]
    assert [task.path for task in found.tasks] == [task.path for task in here.tasks]
    assert found.environment.git_revision == "abc+"
    assert problems_on_node(found, found.jobs(lambda _: True)) == []


def test_a_job_tells_its_records_and_its_log(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    suite = load_suite(workplace.folder / "suite.yaml")
    plan = make_plan(suite, workplace.folder / "results", device="cpu")
    job = plan.jobs(lambda _: True)[0]
    events: list[dict[str, Any]] = []
    end = run_on_node(job, 120.0, events.append)
    assert (end.how, end.reason) == ("finished", None)
    told = [event for event in events if event["event"] == "record"]
    assert [event["index"] for event in told] == list(range(len(job.tasks)))
    assert all(
        f'"key": "{task.key}"' in event["text"] for task, event in zip(job.tasks, told, strict=True)
    )
    assert not any(Path(task.path).exists() for task in job.tasks)


def test_a_node_with_other_versions_measures_nothing(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    suite = load_suite(workplace.folder / "suite.yaml")
    job = make_plan(suite, workplace.folder / "results", device="cpu").jobs(lambda _: True)[0]
    versions = {**job.environment.versions, "torch": "1.0"}
    other = job.environment.model_copy(update={"versions": versions})
    events: list[dict[str, Any]] = []
    end = run_on_node(job.model_copy(update={"environment": other}), 120.0, events.append)
    assert end.how == "crash"
    assert "torch 1.0 planned" in (end.reason or "")
    assert events == []


def test_a_full_disk_of_a_node_ends_its_job_alone(
    workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.write_suite("fp32")
    suite = load_suite(workplace.folder / "suite.yaml")
    job = make_plan(suite, workplace.folder / "results", device="cpu").jobs(lambda _: True)[0]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    events: list[dict[str, Any]] = []

    def hear(event: dict[str, Any]) -> None:
        events.append(event)
        for folder in tmp_path.glob(".qbench-node.*.part"):
            (folder / "0").touch()  # no folder for the first record

    end = run_on_node(job, 120.0, hear)
    assert end.how == "crash"
    assert (end.reason or "").startswith(f"{platform.node()}: ")
    assert "store_error" not in {event["event"] for event in events}
