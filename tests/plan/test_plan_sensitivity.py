"""Which formats sensitivities are measured in, on which cells, and what a plan says of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import SuiteError
from qbench.core.store import write_record
from qbench.measures.loaded import make_metric
from qbench.measures.sensitivity.definitions import METRICS
from qbench.measures.sensitivity.options import params_of
from qbench.plan.missing import jobs_to_run
from qbench.plan.plan import RETRIED, Plan, make_plan
from qbench.plan.rehearsal import rehearse
from qbench.plan.suite.suite import load_suite_text
from qbench.report.plan_page import plan_page
from tests.pages import on_terminal
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from qbench.plan.job import Task

SUITE = """\
models: [{model}]
precisions: [{precisions}]
reference: {reference}
measure: {{sensitivity: {{{options}}}{more}}}
"""


@pytest.fixture
def plan_of(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / "cache"))

    def made(
        options: str = "",
        precisions: str = "fp32, nf4, fp4",
        reference: str = "fp32",
        more: str = "",
        model: str | Path = tiny_model,
    ) -> Plan:
        text = SUITE.format(
            model=model, precisions=precisions, reference=reference, options=options, more=more
        )
        suite = load_suite_text(text, "suite.yaml", tmp_path)
        return make_plan(suite, tmp_path / "results", device="cpu")

    return made


def tasks_of(plan: Plan) -> dict[str, Task]:
    return {
        cell.cell.label: task
        for cell in plan.cells
        for task in cell.tasks
        if task.item.measurement == "sensitivity"
    }


def formats_of(plan: Plan) -> dict[str, dict[str, Any]]:
    [task, *_] = tasks_of(plan).values()
    return {one.label: one.options for one in params_of(task.item).formats}


def shown(plan: Plan) -> str:
    return " ".join(on_terminal(plan_page(plan, Path("results")), 200).split())


def test_the_formats_are_the_suites_own_in_the_references_type(plan_of: Any) -> None:
    suite = "fp32, bf16, nf4, int8, {gguf-q4_0: {}}, w8a8-static"
    found = formats_of(plan_of(precisions=suite))
    assert list(found) == ["nf4", "int8", "gguf-q4_0"]
    assert found["nf4"]["compute_dtype"] == "fp32"
    assert found["int8"]["dtype"] == "fp32"
    assert found["gguf-q4_0"]["pure"] is True
    in_bf16 = formats_of(plan_of(precisions=suite, reference="bf16"))
    assert in_bf16["nf4"]["compute_dtype"] == "bf16"
    # Two that differ in their types alone are one.
    both = formats_of(plan_of(precisions="fp32, nf4, {nf4: {compute_dtype: fp16}}"))
    assert list(both) == ["nf4"]


def test_formats_are_labels_or_names_with_options(plan_of: Any) -> None:
    plan = plan_of(
        options="formats: [mine, fp4, {integer: {bits: 5}}]",
        precisions="fp32, {integer: {bits: 3, group: 32, granularity: group}, name: mine}",
    )
    found = formats_of(plan)
    assert list(found) == ["mine", "fp4", "integer-bits=5"]
    assert (found["mine"]["bits"], found["integer-bits=5"]["bits"]) == (3, 5)


@pytest.mark.parametrize(
    ("formats", "words"),
    [
        ("[w8a8-static]", ["formats[0]", "calibrated"]),
        ("[nf4, stored]", ["formats[1]"]),
        ("[fp32]", ["fp32", "costs nothing"]),
        ("[bf16]", ["bf16", "fp32"]),
        ("[{int8: {dtype: bf16}}]", ["int8", "bf16", "fp32", "leave the type out"]),
        ("[nf5]", ["nf5", "nf4"]),
        ("[{nf4: {}, fp4: {}}]", ["2 precisions"]),
        ("[{nf4: {bits: 3}}]", ["bits", "nf4"]),
    ],
)
def test_what_cannot_hold_a_layer_alone_is_refused(
    plan_of: Any, formats: str, words: list[str]
) -> None:
    with pytest.raises(SuiteError) as raised:
        plan_of(options=f"formats: {formats}")
    [problem] = raised.value.problems
    assert problem.line == 4
    for word in words:
        assert word in str(problem)


def test_a_reference_in_codes_has_no_layer_to_hold_otherwise(plan_of: Any) -> None:
    found = tasks_of(plan_of(precisions="nf4, fp4", reference="nf4"))
    assert all("holds codes" in str(task.skip) for task in found.values())


def test_without_a_format_there_is_a_reason(plan_of: Any) -> None:
    found = tasks_of(plan_of(precisions="fp32, bf16"))
    assert all("measure.sensitivity.formats" in str(task.skip) for task in found.values())


def test_a_format_that_this_machine_lacks_is_named(plan_of: Any) -> None:
    packed = "formats: [nf4, {int4-g32: {kernel: packed}}]"
    found = tasks_of(plan_of(packed, precisions="bf16, nf4", reference="bf16"))
    assert all(str(task.skip).startswith("int4-g32") for task in found.values())


def test_random_weights_have_learned_nothing(plan_of: Any, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "shape", "llama")
    found = tasks_of(plan_of(model=f"'random:{model}'"))
    assert found
    assert all("random" in str(task.skip) for task in found.values())


def test_tuned_models_and_quantized_caches_are_passed_over(
    tmp_path: Path, tiny_model: Path
) -> None:
    text = SUITE.format(
        model=tiny_model, precisions="fp32, nf4", reference="fp32", options="", more=""
    )
    text += "kv_cache: [fp8]\nfinetune: {methods: [{method: lora, precision: fp32}]}\n"
    plan = make_plan(
        load_suite_text(text, "suite.yaml", tmp_path), tmp_path / "results", device="cpu"
    )
    assert set(tasks_of(plan)) == {"fp32", "nf4"}


def test_all_cells_share_the_item_and_are_held_against_the_reference(plan_of: Any) -> None:
    found = tasks_of(plan_of())
    assert {task.item.slug for task in found.values()} == {found["fp32"].item.slug}
    assert all(task.item.params == found["fp32"].item.params for task in found.values())
    assert {task.item.states_key for task in found.values()} == {found["fp32"].key}
    assert [label for label, task in found.items() if task.item.makes_states] == ["fp32"]
    # Another format, another table.
    assert tasks_of(plan_of("formats: [nf4]"))["fp32"].key != found["fp32"].key


def test_the_packages_of_the_formats_are_in_the_key(plan_of: Any) -> None:
    task = tasks_of(plan_of("formats: [hqq4]"))["fp32"]
    assert "hqq" in task.identity["versions"]


def test_the_plan_says_what_it_takes(plan_of: Any) -> None:
    words = shown(plan_of("formats: [nf4, fp4], limit: 3, window: 16"))
    # 2 blocks of 7 layers: 28 passes; those of the second block run half of the blocks.
    assert "each linear layer alone in 2 formats (nf4, fp4)" in words
    assert "28 passes over 3 windows of 16 tokens" in words
    assert "work of 21 whole ones" in words
    assert "quality scores too" not in words
    assert "at most 7 passes" in shown(plan_of("formats: [nf4], by: kind, prune: dominated"))


def test_a_text_that_is_scored_is_warned_of(plan_of: Any) -> None:
    same = plan_of("text: bundled:stdlib-heldout", more=", quality: {window: 32}")
    assert "bundled:stdlib-heldout, which quality scores too" in shown(same)


def test_a_window_beyond_the_context_is_refused(plan_of: Any) -> None:
    with pytest.raises(SuiteError, match="at most 128"):
        plan_of("window: 129")


def test_states_that_are_gone_are_made_again(plan_of: Any) -> None:
    plan = plan_of("window: 32")
    value = (make_metric(METRICS, "sensitivity.kl.mean", 0.5),)
    for job in plan.jobs(lambda _: True):
        if job.cell.label == "fp4":
            continue
        for task in job.tasks:
            fields: Any = {"metrics": value, "details": {"ids_sha256": "same"}}
            write_record(Path(task.path), job.record(task, "ok", **fields))
    # fp4 has no record, and what it is held against is not in the cache.
    assert [job.cell.label for job in jobs_to_run(plan, RETRIED, fresh=False)] == ["fp32", "fp4"]


def test_a_rehearsal_is_short(plan_of: Any) -> None:
    suite = rehearse(plan_of("limit: 64").suite)
    options: Any = suite.measure["sensitivity"]
    assert (options.limit, options.window) == (4, 64)
    assert any("sensitivity: " in note for note in suite.rehearsal)
