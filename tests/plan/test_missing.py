"""What a run takes: of records that are good but for what they are compared with, too."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from qbench.cli.display import RunDisplay
from qbench.core.store import write_record
from qbench.measures.loaded import make_metric
from qbench.measures.quality.divergence import DIVERGENCE_METRICS
from qbench.measures.quality.reference_states import states_path
from qbench.plan.missing import jobs_to_run, lacking
from qbench.plan.plan import RETRIED, Plan, make_plan
from qbench.plan.suite.suite import load_suite_text
from qbench.report.plan_page import plan_page
from tests.pages import on_terminal
from tests.workplace import write_text

if TYPE_CHECKING:
    from qbench.core.record import Status
    from qbench.plan.job import Job, Task

SUITE = """\
models: [{}]
precisions: [fp32, bf16]
reference: fp32
measure: {{quality: {{text: text.txt, window: 32}}}}
"""
NO_VALUE = (
    make_metric(DIVERGENCE_METRICS, "kl.mean", None, reason="the states are not in the cache"),
)
VALUE = (make_metric(DIVERGENCE_METRICS, "kl.mean", 0.25),)


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path) -> Plan:
    """Of a reference and a cell that is compared with it, neither measured."""
    write_text(tmp_path)
    suite = load_suite_text(SUITE.format(tiny_model), "suite.yaml", tmp_path)
    return make_plan(suite, tmp_path / "results", device="cpu")


def keep(plan: Plan, label: str, status: Status = "ok", **fields: Any) -> None:
    job, task = of(plan, label)
    fields = {"details": {"ids_sha256": "same"}, "metrics": VALUE, **fields}
    write_record(Path(task.path), job.record(task, status, **fields))


def of(plan: Plan, label: str) -> tuple[Job, Task]:
    (job,) = (job for job in plan.jobs(lambda _: True) if job.cell.label == label)
    return job, job.tasks[0]


def taken(plan: Plan, retry: frozenset[Status] = RETRIED) -> set[str]:
    return {job.cell.label for job in jobs_to_run(plan, retry, fresh=False)}


def test_what_is_whole_is_not_taken_though_the_states_are_gone(plan: Plan) -> None:
    keep(plan, "fp32")
    keep(plan, "bf16")
    assert lacking(plan, RETRIED) == []
    assert taken(plan) == set()


@pytest.mark.parametrize("status", ["crash", "timeout", "error"])
def test_it_is_taken_with_the_reference_that_is_tried_again(
    plan: Plan, status: Status, tmp_path: Path
) -> None:
    keep(plan, "fp32", status, metrics=())
    keep(plan, "bf16", metrics=NO_VALUE)
    assert [record.cell.label for record in lacking(plan, RETRIED)] == ["bf16"]
    assert taken(plan) == {"fp32", "bf16"}
    text = on_terminal(plan_page(plan, tmp_path / "results"), 200)
    assert "1/1 (incomplete)" in text
    assert f"1/1 ({status})" in text


def test_what_is_taken_beside_is_not_counted_as_there(plan: Plan) -> None:
    file = io.StringIO()
    only = replace(plan, selected=frozenset({of(plan, "bf16")[0].cell.slug}))
    with RunDisplay(Console(file=file, width=200)) as display:
        display.planned(only, jobs_to_run(only, RETRIED, fresh=False))
    assert file.getvalue().strip().endswith("1 measurement, 0 already on disk")


def test_a_reference_without_a_record_is_taken_first(plan: Plan) -> None:
    keep(plan, "bf16", metrics=NO_VALUE)
    assert taken(plan) == {"fp32", "bf16"}


def test_states_that_could_not_be_kept_are_made_again(plan: Plan) -> None:
    keep(plan, "fp32")
    keep(plan, "bf16", metrics=NO_VALUE)
    assert taken(plan) == {"fp32", "bf16"}


def test_a_failure_of_the_reference_that_stands_is_no_reason_to_try(plan: Plan) -> None:
    keep(plan, "fp32", "oom", metrics=())
    keep(plan, "bf16", metrics=NO_VALUE)
    assert lacking(plan, RETRIED) == []
    assert taken(plan) == set()
    assert taken(plan, frozenset({"oom"})) == {"fp32", "bf16"}


def test_what_did_not_know_its_ids_is_taken_again(plan: Plan) -> None:
    """As answers of the reference that were gone: which tokens they had is not known either."""
    keep(plan, "fp32")
    keep(plan, "bf16", metrics=NO_VALUE, details={})
    assert taken(plan) == {"fp32", "bf16"}


def test_other_token_ids_stay_other_token_ids(plan: Plan) -> None:
    keep(plan, "fp32")
    keep(plan, "bf16", metrics=NO_VALUE, details={"ids_sha256": "other"})
    assert lacking(plan, RETRIED) == []
    assert taken(plan) == set()
    assert not states_path(of(plan, "fp32")[1].key).exists()
