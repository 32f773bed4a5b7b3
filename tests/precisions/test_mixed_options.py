"""The map of a mix: what it may say, which layers it means, and what follows before any load."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from qbench.core.errors import ModelError, SuiteError
from qbench.core.spec import PrecisionRef
from qbench.finetune import methods
from qbench.plan.plan import make_plan
from qbench.plan.rehearsal import rehearse
from qbench.plan.suite.suite import load_suite_text
from qbench.precisions import is_quantized, options_of, pools_batch, precisions
from qbench.precisions.computing import computed_in, rest_type
from qbench.precisions.mixed.layers import by_member, member_of, members
from qbench.precisions.mixed.options import MixedOptions
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh, resolve
from tests.record_factory import make_environment

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.errors import Problem
    from qbench.plan.suite.suite import Suite

LLAMA = Variant("llama", "llama")
MIXED: Any = precisions()["mixed"]
LAYERS = [
    f"model.layers.{block}.{name}"
    for block in range(2)
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
]


def mix(layers: Any, **others: Any) -> MixedOptions:
    return MixedOptions.model_validate({**others, "layers": layers})


def held_in(options: MixedOptions) -> dict[str, str]:
    return {name: member_of(name, options).label for name in LAYERS}


def ref(options: MixedOptions) -> PrecisionRef:
    return PrecisionRef(label="mixed", name="mixed", options=options.model_dump(mode="json"))


def test_the_first_pattern_that_matches_decides() -> None:
    first = held_in(mix({"*.0.*": "bf16", "*.down_proj": "int8", "*": "nf4"}))
    assert set(first.values()) == {"bf16", "int8", "nf4"}
    assert first["model.layers.0.mlp.down_proj"] == "bf16"
    assert first["model.layers.1.mlp.down_proj"] == "int8"
    other = mix({"*": "nf4", "*.down_proj": "int8", "*.0.*": "bf16"})
    assert set(held_in(other).values()) == {"nf4"}
    assert ref(other).options != ref(mix({"*.0.*": "bf16", "*.down_proj": "int8"})).options


def test_an_order_is_part_of_the_options_wherever_they_are_kept() -> None:
    one, other = {"*.0.*": "bf16", "*": "nf4"}, {"*": "nf4", "*.0.*": "bf16"}
    assert held_in(options_of(ref(mix(one)))) == held_in(mix(one))  # type: ignore[arg-type]
    assert held_in(options_of(ref(mix(other)))) == held_in(mix(other))  # type: ignore[arg-type]
    assert ref(mix(one)).options != ref(mix(other)).options


def test_a_regular_expression_is_for_the_whole_name() -> None:
    found = held_in(
        mix({r"re:model\.layers\.(0|7)\.self_attn\.(q|k)_proj": "fp8", "re:q_proj": "int8"})
    )
    assert [name for name, label in found.items() if label == "fp8"] == [LAYERS[0]]
    assert "int8" not in found.values()


def test_what_no_pattern_matches_stays_in_the_type_of_the_rest() -> None:
    options = mix({"*.down_proj": "int8"}, dtype="fp16")
    assert set(held_in(options).values()) == {"int8", "fp16"}
    assert [one.label for one in by_member(LAYERS, options)] == ["int8", "fp16"]


def test_names_and_options_of_the_field_are_taken() -> None:
    options = mix({"*.q_proj": "LLM.int8", "*": {"nf4": {"bnb_4bit_compute_dtype": "float32"}}})
    assert [one.label for one in members(options)] == ["int8", "nf4-compute_dtype=fp32"]
    assert members(options)[1].options == {"compute_dtype": "fp32", "dtype": "bf16"}


def test_a_member_is_as_it_is_in_a_mix_and_follows_the_type_of_the_rest() -> None:
    options = mix({"*.q_proj": "q4_k_m", "*.v_proj": "hqq4", "*": "nf4"}, dtype="fp32")
    gguf, hqq, nf4 = members(options)
    assert gguf.options == {"dtype": "fp32", "embeddings": False, "pure": True}
    assert gguf.label == "gguf-q4_k_m"
    assert nf4.options == {"compute_dtype": "fp32", "dtype": "fp32"}
    assert rest_type(hqq) == rest_type(ref(options)) == "fp32"
    other = computed_in(ref(options), "fp16")
    assert other is not None
    assert other.label == "mixed-dtype=fp16"
    assert {rest_type(one) for one in members(options_of(other))} == {"fp16"}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ("nf5", "the unknown precision 'nf5'"),
        ("w8a8-static", "is calibrated"),
        ("stored", "stored"),
        ("mixed", "a mix within a mix"),
        ("fp32", "whose rest is in fp32"),
        ({"int8": {"dtype": "fp32"}}, "whose rest is in fp32"),
        ({"nf4": {"compute": "bf16"}}, "the unknown option of nf4 'compute'"),
        ({"nf4": {"compute_dtype": "fp8"}}, "compute_dtype"),
        ({"hqq": {"bits": 9}}, "bits: 9"),
        ({"nf4": None, "int8": None}, "2 precisions"),
        ({"nf4": "bf16"}, None),
        (4, None),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_where_it_stands(held: Any, words: str | None) -> None:
    with pytest.raises(ValidationError) as caught:
        mix({"*.q_proj": "nf4", "*.v_proj": held, "re:(": "nf4"})
    first, second = caught.value.errors()
    assert first["loc"] == ("layers", "*.v_proj")
    assert second["loc"] == ("layers", "re:(")
    found = first["ctx"]["error"].found
    assert found is None if words is None else words in found


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "(" * 9000 + ")" * 9000])
def test_what_is_no_regular_expression_is_told(pattern: str) -> None:
    with pytest.raises(ValidationError, match="a regular expression after re:"):
        mix({f"re:{pattern}": "nf4"})


def test_what_its_options_may_be_is_expected_and_what_they_are_is_found() -> None:
    with pytest.raises(ValidationError) as caught:
        mix({"*": {"integer": {"bits": 6, "group": 32}}})
    reason = caught.value.errors()[0]["ctx"]["error"]
    assert str(reason).startswith("granularity: group beside `group: 32`")
    assert str(reason).endswith("as options of integer")
    assert reason.found is None


def test_budgets_are_kept_as_they_are_written() -> None:
    budgets = {
        "4.5bpw": "4.5 bits",
        " 5  gib": "5 GiB",
        "1e-3 GiB": "0.001 GiB",
        "2.5E+1 mb": "25 MB",
        "12345678909 B": "12345678909 B",
        "4.00000000001 bits": "4.00000000001 bits",
    }
    made = {text: MixedOptions.model_validate({"budget": text}).budget for text in budgets}
    assert made == budgets
    again = [MixedOptions.model_validate({"budget": text}).budget for text in budgets.values()]
    assert again == list(budgets.values())


def load(text: str, base: Path) -> Suite:
    whole = f"models: [bundled:tiny-mistral]\nprecisions:\n{text}\nmeasure: [footprint]\n"
    return load_suite_text(whole, "suite.yaml", base)


def problems_of(text: str, base: Path) -> tuple[Problem, ...]:
    with pytest.raises(SuiteError) as caught:
        load(text, base)
    return caught.value.problems


def test_a_suite_names_line_and_pattern_of_all_that_is_wrong(tmp_path: Path) -> None:
    first, second = problems_of(
        "  - mixed:\n      layers:\n        '*.q_proj': nf44\n        '*': fp32\n", tmp_path
    )
    assert (first.line, first.place) == (5, "precisions[0].mixed.layers.*.q_proj")
    assert "nf4" in (first.remedy or "")
    assert (second.line, second.remedy) == (
        6,
        "leave the type out, or set the mix's dtype: fp32",
    )


def test_mixes_have_short_labels_and_two_need_a_name(tmp_path: Path) -> None:
    one, other = "  - mixed: {layers: {'*': nf4}}\n", "  - mixed: {layers: {'*': int8}"
    (problem,) = problems_of(f"{one}{other}}}", tmp_path)
    assert problem.line == 4
    assert "name" in (problem.remedy or "")
    suite = load(f"{one}{other}}}\n    name: second\n{other}, dtype: [fp16, fp32]}}", tmp_path)
    labels = [held.label for held in suite.precisions]
    assert labels == ["mixed", "second", "mixed-dtype=fp16", "mixed-dtype=fp32"]


def test_each_pattern_must_match_a_layer(cells: TinyCells) -> None:
    model = resolve(cells.folder(LLAMA))
    assert MIXED.misfit(mix({"*.down_proj": "int8", "*": "nf4"}), model) is None
    reason = MIXED.misfit(mix({"*.donw_proj": "int8", "*": "nf4"}), model)
    assert "'*.donw_proj'" in reason
    assert "model.layers.0.mlp.down_proj" in reason
    unknown = model.model_copy(update={"shape": None})
    assert MIXED.misfit(mix({"*.donw_proj": "int8"}), unknown) is None
    with pytest.raises(ModelError, match="donw_proj"):
        load_fresh(cells.folder(LLAMA), "mixed", **mix({"*.donw_proj": "int8"}).model_dump())


def test_a_mix_without_a_map_says_what_to_write(cells: TinyCells) -> None:
    assert "layers:" in MIXED.misfit(MixedOptions(), resolve(cells.folder(LLAMA)))


def test_a_member_that_holds_none_of_its_layers_is_refused(cells: TinyCells) -> None:
    model = resolve(cells.folder(LLAMA))
    reason = MIXED.misfit(mix({"*.down_proj": "int4-g128", "*.q_proj": "int4-g128"}), model)
    assert reason is None  # down_proj is 128 wide
    reason = MIXED.misfit(mix({"*.q_proj": "int4-g128"}), model)
    assert reason.startswith("of the layers in int4-g128: group 128 divides the width of no")


def test_what_holds_for_one_member_holds_for_the_mix() -> None:
    options = mix({"*.q_proj": "int8", "*.v_proj": "hqq4", "*": "nf4"})
    assert pools_batch(ref(options))
    assert not pools_batch(ref(mix({"*": "nf4"})))
    assert "hqq4" in MIXED.unlike_served(options, "cpu")
    assert MIXED.unlike_served(mix({"*": "nf4"}), "cpu") is None
    assert "outliers" in MIXED.random_weights_of(options)
    assert MIXED.row_multiple(mix({"*.q_proj": "int4-g32", "*": "nf4"})) == 32
    assert is_quantized(ref(options))
    assert not is_quantized(ref(mix({"*": "bf16"})))


def test_packages_are_those_of_its_members(cells: TinyCells) -> None:
    model = resolve(cells.folder(LLAMA))
    options = mix({"*.q_proj": "hqq4", "*": "nf4"})
    assert MIXED.needs_of(model, options) == ("hqq", "bitsandbytes", "accelerate")
    without = make_environment(versions={"hqq": None, "bitsandbytes": "1", "accelerate": "1"})
    assert "hqq" in MIXED.unavailable_for(model, options, without)
    assert MIXED.unavailable_for(model, mix({"*": "nf4"}), without) is None


def test_the_device_decides_for_each_member() -> None:
    options = mix({"*.q_proj": "int4-g128", "*": {"int4-g128": {"kernel": "simulated"}}})
    assert MIXED.for_device(options, "cpu", bf16=True) == {}
    changed = MIXED.for_device(options, "cuda", bf16=True)
    kernels = [one["options"]["kernel"] for one in changed["layers"]]
    assert kernels == ["packed", "simulated"]
    there = MixedOptions.model_validate({**options.model_dump(), **changed})
    assert "int4-g128" in MIXED.misplaced(there, "cpu", bf16=True)
    assert MIXED.misplaced(there, "cuda", bf16=True) is None


def test_nothing_is_trained_on_a_mix() -> None:
    lora = methods()["lora"]
    reason = lora.conflicts(ref(mix({"*": "nf4"})), lora.options())
    assert reason is not None
    assert "PEFT" in reason
    assert methods()["qat"].conflicts(ref(mix({"*": "int4-g32"})), methods()["qat"].options())


def test_a_rehearsal_lays_its_formats_over_the_layers_of_the_stand_in(tmp_path: Path) -> None:
    suite = load("  - mixed: {layers: {'*.30.*': int8, '*.31.*': fp8, '*': nf4}}", tmp_path)
    made = rehearse(suite)
    (held,) = made.precisions
    assert [one["precision"] for one in held.options["layers"]] == ["int8", "fp8", "nf4"]
    assert any("other layers" in note for note in made.rehearsal)
    assert make_plan(made, tmp_path, device="cpu").tasks
    assert not [cell.skip for cell in make_plan(made, tmp_path, device="cpu").cells if cell.skip]


def test_planning_a_mix_imports_no_torch(tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "models: [bundled:tiny-mistral]\nmeasure: [footprint, memory]\n"
        "precisions: [{mixed: {layers: {'*.down_proj': int8, '*.q_proj': gguf-q4_k_m, '*': hqq4}}}]"
    )
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from qbench.plan.plan import make_plan\n"
        "from qbench.plan.suite.suite import load_suite\n"
        f"suite = load_suite(Path({str(suite)!r}))\n"
        f"plan = make_plan(suite, Path({str(tmp_path)!r}), device='cpu')\n"
        "assert plan.tasks and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
