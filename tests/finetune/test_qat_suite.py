"""QAT in a suite and its plan: the cells, what they are held in, and what is skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import SuiteError
from qbench.plan.plan import Plan, make_plan
from qbench.plan.suite.suite import Suite, load_suite_text
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

BOTH = "{methods: [{method: full}, {method: qat, precision: [int4-g32, int8-wo]}]}"


def load(finetune: str, base: Path, model: str = "bundled:tiny-mistral") -> Suite:
    text = f"models: {model}\nprecisions: [fp32]\nfinetune: {finetune}\nmeasure: {{quality: }}\n"
    return load_suite_text(text, "suite.yaml", base)


def plan(finetune: str, base: Path, model: str = "bundled:tiny-mistral") -> Plan:
    return make_plan(load(finetune, base, model), base / "results", device="cpu")


def served(suite: Suite) -> dict[str, str]:
    return {cell.label: cell.precision.label for cell in suite.cells() if cell.deploy}


def test_qat_is_served_before_and_after_conversion_and_beside_ptq(tmp_path: Path) -> None:
    assert served(load(BOTH, tmp_path)) == {
        "full-bf16--merged": "bf16",
        "full-bf16--quantized-int4-g32": "int4-g32",
        "full-bf16--quantized-int8-wo": "int8-wo",
        "qat-int4-g32--quantized": "int4-g32",
        "qat-int4-g32--fake-quantized": "bf16",
        "qat-int8-wo--quantized": "int8-wo",
        "qat-int8-wo--fake-quantized": "bf16",
    }


def test_before_conversion_it_is_held_in_the_type_that_it_is_served_in(tmp_path: Path) -> None:
    suite = load("{methods: {method: qat, precision: {int4-g32: {dtype: fp32}}}}", tmp_path)
    assert "fp32" in served(suite).values()


def test_a_suite_can_say_what_is_rounded_to(tmp_path: Path) -> None:
    rounded = {"quantized-nf4": "nf4", "quantized-int4-g32": "int4-g32"}
    finetune = "{methods: [full, {method: lora, precision: nf4}], quantize: [nf4, int4-g32]}"
    assert {
        label.removeprefix("full-bf16--"): held
        for label, held in served(load(finetune, tmp_path)).items()
        if label.startswith("full")
    } == {"merged": "bf16", **rounded}


def test_lora_is_rounded_too_once_it_is_merged(tmp_path: Path) -> None:
    finetune = "{methods: [lora, {method: qat, precision: int4-g32, rank: 4}]}"
    held = served(load(finetune, tmp_path))
    assert held["lora-bf16--quantized-int4-g32"] == "int4-g32"
    assert "qat-int4-g32--quantized" in held


def test_without_qat_nothing_is_rounded_unasked(tmp_path: Path) -> None:
    assert list(served(load("{methods: full}", tmp_path))) == ["full-bf16--merged"]


@pytest.mark.parametrize(
    ("finetune", "words"),
    [
        ("{methods: full, quantize: bf16}", ("finetune.quantize", "bf16", "merged")),
        ("{methods: full, quantize: [int5]}", ("finetune.quantize", "int5")),
        ("{methods: full, deploy: quantized}", ("finetune.deploy", "quantize: [int4-g32")),
        ("{methods: {method: qat, alpha: 4}}", ("alpha", "`rank` beside")),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, finetune: str, words: tuple[str, ...]) -> None:
    with pytest.raises(SuiteError) as caught:
        load(finetune, tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_what_cannot_be_trained_for_is_skipped_with_all_it_would_serve(tmp_path: Path) -> None:
    made = plan("{methods: {method: qat, precision: [nf4, w8a8-static, int4-g32]}}", tmp_path)
    skips = {cell.cell.label: cell.skip for cell in made.every if cell.cell.tuning}
    for label in ("qat-nf4", "qat-nf4--quantized", "qat-nf4--fake-quantized"):
        assert "{method: lora, precision: nf4}" in str(skips[label])
    assert "calibration" in str(skips["qat-w8a8-static"])
    assert skips["qat-int4-g32"] is None
    assert skips["qat-int4-g32--quantized"] is None


def test_a_group_that_fits_no_layer_is_a_skip(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "odd", "mistral", hidden=48, intermediate=80)
    made = plan("{methods: {method: qat, precision: int4-g32}}", tmp_path, "odd")
    skips = {cell.cell.label: cell.skip for cell in made.every}
    assert skips["fp32"] is None
    for label in ("qat-int4-g32", "qat-int4-g32--quantized", "qat-int4-g32--fake-quantized"):
        assert "group 32" in str(skips[label])


def test_ptq_is_held_against_the_same_weights_in_16_bits(tmp_path: Path) -> None:
    tasks = {
        (cell.cell.label, task.item.slug.endswith("vs-merged")): task
        for cell in plan(BOTH, tmp_path).every
        for task in cell.tasks
        if task.item.measurement == "quality"
    }
    merged = tasks["full-bf16--merged", True]
    assert merged.item.makes_states
    assert tasks["full-bf16--quantized-int4-g32", True].item.states_key == merged.key
    assert ("qat-int4-g32--quantized", True) not in tasks


def test_each_rounded_cell_has_keys_of_its_own(tmp_path: Path) -> None:
    made = plan(BOTH, tmp_path)
    keys = [task.key for cell in made.every for task in cell.tasks]
    assert len(keys) == len(set(keys))
    trained = {cell.cell.label: cell.artifact_key for cell in made.every if cell.cell.tuning}
    assert len({key for label, key in trained.items() if label.startswith("full")}) == 1
    assert trained["qat-int4-g32"] != trained["qat-int8-wo"]
