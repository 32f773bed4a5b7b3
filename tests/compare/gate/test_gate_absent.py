"""A gate that finds no record says what sets those that are there apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.record import PROTOCOL_VERSION
from qbench.core.store import write_record
from qbench.measures.footprint import METRICS as FOOTPRINT
from qbench.measures.latency import METRICS as LATENCY
from qbench.measures.loaded import make_metric
from qbench.plan.missing import why_absent
from qbench.plan.plan import Plan, make_plan
from qbench.plan.suite.suite import load_suite

if TYPE_CHECKING:
    import pytest

    from tests.workplace import Workplace

SUITE = """\
models: [{}]
precisions: [fp32]
measure: {{footprint: , latency: {{prompt_tokens: {}, new_tokens: 2, repeats: 2}}}}
gate:
  memory.static: {{max: 1000000000}}
  latency.decode: {{max: 1}}
"""
VALUES = {
    "footprint": make_metric(FOOTPRINT, "memory.static", 1000.0),
    "latency": make_metric(LATENCY, "latency.decode", 0.5, samples=[0.5] * 20),
}


def planned(place: Workplace) -> Plan:
    return make_plan(load_suite(place.folder / "suite.yaml"), place.folder / "results")


def measure_all(place: Workplace) -> None:
    for job in planned(place).jobs(lambda _: True):
        for task in job.tasks:
            metrics = (VALUES[task.item.measurement],)
            write_record(Path(task.path), job.record(task, "ok", metrics=metrics))


def test_another_number_of_threads_is_named_with_the_remedy(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.write("suite.yaml", SUITE.format(workplace.model, 4))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    measure_all(workplace)
    same = workplace.with_environment(OMP_NUM_THREADS="3").call_here("gate", "suite.yaml")
    assert "missing" not in same.output
    other = workplace.with_environment(OMP_NUM_THREADS="2").call_here("gate", "suite.yaml")
    assert other.code == 1
    assert "missing" in other.output
    assert "with 3 threads" in " ".join(other.output.split())
    assert "OMP_NUM_THREADS=3" in other.output


def test_what_else_differs_is_named(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    workplace.write("suite.yaml", SUITE.format(workplace.model, 4))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    measure_all(workplace)
    assert [why_absent(task) for task in planned(workplace).tasks] == [None] * 3
    monkeypatch.setattr("qbench.plan.keys.PROTOCOL_VERSION", "0")
    (footprint, *latencies) = planned(workplace).tasks
    assert why_absent(footprint) == (
        f"there is one of protocol {PROTOCOL_VERSION}, now 0; run the suite again"
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    (_, *latencies) = planned(workplace).tasks
    assert {why_absent(task) for task in latencies} == {
        f"there is one of threads 3, now 2, protocol {PROTOCOL_VERSION}, now 0; run the suite again"
    }


def test_of_another_item_nothing_is_said(workplace: Workplace) -> None:
    workplace.write("suite.yaml", SUITE.format(workplace.model, 4))
    measure_all(workplace)
    workplace.write("suite.yaml", SUITE.format(workplace.model, 5))
    assert {why_absent(task) for task in planned(workplace).tasks} == {None}
