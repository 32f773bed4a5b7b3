"""What a plan makes of a suite that tunes: trainings first, keys that follow from them, skips."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import SuiteError
from qbench.plan.plan import Plan, expected_tasks, make_plan
from qbench.plan.suite.suite import load_suite_text

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.plan.cells import PlannedCell

SUITE = """\
models: bundled:tiny-mistral
precisions: [fp32, nf4]
finetune: {finetune}
measure: {{footprint: , quality: {{window: 256}}, weight_error: , generation: {{count: 2}}}}
"""


def plan(tmp_path: Path, finetune: str, only: tuple[str, ...] = ()) -> Plan:
    suite = load_suite_text(SUITE.format(finetune=finetune), "suite.yaml", tmp_path)
    return make_plan(suite, tmp_path / "results", device="cpu", only=only)


def cell_of(made: Plan, label: str) -> PlannedCell:
    return next(one for one in made.every if one.cell.label == label)


def items_of(made: Plan, label: str) -> list[str]:
    return [f"{t.item.measurement} {t.item.slug}" for t in cell_of(made, label).tasks]


QLORA = "{methods: [{method: lora, precision: nf4}], deploy: [attached, merged]}"


def test_each_kind_of_cell_is_asked_for_what_it_can_tell(tmp_path: Path) -> None:
    made = plan(tmp_path, QLORA)
    quality = "quality stdlib-heldout-w256-default"
    generated = ["generation stdlib-prompts-n2-t64", "generation test-split-n2-t64"]
    assert items_of(made, "nf4") == [
        "footprint model",
        "weight_error linear",
        quality,
        generated[0],
        "completion test",
        generated[1],
    ]
    assert items_of(made, "qlora-nf4") == ["training training"]
    assert items_of(made, "qlora-nf4--attached") == [
        "footprint model",
        quality,
        generated[0],
        f"{quality}-vs-merged",
        "completion test",
        generated[1],
        "adapters several",
    ]


@pytest.mark.parametrize("only", [(), ("qlora-nf4*",), ("nf4",)])
def test_what_a_gate_expects_is_what_a_run_leaves(tmp_path: Path, only: tuple[str, ...]) -> None:
    suite = load_suite_text(SUITE.format(finetune=QLORA), "suite.yaml", tmp_path)
    made = plan(tmp_path, QLORA, only)
    expected = expected_tasks(suite, tmp_path / "results", device="cpu", only=only)
    assert [(cell.slug, task.key, task.path) for cell, task in expected] == [
        (cell.cell.slug, task.key, task.path) for cell in made.cells for task in cell.tasks
    ]
    assert expected


def test_drift_is_held_against_the_base_and_damage_against_the_merged(tmp_path: Path) -> None:
    made = plan(tmp_path, QLORA)
    quality = {
        (cell.cell.label, task.item.slug.endswith("vs-merged")): task
        for cell in made.every
        for task in cell.tasks
        if task.item.measurement == "quality"
    }
    base = quality["fp32", False]
    merged = quality["qlora-nf4--merged", True]
    attached = quality["qlora-nf4--attached", False], quality["qlora-nf4--attached", True]
    assert base.item.makes_states
    assert merged.item.makes_states
    assert attached[0].item.states_key == base.key
    assert attached[1].item.states_key == merged.key
    assert attached[1].identity["reference"] == merged.key
    assert quality["qlora-nf4--merged", False].item.states_key == base.key
    assert [one.item.held_against for one in (base, merged, *attached)] == [
        "fp32", "merged", "fp32", "merged",
    ]  # fmt: skip


def test_a_layer_that_is_not_there_is_told_before_the_run(tmp_path: Path) -> None:
    named = "{methods: [{method: lora, precision: nf4, target: [q_projj]}]}"
    reason = cell_of(plan(tmp_path, named), "qlora-nf4").skip or ""
    assert "'q_projj': no layer of the model has that name; did you mean 'q_proj'?" in reason
    for target in ("[q_proj, lm_head]", "[layers.0.mlp.up_proj]", "all-linear"):
        made = plan(tmp_path, named.replace("[q_projj]", target))
        assert cell_of(made, "qlora-nf4").skip is None


def test_an_option_of_the_training_changes_what_follows_from_it_alone(tmp_path: Path) -> None:
    one = plan(tmp_path, QLORA)
    two = plan(tmp_path, QLORA.replace("nf4}]", "nf4, rank: 2}]"))
    keys = [{c.cell.label: [t.key for t in c.tasks] for c in made.every} for made in (one, two)]
    same = {label for label in keys[0] if keys[0][label] == keys[1][label]}
    assert same == {"fp32", "nf4"}
    assert not set(keys[0]["qlora-nf4--attached"]) & set(keys[1]["qlora-nf4--attached"])


def test_a_training_comes_before_what_needs_it_though_not_selected(tmp_path: Path) -> None:
    made = plan(tmp_path, QLORA, ("qlora-nf4--attached",))
    assert [cell.cell.label for cell in made.cells] == ["qlora-nf4--attached"]
    labels = [job.cell.label for job in made.jobs(lambda task: True)]
    assert labels.index("qlora-nf4") < labels.index("qlora-nf4--attached")
    assert "nf4" not in labels


def test_what_cannot_be_tuned_is_skipped_by_name(tmp_path: Path) -> None:
    made = plan(
        tmp_path,
        "{methods: [{method: full, precision: nf4}, {method: lora, precision: int8, dora: true},"
        " {method: lora, name: p, precision: nf4, init: pissa}, {method: lora}]}",
    )
    skips = {cell.cell.label: cell.skip for cell in made.every}
    assert "nf4" in str(skips["full-nf4"])
    assert skips["full-nf4--merged"] == skips["full-nf4"]
    assert skips["qlora-int8"] is not None
    assert skips["p-nf4"] is not None
    assert skips["lora-bf16"] is None


@pytest.mark.parametrize(
    ("finetune", "words"),
    [
        ("{methods: [{method: lora, max_tokens: 99999}]}", ("max_tokens 99999", "at most 512")),
        ("{methods: lora, data: {dataset: none.jsonl}}", ("finetune.data", "none.jsonl")),
        ("{methods: lora, data: {dataset: rows.jsonl}}", ("finetune.data", "question", "output")),
        ("{methods: lora, data: {train: 999999}}", ("finetune.data", "999999")),
    ],
)
def test_what_does_not_fit_is_told_before_anything_runs(
    tmp_path: Path, finetune: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "why?", "answer": "so"}\n' * 9)
    with pytest.raises(SuiteError) as caught:
        plan(tmp_path, finetune)
    for word in words:
        assert word in str(caught.value)


def test_predicted_bytes_count_the_attached_adapter(tmp_path: Path) -> None:
    made = plan(
        tmp_path, "{methods: [{method: lora, precision: nf4, rank: 8, target: all-linear}]}"
    )
    attached = cell_of(made, "qlora-nf4--attached")
    shape = attached.model.shape
    assert shape is not None
    assert attached.predicted is not None
    linear = [t for t in shape.tensors if t.role == "linear"]
    weights = 8 * sum(sum(t.shape) for t in linear)
    # served in the type that the base computes in
    assert attached.predicted.adapters in {2 * weights, 4 * weights}
    assert cell_of(made, "qlora-nf4").predicted is None
