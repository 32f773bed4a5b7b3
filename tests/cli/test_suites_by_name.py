"""Suites that ship with qbench, by their names, wherever qbench is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench.plan.plan import expected_tasks
from qbench.plan.suite.suite import load_suite
from qbench.sources.bundled import bundled_suites
from tests.record_factory import quickstart_records
from tests.workplace import REPOSITORY, keep

if TYPE_CHECKING:
    from tests.workplace import Workplace

SUITES = sorted(path.stem for path in (REPOSITORY / "suites").glob("*.yaml"))


@pytest.fixture
def measured(workplace: Workplace) -> Workplace:
    for record in quickstart_records():
        keep(workplace.folder / "results", record)
    return workplace


def test_each_suite_of_the_repository_ships_and_is_listed_in_a_line(workplace: Workplace) -> None:
    listed = json.loads(workplace.call_here("list", "suites", "--format", "json").output)["suites"]
    assert [one["name"] for one in listed] == [*bundled_suites()] == SUITES
    assert {one["name"]: one["file"] for one in listed} == {
        name: str(path) for name, path in bundled_suites().items()
    }
    for one in listed:
        assert one["summary"].endswith((".", "?"))
        assert "yaml-language-server" not in one["summary"]
        assert "\n" not in one["summary"]
    on_screen = workplace.call_here("list", "suites").output
    assert all(f"\n{name} " in on_screen for name in SUITES)
    assert "qbench list suites" in workplace.call_here("list").output


@pytest.mark.parametrize("name", ["quickstart", "kernels"])  # the latter names a shape by its path
def test_a_name_means_what_the_file_means(
    workplace: Workplace, name: str, shared_cache: Path
) -> None:
    by_file = REPOSITORY / "suites" / f"{name}.yaml"
    place = workplace.with_environment(QBENCH_CACHE=str(shared_cache))
    assert place.call_here("plan", name, "--device", "cpu").output.startswith(f"{name}: ")
    with place.entered():
        keys = [
            [task.key for _, task in expected_tasks(load_suite(path), place.folder, device="cpu")]
            for path in (Path(name), by_file)
        ]
    assert keys[0] == keys[1] != []


def test_commands_of_records_take_a_name(measured: Workplace) -> None:
    for command in (
        ["report", "quickstart", "--output", "report.csv"],
        ["recommend", "quickstart"],
        ["claims", "quickstart"],
        ["baseline", "quickstart"],
        ["gate", "quickstart", "--baseline", "results/baselines"],
        ["compare", "quickstart", "results/baselines/quickstart.json"],
        ["merge", "results", "--suite", "quickstart", "--dry-run"],
        ["history", "quickstart"],
    ):
        finished = measured.call_here(*command)
        assert finished.code in {0, 1}, finished.errors
        assert "no such" not in finished.errors
    assert (measured.folder / "results" / "baselines" / "quickstart.json").is_file()
    assert (measured.folder / "report.csv").is_file()


def test_a_file_or_folder_of_that_name_comes_first(measured: Workplace) -> None:
    (measured.folder / "full").mkdir()
    measured.write("mixes", "models: [bundled:tiny-mistral]\nmeasure: [footprint]\n")
    finished = measured.call_here("run", "full")
    assert finished.code == 2
    assert "full: found a folder" in finished.errors
    assert "1 of footprint" not in measured.call_here("plan", "mixes").errors
    assert "sensitivity" not in measured.call_here("plan", "mixes").output
    assert "sensitivity" in measured.call_here("plan", str(bundled_suites()["mixes"])).output


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        (["run", "quickstrat"], "quickstart"),
        (["plan", "suites/quickstart.yaml"], "quickstart"),
        (["plan", "ci.yaml"], "ci"),
        (["gate", "quick-start"], "quickstart"),
        (["baseline", "fromats"], "formats"),
        (["export", "checkpoint", "mixs", "a-mix", "--to", "a-mix"], "mixes"),
        (["merge", "results", "--suite", "quickstrat"], "quickstart"),
        (["report", "quickstrat"], "quickstart"),
        (["recommend", "quickstrat"], "quickstart"),
        (["claims", "quickstrat"], "quickstart"),
        (["compare", "quickstrat", "quickstart"], "quickstart"),
        (["list", "suits"], "suites"),
    ],
    ids=lambda one: "-".join(one[:2]) if isinstance(one, list) else one,
)
def test_a_near_miss_is_told_the_name(workplace: Workplace, command: list[str], meant: str) -> None:
    finished = workplace.call_here(*command)
    assert finished.code == 2
    assert f"did you mean '{meant}'?" in finished.errors
    assert len(finished.errors.splitlines()) == 1
