"""Mixes that a suite states a budget of: what a plan makes of them before anything is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import SuiteError
from qbench.measures.sensitivity.options import SENSITIVITY, params_of
from qbench.plan.plan import Plan, make_plan
from qbench.plan.rehearsal import rehearse
from qbench.plan.suite.suite import Suite, load_suite_text
from qbench.precisions import precisions
from qbench.precisions.mixed.options import MixedOptions
from qbench.precisions.mixed.sensitivities import Cost, Sensitivities, Unit, keep_sensitivities
from qbench.predict.bits import bits_per_weight, weights_of
from qbench.report.listed_entry import option_rows
from qbench.report.listing import entry_data
from qbench.report.plan_page import plan_page
from tests.pages import on_terminal
from tests.tiny_models import make_tiny_model
from tests.workplace import write_text

if TYPE_CHECKING:
    from pathlib import Path

SUITE = """\
models: [{models}]
reference: bf16
precisions:
  - bf16
  - nf4
  - {{mixed: {mix}, name: mix}}
measure:
  footprint:
"""
MIX = "{budget: 7 bits, from: [nf4, int8-wo, bf16]}"


def suite_of(folder: Path, *models: object, mix: str = MIX, more: str = "") -> Suite:
    write_text(folder)
    text = SUITE.format(models=", ".join(map(str, models)), mix=mix)
    return load_suite_text(text + more, "suite.yaml", folder)


def plan_of(folder: Path, *models: object, **options: str) -> Plan:
    return make_plan(suite_of(folder, *models, **options), folder / "results", device="cpu")


def formats_in(plan: Plan, label: str = "bf16") -> list[str]:
    (item,) = (
        task.item
        for cell in plan.every
        if cell.cell.label == label
        for task in cell.tasks
        if task.item.measurement == SENSITIVITY
    )
    return [one.label for one in params_of(item).formats]


def words(plan: Plan, folder: Path) -> str:
    return " ".join(on_terminal(plan_page(plan, folder / "results"), 400).split())


def test_the_sensitivity_that_it_needs_is_measured_with_its_formats(
    tmp_path: Path, tiny_model: Path
) -> None:
    plan = plan_of(tmp_path, tiny_model)
    assert formats_in(plan) == ["nf4", "int8-wo"]
    own = "  sensitivity: {text: text.txt, window: 32, formats: [fp4, nf4]}\n"
    plan = plan_of(tmp_path, tiny_model, more=own)
    assert formats_in(plan) == formats_in(plan, "mix") == ["fp4", "nf4", "int8-wo"]
    alone = SUITE.replace("  - {{mixed: {mix}, name: mix}}\n", "").format(models=tiny_model)
    assert SENSITIVITY not in load_suite_text(alone, "suite.yaml", tmp_path).measure


def test_a_label_of_the_suite_that_means_another_format_is_told_apart(
    tmp_path: Path, tiny_model: Path
) -> None:
    write_text(tmp_path)
    own = "  sensitivity: {text: text.txt, window: 32, formats: [int8-wo]}\n"
    text = SUITE.format(models=tiny_model, mix="{budget: 7 bits, from: [int8-wo, nf4]}")
    other = "  - {integer: {bits: 6}, name: int8-wo}"
    suite = load_suite_text(text.replace("  - nf4", other) + own, "suite.yaml", tmp_path)
    plan = make_plan(suite, tmp_path / "results", device="cpu")
    assert formats_in(plan) == ["int8-wo", "int8-wo-2", "nf4"]


def test_each_model_has_a_table_of_its_own(tmp_path: Path, tiny_model: Path) -> None:
    other = make_tiny_model(tmp_path / "other", "llama", seed=1)
    plan = plan_of(tmp_path, tiny_model, other)
    keys = {
        cell.model.ref.name: task.key
        for cell in plan.every
        for task in cell.tasks
        if cell.reference and task.item.measurement == SENSITIVITY
    }
    mixes = {cell.model.ref.name: cell for cell in plan.cells if cell.cell.label == "mix"}
    assert {name: cell.sensitivities_key for name, cell in mixes.items()} == keys
    assert len(set(keys.values())) == 2
    for name, cell in mixes.items():
        assert {task.identity["sensitivities"] for task in cell.tasks} == {keys[name]}
    others = [cell for cell in plan.cells if cell.cell.label != "mix"]
    assert {cell.sensitivities_key for cell in others} == {None}


@pytest.mark.parametrize(
    ("budget", "most"), [("7 bits", ("linear", 7)), ("200 KB", ("bytes", 200_000))]
)
def test_before_it_is_found_its_bytes_are_the_most_it_may_take(
    tmp_path: Path, tiny_model: Path, budget: str, most: tuple[str, float]
) -> None:
    plan = plan_of(tmp_path, tiny_model, mix=f"{{budget: {budget}, from: [nf4, int8-wo]}}")
    (mix,) = (cell for cell in plan.cells if cell.cell.label == "mix")
    assert mix.skip is None
    assert mix.predicted is not None
    assert mix.model.shape is not None
    bits = bits_per_weight(mix.predicted, weights_of(mix.model.shape))["linear"]
    taken = bits if most[0] == "linear" else mix.predicted.total
    assert taken == pytest.approx(most[1], rel=1e-4)
    assert taken <= most[1]
    assert f"bytes are the most that {budget} allow" in words(plan, tmp_path)
    assert "peak not known: mix: which layer is held in what is still to be found" in words(
        plan, tmp_path
    )


def keep_table(plan: Plan) -> None:
    """A table in which only the first layer of each kind is worth more bits."""
    (mix,) = (cell for cell in plan.cells if cell.cell.label == "mix")
    (reference,) = (cell for cell in plan.cells if cell.reference)
    formats = next(
        {one.label: one for one in params_of(task.item).formats}
        for task in reference.tasks
        if task.item.measurement == SENSITIVITY
    )
    assert mix.model.shape is not None
    units = [
        Unit(
            name=name,
            layers=(name,),
            weights=one.numel,
            plain_bytes=2 * one.numel,
            costs={
                "nf4": Cost(bytes=one.numel // 2, kl=1.0 if ".0." in name else 0.01),
                "int8-wo": Cost(bytes=one.numel, kl=0.0),
            },
        )
        for one in mix.model.shape.tensors
        if one.role == "linear"
        for name in [one.name.removesuffix(".weight")]
    ]
    table = Sensitivities(rest="bf16", formats=formats, units=tuple(units), tokens=9)
    keep_sensitivities(mix.sensitivities_key or "", table)


def test_once_the_table_is_there_the_plan_tells_the_mix(tmp_path: Path, tiny_model: Path) -> None:
    keep_table(plan_of(tmp_path, tiny_model))
    plan = plan_of(tmp_path, tiny_model)
    (mix,) = (cell for cell in plan.cells if cell.cell.label == "mix")
    assert mix.found is not None
    assert mix.predicted is not None
    assert mix.found[1].static_bytes == mix.predicted.total
    data = plan_page(plan, tmp_path / "results").data["cells"]
    assert [one["mix"] for one in data] == [None, None, mix.found[1].model_dump(mode="json")]
    units = mix.found[1].units
    assert {label for name, label in units.items() if ".0." in name} <= {"int8-wo", "bf16"}
    assert {label for name, label in units.items() if ".1." in name} >= {"nf4"}
    few = sum(label == "nf4" for label in units.values())
    assert mix.found[1].predicted_kl == pytest.approx(0.01 * few)
    assert f"mix: found: 14 units, {14 - few} in int8-wo, {few} in nf4" in words(plan, tmp_path)


@pytest.mark.parametrize(
    ("mix", "reason"),
    [
        (
            "{budget: 4 bits, from: [nf4]}",
            "no mix of nf4 and bf16 is within 4 bits: the least that",
        ),
        ("{budget: 1 KB, from: [nf4]}", "no mix of nf4 and bf16 is within 1 KB: the least that"),
    ],
)
def test_a_budget_that_nothing_keeps_is_told_beforehand(
    tmp_path: Path, tiny_model: Path, mix: str, reason: str
) -> None:
    (cell,) = (one for one in plan_of(tmp_path, tiny_model, mix=mix).cells if one.skip)
    assert (cell.skip or "").startswith(reason)
    # What it names as the least is enough.
    least = (cell.skip or "").partition("take is ")[2].partition(";")[0]
    enough = least.replace(" a weight", "").replace(",", "").replace("bytes", "B")
    plan = plan_of(tmp_path, tiny_model, mix=f"{{budget: {enough}, from: [nf4]}}")
    assert [one.skip for one in plan.cells] == [None] * 3


def test_of_a_tuned_model_none_is_found(tmp_path: Path, tiny_model: Path) -> None:
    more = (
        "finetune:\n  methods: [{method: full, precision: bf16}]\n"
        "  quantize: [{mixed: {budget: 7 bits, from: [nf4, int8-wo]}}]\n"
    )
    plan = plan_of(tmp_path, tiny_model, more=more)
    (tuned,) = (cell for cell in plan.cells if "quantized" in cell.cell.label)
    assert tuned.skip is not None
    assert "not of a tuned one; write its layers by hand" in tuned.skip
    assert tuned.sensitivities_key is None


def test_of_random_weights_there_is_nothing_to_find_it_from(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "shape", "llama")
    plan = plan_of(tmp_path, f"random:{tmp_path / 'shape'}")
    (mix,) = (cell for cell in plan.cells if cell.cell.label == "mix")
    assert mix.skip is not None
    assert (
        "found from the sensitivities of the reference: the model's weights are random" in mix.skip
    )


def test_a_mix_that_is_to_be_the_reference_has_nothing_to_be_found_from(
    tmp_path: Path, tiny_model: Path
) -> None:
    write_text(tmp_path)
    text = SUITE.format(models=tiny_model, mix=MIX).replace("reference: bf16", "reference: mix")
    suite = load_suite_text(text, "suite.yaml", tmp_path)
    plan = make_plan(suite, tmp_path / "results", device="cpu")
    (mix,) = (cell for cell in plan.cells if cell.cell.label == "mix")
    assert mix.reference
    assert mix.skip is not None
    assert "found from the sensitivities of the reference: the reference, mixed, holds" in mix.skip


@pytest.mark.parametrize(
    ("mix", "found"),
    [
        ("{budget: 4.5}", "mixed.budget: found the number 4.5; expected bits a weight such as"),
        ("{budget: 4.5 bits, from: [nf5]}", "did you mean 'nf4'"),
        ("{budget: 4.5 bits, from: [fp16]}", "set the mix's dtype: fp16"),
        ("{budget: 4.5 bits, from: [bf16]}", "at least one format that takes less"),
        ("{budget: 4.5 bits, from: [int4-g128-gptq]}", "is calibrated"),
        (
            "{budget: 4.5 bits, from: [{integer: {bitz: 3}}]}",
            "mixed.from[0]: found the unknown option of integer 'bitz'",
        ),
        ("{budget: 4.5 bits, layers: {'*': nf4}}", "expected `layers` or a `budget`"),
        ("{from: [nf4]}", "expected a `budget` beside what a mix is found from"),
        ("{budget: 4.5 bits, by: bytes}", "expected one of kl, output_error"),
    ],
)
def test_what_is_wrong_with_it_is_told_where_it_stands(
    tmp_path: Path, tiny_model: Path, mix: str, found: str
) -> None:
    with pytest.raises(SuiteError) as told:
        suite_of(tmp_path, tiny_model, mix=mix)
    assert found in str(told.value)
    assert "suite.yaml:6: precisions[2].mixed" in str(told.value)


def test_its_rest_is_that_of_the_reference(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(SuiteError, match="give the mix `dtype: bf16`, or take fp32"):
        plan_of(tmp_path, tiny_model, mix="{budget: 7 bits, from: [nf4], dtype: fp32}")


def test_its_options_are_listed_by_the_names_that_a_suite_has() -> None:
    names = ["dtype", "layers", "budget", "from", "by"]
    assert [row[0] for row in option_rows(MixedOptions)] == names
    assert entry_data(precisions()["mixed"], None)["options"] == names


def test_budgets_are_swept_and_label_the_mixes(tmp_path: Path, tiny_model: Path) -> None:
    suite = load_suite_text(
        f"models: [{tiny_model}]\nreference: bf16\nprecisions:\n  - bf16\n"
        "  - mixed: {budget: [7bpw, 200 kb], from: nf4}\nmeasure: [footprint]\n",
        "suite.yaml",
        tmp_path,
    )
    labels = [one.label for one in suite.precisions]
    assert labels == ["bf16", "mixed-budget=7-bits", "mixed-budget=200-KB"]
    options: list[Any] = [one.options.get("budget") for one in suite.precisions]
    assert options == [None, "7 bits", "200 KB"]


@pytest.mark.parametrize("budget", ["5 GiB", "1 KB", "3 bits", "7 bits"])
def test_a_rehearsal_has_a_budget_that_leaves_something_to_decide(
    tmp_path: Path, tiny_model: Path, budget: str
) -> None:
    suite = suite_of(tmp_path, tiny_model, mix=f"{{budget: {budget}, from: [nf4, int8-wo]}}")
    rehearsed = rehearse(suite)
    plan = make_plan(rehearsed, tmp_path / "results", device="cpu")
    assert [cell.skip for cell in plan.cells] == [None] * 3
    (mix,) = (cell for cell in plan.cells if cell.cell.label == "mix")
    assert mix.predicted is not None
    assert mix.model.shape is not None
    bits = bits_per_weight(mix.predicted, weights_of(mix.model.shape))["linear"]
    assert bits is not None
    assert 4.5 < bits < 16
    kept = budget == "7 bits"
    assert any(note.startswith("mix: budget") for note in rehearsed.rehearsal) != kept
