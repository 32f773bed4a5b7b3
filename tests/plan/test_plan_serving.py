"""What a plan says of servers: commands that are not trusted, cells they are for, far addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import SuiteError
from qbench.plan.plan import Plan, make_plan
from qbench.plan.suite.suite import load_suite_text
from qbench.report.plan_notes import plan_notes
from qbench.running.preflight.check import problems

if TYPE_CHECKING:
    from pathlib import Path

SUITE = """\
models: [bundled:tiny-mistral]
precisions: [fp32, nf4]
reference: fp32
measure:
  serving:
    concurrency: 1
    servers:
"""
VLLM = (
    "      - {name: engine, command: 'sh {model} --port {port} --dtype {dtype}', version: sh -v}\n"
)


def planned(folder: Path, servers: str, before: str = "") -> Plan:
    suite = load_suite_text(before + SUITE + servers, "suite.yaml", folder)
    return make_plan(suite, folder / "results", device="cpu")


def test_a_command_needs_the_suites_trust(tmp_path: Path) -> None:
    with pytest.raises(SuiteError) as caught:
        planned(tmp_path, VLLM)
    found = [problem.found for problem in caught.value.problems]
    assert found == [
        "the command `sh '{model}' --port '{port}' --dtype '{dtype}'`",
        "the command `sh -v`",
    ]
    assert {problem.place for problem in caught.value.problems} == {"measure.serving"}
    assert "add `trust_code: true`" in str(caught.value)


TASKS = """\
models: [bundled:tiny-mistral]
precisions: [fp32, nf4]
measure:
  served_tasks:
    servers:
"""


def test_tasks_at_servers_are_planned_as_loads_are(tmp_path: Path) -> None:
    own = "      - {engine: transformers, cells: nf4}\n"
    far = "      - {address: 'http://192.0.2.7:8000', cells: fp32, api_key: {env: NO_SUCH_KEY}}\n"
    suite = load_suite_text(TASKS + own + far, "suite.yaml", tmp_path)
    plan = make_plan(suite, tmp_path / "results", device="cpu")
    served = {cell.cell.label: [one.item.slug for one in cell.tasks] for cell in plan.cells}
    assert served == {
        "fp32": ["192.0.2.7-8000-stdlib-completion"],
        "nf4": ["transformers-stdlib-completion"],
    }
    notes = "\n".join(map(str, plan_notes(plan)))
    assert "served_tasks starts transformers serve without continuous batching 1 time" in notes
    assert "served_tasks asks http://192.0.2.7:8000 1 time: stdlib-completion" in notes
    assert "served_tasks sends its requests to http://192.0.2.7:8000, which the suite" in notes
    found = problems(plan, plan.jobs(lambda _: True), tmp_path / "results")
    (key,) = [str(one) for one in found if one.place == "keys"]
    assert key.startswith("keys: api_key: the environment variable NO_SUCH_KEY is not set; export")
    with pytest.raises(SuiteError, match="the command `sh"):
        planned_tasks(tmp_path, VLLM)


def planned_tasks(folder: Path, servers: str) -> Plan:
    return make_plan(load_suite_text(TASKS + servers, "suite.yaml", folder), folder, device="cpu")


def test_each_server_is_an_item_of_the_cells_that_it_is_for(tmp_path: Path) -> None:
    servers = VLLM + "      - {engine: transformers, cells: nf4}\n"
    plan = planned(tmp_path, servers, "trust_code: true\n")
    skips = {
        (cell.cell.label, task.item.params["server"].get("name")): task.skip
        for cell in plan.cells
        for task in cell.tasks
    }
    assert {key: skip is None for key, skip in skips.items()} == {
        ("fp32", "engine"): True,
        ("nf4", "engine"): False,
        ("nf4", None): True,
    }
    assert "add `flags: {nf4: …}`" in (skips["nf4", "engine"] or "")


@pytest.mark.parametrize(("host", "told"), [("127.0.0.1", False), ("10.1.2.3", True)])
def test_an_address_beyond_this_machine_is_told(tmp_path: Path, host: str, *, told: bool) -> None:
    address = f"http://{host}:8000"
    plan = planned(tmp_path, f"      - {{address: '{address}', cells: '*'}}\n")
    said = " ".join(str(words) for words in plan_notes(plan))
    assert (f"serving sends its requests to {address}" in said) is told
