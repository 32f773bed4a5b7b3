"""What stands in the way of a run is said before its first cell, all of it, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from qbench.cli.display import RunDisplay
from qbench.core.errors import PreflightError, Problem
from qbench.plan.plan import Plan, make_plan
from qbench.plan.suite.suite import load_suite, load_suite_text
from qbench.running.executors.executor import Column
from qbench.running.executors.this_machine import ThisMachine
from qbench.running.preflight.check import Looked, page, problems
from qbench.running.runner import run_suite
from tests.inline_runs import failing, pretended, run_inline
from tests.sources.loopback_hub import REFUSALS, loopback_hub
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.plan.job import Job
    from qbench.running.executors.executor import Asked
    from tests.workplace import Workplace

SUITES = REPOSITORY / "suites"


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def planned(text: str, folder: Path) -> tuple[Plan, list[Job]]:
    plan = make_plan(load_suite_text(text, "suite.yaml", folder), folder / "results", device="cpu")
    return plan, plan.jobs(lambda task: True)


def found(plan: Plan, jobs: list[Job], folder: Path) -> dict[str, str]:
    """What stands in the way, by its topic."""
    return {one.place: str(one) for one in problems(plan, jobs, folder / "results")}


def changed(plan: Plan, **environment: Any) -> Plan:
    return replace(plan, environment=plan.environment.model_copy(update=environment))


def test_nothing_stands_in_the_way_of_the_quickstart(tmp_path: Path) -> None:
    plan = make_plan(load_suite(SUITES / "quickstart.yaml"), tmp_path / "results", device="cpu")
    jobs = plan.jobs(lambda task: True)
    assert problems(plan, jobs, tmp_path / "results") == []


TINY = "models: [bundled:tiny-mistral]\nprecisions: [fp32, nf4]\nmeasure: {footprint: {}}\n"


def test_a_missing_package_is_named_with_what_needs_it(tmp_path: Path) -> None:
    plan, jobs = planned(TINY, tmp_path)
    versions = {**plan.environment.versions, "bitsandbytes": None}
    text = found(changed(plan, versions=versions), jobs, tmp_path)
    assert list(text) == ["packages"]
    assert "bitsandbytes for nf4" in text["packages"]
    assert "pip install qbench-llm, or leave" in text["packages"]


def test_a_package_that_a_tasks_python_begins_with_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("task: own\ndoc_to_text: !function code.text\n")
    (tmp_path / "code.py").write_text("import no_such_package\n")
    tasks = "{names: [own, stdlib-choice], include: ., limit: 4}"
    suite = TINY.replace("{footprint: {}}", f"{{tasks: {tasks}}}") + "trust_code: true\n"
    plan, jobs = planned(suite, tmp_path)
    text = found(plan, jobs, tmp_path)["packages"]
    assert "not installed: no_such_package for tasks own-first4" in text
    assert "pip install no_such_package" in text


def test_memory_that_others_hold_is_told_with_the_largest_cell(tmp_path: Path) -> None:
    plan, jobs = planned(TINY, tmp_path)
    # Of the model in fp32, 11,805,824 bytes, more than is free; in nf4 less.
    text = found(changed(plan, device_memory_bytes=4_000_000), jobs, tmp_path)
    assert list(text) == ["memory"]
    assert "1 cell would take more, most of all tiny-mistral--fp32" in text["memory"]


def test_a_full_disk_is_told_with_what_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, jobs = planned(TINY, tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    text = found(plan, jobs, tmp_path)
    assert set(text) == {"disk"}
    assert "0.0 GiB are free" in text["disk"]
    assert "--results" in text["disk"]


def test_a_gpu_that_others_use_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, jobs = planned(TINY, tmp_path)
    monkeypatch.setattr("qbench.core.gpu.device_used_bytes", lambda _: 5 * 2**30)
    text = found(plan, jobs, tmp_path)
    assert "others hold 5.0 GiB of cpu" in text["device"]


def test_what_is_laid_over_all_gpus_is_held_against_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread = TINY.replace(
        "bundled:tiny-mistral", "{source: bundled:tiny-mistral, device_map: auto}"
    )
    plan, jobs = planned(spread, tmp_path)
    monkeypatch.setattr("qbench.running.preflight.room.device_fault", lambda device: None)
    used = {"cuda:0": 0, "cuda:1": 100_000}
    monkeypatch.setattr("qbench.core.gpu.device_used_bytes", used.get)
    free = {"cuda:0": 8_000_000, "cuda:1": 7_900_000}
    monkeypatch.setattr(
        "qbench.running.preflight.room.device_free_bytes", lambda device: free[device]
    )
    # The model in fp32 has 11,805,824 bytes.
    gpu = {"device_type": "cuda", "device": "H100", "device_memory_bytes": 8_000_000}
    both = changed(plan, **gpu, gpus_memory_bytes=(8_000_000, 8_000_000))
    assert "memory" not in found(replace(both, device="cuda:0"), jobs, tmp_path)
    free |= {"cuda:0": 4_000_000, "cuda:1": 3_900_000}
    small = changed(plan, **gpu, gpus_memory_bytes=(4_000_000, 4_000_000))
    text = found(replace(small, device="cuda:0"), jobs, tmp_path)["memory"]
    assert "are free of 2 GPUs together; 1 cell would take more" in text
    # Others' use of any of them counts.
    used["cuda:1"] = 3 * 2**30
    large = changed(plan, **gpu, gpus_memory_bytes=(2**34, 2**34))
    text = found(replace(large, device="cuda:0"), jobs, tmp_path)["device"]
    assert "others hold 3.0 GiB of cuda:1" in text


def test_a_large_model_on_a_cpu_is_told_but_not_what_does_not_fit_it(tmp_path: Path) -> None:
    text = "models: [random:Mistral-7B-Instruct-v0.2]\nmeasure: {footprint: {}}\n"
    plan, _ = planned(f"{text}precisions: [nf4, fp32]\nreference: nf4\n", tmp_path)
    plan = replace(
        plan,
        every=tuple(
            replace(cell, skip="does not fit: …" if cell.cell.label == "fp32" else None)
            for cell in plan.every
        ),
    )
    # The memory that is free now is another matter.
    plan = changed(plan, device_memory_bytes=None)
    jobs = plan.jobs(lambda task: True)
    every = found(plan, jobs, tmp_path)
    every.pop("disk", None)
    assert list(every) == ["device"]
    assert (
        "no GPU: 1 cell of random-Mistral-7B-Instruct-v0.2 (7.2 billion weights)" in every["device"]
    )
    told = page([Looked(plan, jobs, problems(plan, jobs, tmp_path / "results"))])
    assert "1 cell of the suite would be skipped" in told
    assert "random-Mistral-7B-Instruct-v0.2--fp32: does not fit" in told


def test_a_skipped_cell_stops_nothing_but_a_skipped_reference_does(tmp_path: Path) -> None:
    plan, _ = planned(TINY, tmp_path)
    one_less = replace(plan, every=(plan.every[0], replace(plan.every[1], skip="not here")))
    assert found(one_less, one_less.jobs(lambda task: True), tmp_path) == {}
    no_reference = replace(plan, every=(replace(plan.every[0], skip="not here"), plan.every[1]))
    text = found(no_reference, no_reference.jobs(lambda task: True), tmp_path)
    assert list(text) == ["reference"]
    assert (
        "tiny-mistral--fp32, which 1 cell would be compared with, is skipped" in text["reference"]
    )
    nothing = replace(plan, every=tuple(replace(cell, skip="not here") for cell in plan.every))
    assert "none of the 2 cells can run" in found(nothing, [], tmp_path)["cells"]


WITH_DATA = """\
models: [bundled:tiny-mistral]
precisions: [fp32]
finetune:
  data: {dataset: vicgalle/alpaca-gpt4, recipe: instruction}
  methods: [{method: lora, precision: fp32}]
measure: {quality: {text: wikitext-2, window: 64}}
"""


def test_data_that_is_not_here_is_named_once_and_what_is_cached_is_not(tmp_path: Path) -> None:
    plan, jobs = planned(WITH_DATA, tmp_path)
    text = found(plan, jobs, tmp_path)
    assert list(text) == ["network"]
    assert text["network"].count("vicgalle/alpaca-gpt4") == 1
    assert text["network"].count("wikitext-2") == 1
    (tmp_path / "hub" / "datasets" / "vicgalle___alpaca-gpt4").mkdir(parents=True)
    snapshots = tmp_path / "hub" / "hub" / "datasets--Salesforce--wikitext" / "snapshots"
    (snapshots / "b08601e").mkdir(parents=True)
    assert found(plan, jobs, tmp_path) == {}


def test_the_data_sets_of_tasks_are_named(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "_base.yaml").write_text("dataset_path: owner/rows\n", encoding="utf-8")
    (tmp_path / "tasks" / "mine.yaml").write_text(
        "task: mine\ninclude: _base.yaml\noutput_type: multiple_choice\n", encoding="utf-8"
    )
    text = (
        "models: [bundled:tiny-mistral]\nprecisions: [fp32]\n"
        "measure: {tasks: {names: [mine, stdlib-choice], include: tasks}}\n"
    )
    plan, jobs = planned(text, tmp_path)
    assert "not on this machine yet: mine (owner/rows);" in found(plan, jobs, tmp_path)["network"]


def test_nothing_to_run_needs_nothing(tmp_path: Path) -> None:
    plan, _ = planned(WITH_DATA, tmp_path)
    assert found(plan, [], tmp_path) == {}


def test_one_page_tells_all(tmp_path: Path) -> None:
    plan, jobs = planned(WITH_DATA, tmp_path)
    plan = changed(plan, versions={**plan.environment.versions, "peft": None})
    text = page([Looked(plan, jobs, problems(plan, jobs, tmp_path / "results"))])
    assert text.startswith("2 problems before the first cell of suite (")
    assert "1. packages: not installed: peft for lora" in text
    assert "2. network: " in text
    assert "the same with --rehearse" in text
    assert "the same with --yes" in text


class TwoKinds(ThisMachine):
    """Devices of two kinds; no job runs on them."""

    def columns(self, asked: Asked) -> list[Column]:
        (here,) = super().columns(asked)
        plan = changed(here.plan, device="Other", device_kind="other")
        return [here, Column(plan, ("other",))]

    def problems(self, column: Column, jobs: Sequence[Job], results: Path) -> list[Problem]:
        return [Problem("network", f"none on {column.kind}", remedy="plug it in")]


def test_devices_of_several_kinds_are_told_of_together_and_lose_no_record(
    workplace: Workplace,
) -> None:
    workplace.write("suite.yaml", TINY)
    run_inline(workplace, work=pretended())
    suite, results = load_suite(workplace.folder / "suite.yaml"), workplace.folder / "results"
    before = {path: path.read_bytes() for path in results.rglob("*.json")}
    assert before
    watcher = RunDisplay(Console(file=StringIO()))
    with watcher, pytest.raises(PreflightError) as caught:
        run_suite(suite, results, watcher, on=TwoKinds("cpu"), fresh=True)
    text = str(caught.value)
    here = make_plan(suite, results, device="cpu").environment
    assert f"before the first cell of suite on {here.device} (" in text
    assert "before the first cell of suite on Other (" in text
    assert f"none on {here.device_kind}" in text
    assert "none on other" in text
    assert text.count("--rehearse") == 1
    assert {path: path.read_bytes() for path in results.rglob("*.json")} == before


class TestTheMistralSuiteOnAMachineWithoutGpuAndNetwork:
    @pytest.mark.slow
    def test_ends_with_one_page_and_leaves_nothing(
        self, workplace: Workplace, shared_cache: Path
    ) -> None:
        suite = SUITES / "mistral.yaml"
        there = workplace.with_environment(QBENCH_CACHE=str(shared_cache))
        done = there.call("run", str(suite))
        assert done.code == 2
        assert done.output == ""
        for words in (
            "before the first cell of mistral",
            "device: no GPU",
            "network: http://127.0.0.1:9 cannot be reached",
            "mistralai/Mistral-7B-Instruct-v0.2@3ad372fc79158a2148299e3318516c786aeded6c (14.5 GB)",
            "wikitext-2",
            "vicgalle/alpaca-gpt4",
            "full-bf16: does not fit: a training step needs",
            "there is none (`hf auth login`, or HF_TOKEN)",
            "the same with --rehearse",
        ):
            assert words in done.errors
        assert workplace.records() == {}
        assert workplace.survivors() == []

    def test_a_hub_that_gives_no_access_is_told_among_the_rest(
        self, workplace: Workplace, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(REFUSALS, "mistralai/Mistral-7B-Instruct-v0.2", (403, "GatedRepo"))
        with loopback_hub({}) as hub:
            there = workplace.with_environment(
                HF_ENDPOINT=hub.endpoint, QBENCH_CACHE=str(shared_cache)
            )
            done = there.call("run", str(SUITES / "mistral.yaml"))
        assert done.code == 2
        assert "device: no GPU" in done.errors
        assert "access: mistralai/Mistral-7B-Instruct-v0.2@3ad372fc" in done.errors
        assert "the model is gated; accept its terms" in done.errors
        assert "network:" not in done.errors


@pytest.mark.slow
def test_yes_goes_on_and_says_what_was_found(workplace: Workplace) -> None:
    workplace.write(
        "suite.yaml",
        f"models: [{workplace.model}]\nprecisions: [fp32]\n"
        "measure: {footprint: {}, quality: {text: wikitext-2, window: 32}}\n",
    )
    offline = workplace.with_environment(HF_HUB_OFFLINE="1")
    assert offline.call("run", "suite.yaml").code == 2
    assert workplace.records() == {}
    done = offline.call("run", "suite.yaml", "--yes")
    assert done.code == 1
    assert "note: network: " in done.output
    statuses = {one.item.measurement: one.status for one in workplace.records().values()}
    assert statuses == {"footprint": "ok", "quality": "error"}


def test_a_model_that_cannot_be_fetched_is_tried_once(workplace: Workplace) -> None:
    commit = "3ad372fc79158a2148299e3318516c786aeded6c"
    workplace.write(
        "suite.yaml",
        f"models: [mistralai/Mistral-7B-Instruct-v0.2@{commit}]\n"
        "precisions: [nf4-dq, nf4]\nmeasure: {footprint: {}, weight_error: {}}\n",
    )
    unreachable = failing("error", "not downloaded, and the hub is not there", phase="fetch")
    ran = run_inline(workplace, work=pretended(unreachable), yes=True)
    records = workplace.records().values()
    assert [(one.status, one.phase) for one in records] == [("error", "fetch")] * 4
    (reason,) = {one.reason for one in records}
    assert reason is not None
    assert "not downloaded" in reason
    assert len(ran.jobs) == 1
    assert (dict(ran.result.counts), ran.result.taken) == ({"error": 4}, 4)
