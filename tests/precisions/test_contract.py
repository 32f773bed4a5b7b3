"""What every precision of the table promises, and each kind of them on every architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.spec import StaticBytes
from qbench.precisions import is_quantized, precisions, products_of
from qbench.precisions.inventory import inventory, logical_weights
from tests.precisions.tiny_cells import TinyCells, Variant, quick_options, resolve, typed_options_of
from tests.record_factory import make_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.core.spec import ModelShape
    from qbench.measures.loaded import LoadedModel

VARIANTS = [
    Variant("llama", "llama"),
    Variant("llama-tied", "llama", {"tied": True}),
    Variant("llama-biases", "llama", {"attention_bias": True, "mlp_bias": True}),
    # 320 x 128 weights are 640 blocks of 64: two nested blocks of 256 and a half.
    Variant("llama-nested", "llama", {"hidden": 128, "intermediate": 320, "layers": 1}),
    Variant("mistral-bf16-file", "mistral", {"dtype": "bfloat16"}),
    Variant("qwen2-tied", "qwen2", {"tied": True}),
    Variant("qwen2", "qwen2"),
    Variant("gpt2-tied", "gpt2", {"tied": True}),
    Variant("gpt2", "gpt2"),
    Variant("opt-tied", "opt", {"tied": True}),
    Variant("opt", "opt"),
    Variant("opt-projected", "opt", {"word_embed_proj_dim": 64, "hidden": 128, "layers": 1}),
]
SHORT = {"dtype": "fp32", "calibration_text": "bundled:stdlib-excerpt"}
WITH_OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("int8", {"dtype": "fp16"}),
    ("int8", {"dtype": "fp32", "threshold": 0.0}),
    ("nf4", {"compute_dtype": "fp16"}),
    ("nf4", {"compute_dtype": "fp32"}),
    ("fp4", {"compute_dtype": "fp32", "dtype": "bf16"}),
    ("nf4-dq", {"compute_dtype": "fp32", "dtype": "bf16"}),
    ("nf4-dq", {"compute_dtype": "bf16", "dtype": "fp32"}),
    ("nf4", {"compute_dtype": "fp32", "dtype": "fp16"}),
    ("integer", {"bits": 3, "granularity": "tensor", "mapping": "asymmetric", "dtype": "fp32"}),
    ("integer", {"bits": 2, "granularity": "group", "group": 16, "activations": "dynamic"}),
    ("w8a8-static", {**SHORT, "calibration_method": "mse"}),
    ("w8a8-smooth", {**SHORT, "dtype": "fp16"}),
    ("integer", {"bits": 4, "mapping": "asymmetric", "weights": "gptq", **SHORT}),
    ("gguf-q4_k_m", {"dtype": "fp16", "embeddings": False}),
    ("gguf-q5_1", {"dtype": "fp32", "pure": True}),
]
EVERY_ONE = ("llama", "llama-nested", "gpt2-tied")
"""Variants that every precision is tried on: plain layers, odd blocks, and layers that are Conv1D.
The others are for each kind, its precisions by turns."""
OWN_WORDS: dict[str, dict[str, Any]] = {
    "fp32": {"dtype": "fp32"},
    "bf16": {"dtype": "bf16"},
    "fp16": {"dtype": "fp16"},
    "int8": {"quant_type": "int8"},
    "fp4": {"quant_type": "fp4", "double_quant": False},
    "nf4": {"quant_type": "nf4", "double_quant": False},
    "nf4-dq": {"quant_type": "nf4", "double_quant": True},
}
"""What the details of some precisions say beside their options."""


def chosen_cases() -> Iterator[tuple[Variant, tuple[str, dict[str, Any]]]]:
    kinds: dict[type, list[str]] = {}
    for name, precision in precisions().items():
        if name != "stored":  # it takes no original model, and has tests of its own
            kinds.setdefault(type(precision), []).append(name)
    others = [variant for variant in VARIANTS if variant.label not in EVERY_ONE]
    for names in kinds.values():
        for variant in VARIANTS:
            if variant not in others:
                yield from ((variant, (name, quick_options(name))) for name in names)
        for at, one in enumerate(others):
            name = names[at % len(names)]
            yield one, (name, quick_options(name))
    # Biases are converted to the compute type; the embeddings' type is an option.
    by_label = {variant.label: variant for variant in VARIANTS}
    for at, case in enumerate(WITH_OPTIONS):
        yield by_label["llama-biases"], case
        yield by_label["gpt2-tied" if at % 2 else "opt"], case


def describe(value: object) -> str | None:
    if isinstance(value, Variant):
        return value.label
    if isinstance(value, tuple):
        name, options = value
        return "-".join([name, *(f"{key}={chosen}" for key, chosen in options.items())])
    return None


def measured_bytes(loaded: LoadedModel) -> StaticBytes:
    by_kind = dict.fromkeys(StaticBytes.model_fields, 0)
    for held in inventory(loaded.model):
        by_kind[held.kind] += held.tensor.untyped_storage().nbytes()
    return StaticBytes(**by_kind)


def shape_of(loaded: LoadedModel) -> ModelShape:
    shape = loaded.resolved.shape
    assert shape is not None
    return shape


@pytest.mark.parametrize(("variant", "case"), [*chosen_cases()], ids=describe)
def test_a_precision_keeps_its_promises(
    variant: Variant, case: tuple[str, dict[str, Any]], cells: TinyCells
) -> None:
    name, options = case
    loaded = cells.load(variant, name, **options)
    it_is_verified_frozen_and_in_eval_mode(loaded)
    the_arithmetic_equals_its_bytes(loaded)
    the_quantized_share_and_what_was_left_out_are_told(loaded)
    the_details_say_what_was_asked_for(loaded)


def it_is_verified_frozen_and_in_eval_mode(loaded: LoadedModel) -> None:
    assert loaded.verification.faults == ()
    assert not any(module.training for module in loaded.model.modules())
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def the_arithmetic_equals_its_bytes(loaded: LoadedModel) -> None:
    """Before and after a forward."""
    import torch

    assert measured_bytes(loaded) == loaded.predicted
    with torch.inference_mode():
        loaded.model(input_ids=torch.tensor([[1, 2, 3]]))
    assert measured_bytes(loaded) == loaded.predicted


def the_quantized_share_and_what_was_left_out_are_told(loaded: LoadedModel) -> None:
    shape = shape_of(loaded)
    details = loaded.verification.details
    linear = [tensor for tensor in shape.tensors if tensor.role == "linear"]
    weights = sum(tensor.numel for tensor in linear)
    assert logical_weights(loaded.model) == shape.weights
    assert details["linear_modules"] == len(linear)
    assert loaded.predicted is not None
    if loaded.predicted.linear >= 2 * weights:  # no codes, by the arithmetic
        assert details["quantized_modules"] == 0
        assert details["quantized_share"] == 0
        return
    products = products_of(loaded.cell.precision)
    held = [one for one in linear if products is None or products.holds(one.in_features)]
    assert held
    assert details["quantized_modules"] == len(held)
    tables = details.get("tables", {})  # embeddings and heads that are quantized too
    held += [one for one in shape.tensors if one.name.removesuffix(".weight") in tables]
    assert details["quantized_share"] == sum(one.numel for one in held) / shape.weights
    others = {one.name.removesuffix(".weight") for one in linear} - {
        one.name.removesuffix(".weight") for one in held
    }
    assert set(details["left_out"]) == {*others, *([] if tables else ["lm_head"])}


def the_details_say_what_was_asked_for(loaded: LoadedModel) -> None:
    """Each option under its own name, where the details have it."""
    import torch

    name, options = loaded.cell.precision.name, loaded.cell.precision.options
    details = loaded.verification.details
    assert details["attention"] == "sdpa"
    chosen = precisions()[name].options(**options)
    assert details["unlike_served"] == precisions()[name].unlike_served(chosen, "cpu")
    types = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    embedded = loaded.model.get_input_embeddings()(torch.tensor([[0]]))
    assert str(embedded.dtype) == f"torch.{types[details['dtype']]}"
    told = {**OWN_WORDS.get(name, {})}
    told |= {key: value for key, value in options.items() if value is not None and key in details}
    assert {key: details[key] for key in told} == told
    if "bits" in options:
        assert details["quant_type"] == f"int{options['bits']}"
    elif name in OWN_WORDS and options:
        assert details["dtype"] == (options["dtype"] or options["compute_dtype"])


@pytest.mark.parametrize("name", list(precisions()))
def test_options_round_trip(name: str) -> None:
    options = precisions()[name].options
    defaults = options()
    assert options.model_validate(defaults.model_dump()) == defaults
    assert options.model_validate_json(defaults.model_dump_json()) == defaults
    with pytest.raises(ValueError, match="extra"):
        options.model_validate({"no_such_option": 1})


@pytest.mark.parametrize("name", list(precisions()))
def test_a_missing_package_is_named(name: str) -> None:
    precision = precisions()[name]
    reason = precision.unavailable(make_environment(versions=dict.fromkeys(precision.needs)))
    if not precision.needs:
        assert reason is None
        return
    assert reason is not None
    for package in precision.needs:
        assert package in reason
    assert "pip install" in reason
    there = make_environment(versions=dict.fromkeys(precision.needs, "1.0"))
    assert precision.unavailable(there) is None


def test_precisions_in_the_order_they_are_shown() -> None:
    shipped = ["fp32", "bf16", "fp16", "int8", "fp4", "nf4", "nf4-dq"]
    assert [name for name in precisions() if name in shipped] == shipped
    orders = [precision.order for precision in precisions().values()]
    assert orders == sorted(orders)
    assert all(name == precision.name for name, precision in precisions().items())


@pytest.mark.parametrize("architecture", ["gemma2", "cohere", "gpt2", "gpt_neox", "phi"])
@pytest.mark.parametrize(
    "case",
    [("bf16", {}), ("int8", {}), ("nf4-dq", {"compute_dtype": "bf16", "dtype": "fp32"})],
    ids=describe,
)
def test_arithmetic_from_a_meta_model(
    architecture: str, case: tuple[str, dict[str, Any]], cells: TinyCells
) -> None:
    from qbench.core.spec import ModelShape
    from qbench.sources.shapes.meta import describe as describe_meta

    name, options = case
    variant = Variant(architecture, architecture, {"tied": architecture in {"gemma2", "cohere"}})
    loaded = cells.load(variant, name, **options)
    tensors = describe_meta(str(cells.folder(variant)))
    shape = ModelShape.model_validate({"tensors": tensors, "origin": "meta"})
    assert loaded.verification.faults == ()
    assert logical_weights(loaded.model) == shape.weights
    assert precisions()[name].storage(shape, typed_options_of(name, **options)) == measured_bytes(
        loaded
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=describe)
def test_resolved_shape_is_known_for_every_variant(variant: Variant, cells: TinyCells) -> None:
    assert resolve(cells.folder(variant)).shape is not None


def whole(name: str) -> dict[str, Any]:
    """Options with which every layer is held in codes, where it is not so by default."""
    return {"layers": {"*": "nf4"}} if quick_options(name).get("layers") else {}


OWN_LAYERS = [
    (Variant("falcon", "falcon"), "of a class of its own: nothing would be quantized"),
    (Variant("mamba", "mamba", {"state_size": 8}), "(backbone.layers.0.mixer.dt_proj and 1 more)"),
    (
        # Its routers are linear layers of a class of their own; the others are plain ones.
        Variant(
            "llama4-text",
            "llama4_text",
            # As wide as the widest blocks.
            {"hidden": 256, "intermediate_size_mlp": 128, "head_dim": 16, "num_local_experts": 2},
        ),
        None,
    ),
]


@pytest.mark.parametrize(("variant", "words"), OWN_LAYERS, ids=describe)
def test_layers_that_no_library_converts_are_known_without_weights(
    variant: Variant, words: str | None, cells: TinyCells
) -> None:
    from qbench.core.spec import ModelShape, PrecisionRef
    from qbench.sources.shapes.meta import describe as describe_meta

    tensors = describe_meta(str(cells.folder(variant)))
    shape = ModelShape.model_validate({"tensors": tensors, "origin": "meta"})
    model = resolve(cells.folder(variant)).model_copy(update={"shape": shape})
    for name in precisions():
        held = precisions()[name]
        misfit = held.misfit(typed_options_of(name, **whole(name)), model)
        converts = is_quantized(PrecisionRef(label=name, name=name)) and not held.takes_quantized
        if words is None or not converts:
            assert misfit is None
        else:
            assert misfit is not None
            assert words in misfit
    names = ("nf4", "int8") if variant.architecture == "falcon" else ("nf4", "int8", "int8-wo")
    for name in names:  # what the plan says of bytes is so, whether or not the cell is sound
        loaded = cells.load(variant, name)
        assert precisions()[name].storage(shape, typed_options_of(name)) == measured_bytes(loaded)
