"""Sensitivities against a loop that quantizes one layer after another and runs the whole model."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from qbench.core.binned_windows import binned_windows
from qbench.measures.quality.reference_states import has_states
from qbench.measures.sensitivity.options import SensitivityOptions
from qbench.measures.sensitivity.sensitivity import MEASUREMENT
from qbench.measures.sensitivity.table import dominated
from qbench.precisions import is_quantized, options_of, precisions, with_defaults
from qbench.precisions.mixed.members import format_of
from qbench.precisions.mixed.sensitivities import (
    Sensitivities,
    has_sensitivities,
    read_sensitivities,
)
from qbench.precisions.mixed.units import groups_of
from qbench.sources.bundled import bundled_models, bundled_texts
from tests.measures import naive_perplexity as naive
from tests.measures.test_quality import make_text, write_text
from tests.precisions.naive_integers import quantize
from tests.precisions.numpy_formats import four_bit
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh, typed_options_of

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.spec import Item
    from qbench.measures.loaded import LoadedModel, Outcome

KEY = "0123456789abcdef"
VARIANTS = [
    Variant("llama-biases", "llama", {"attention_bias": True, "mlp_bias": True}),
    Variant("gpt2-tied", "gpt2", {"tied": True}),
    Variant("opt", "opt"),
]
LLAMA = VARIANTS[0]
ONE_BLOCK = Variant("llama-one-block", "llama", {"layers": 1, "hidden": 128, "intermediate": 256})
FORMATS = ["nf4", "fp4", "int8-wo"]
TIES = {"fp4": 0.03}
"""A weight midway between two levels of FP4's even steps is a matter of rounding."""
ASKED: dict[str, Any] = {"formats": FORMATS, "window": 24, "limit": 3, "batch": 2}


def make_item(loaded: LoadedModel, text: Path, *, reference: bool = True, **options: Any) -> Item:
    """The item as a plan makes it, of a reference in fp32."""
    chosen = SensitivityOptions.model_validate({"text": str(text), **ASKED, **options})
    [item] = MEASUREMENT.items(chosen, loaded.resolved, text.parent)
    formats = [format_of(entry, "fp32") for entry in chosen.formats or ()]
    params = {
        "rest": "fp32",
        "formats": [one.model_dump(mode="json") for one in formats],
    }
    return item.model_copy(
        update={
            "params": {**item.params, **params},
            "states_key": KEY,
            "makes_states": reference,
        }
    )


def table_of(outcome: Outcome) -> Sensitivities:
    return Sensitivities.model_validate(outcome.details["sensitivities"])


def values_of(outcome: Outcome) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in outcome.metrics}


@dataclass
class Naive:
    """The slow way: every layer's weight rounded by the formulas, the whole model run anew."""

    model: Any
    windows: list[list[int]]

    def log_p(self) -> list[np.ndarray]:
        with torch.no_grad():
            found = [
                self.model(input_ids=torch.tensor([ids])).logits[0, :-1] for ids in self.windows
            ]
        return [torch.log_softmax(one.double(), -1).numpy() for one in found]

    def kl(self, reference: list[np.ndarray]) -> list[float]:
        return [
            float((np.exp(p) * (p - q)).sum()) for p, q in zip(reference, self.log_p(), strict=True)
        ]


def rounded(weight: np.ndarray, name: str) -> np.ndarray:
    if name in {"nf4", "fp4"}:
        return four_bit(weight, name)
    codes, scales, zeros = quantize(weight, 8, "symmetric", (1, weight.shape[1]))
    assert not zeros.any()
    return codes * scales


def naive_windows(cells: TinyCells, variant: Variant, text: str) -> list[list[int]]:
    folder = cells.folder(variant)
    tokens, bos = naive.text_ids(folder, text), naive.bos_id(folder)
    piece = ASKED["window"] - 1
    return [[bos, *tokens[at * piece : (at + 1) * piece]] for at in range(ASKED["limit"])]


def held_naively(model: Any, layers: tuple[str, ...], name: str) -> Any:
    changed = copy.deepcopy(model)
    for layer in layers:
        module: Any = changed.get_submodule(layer)
        turned = not isinstance(module, torch.nn.Linear)  # GPT-2's, which has (in, out)
        weight = module.weight.detach().numpy()
        new = torch.tensor(rounded(weight.T if turned else weight, name), dtype=torch.float32)
        module.weight = torch.nn.Parameter(new.T.contiguous() if turned else new)
    return changed


UNITS = ["layer", "block", "kind"]


@pytest.mark.parametrize(
    ("variant", "by"),
    [
        # Each variant and each kind of unit once here; the others with the slow tests.
        pytest.param(variant, by, marks=[] if own == by else [pytest.mark.slow])
        for variant, own in zip(VARIANTS, UNITS, strict=True)
        for by in UNITS
    ],
    ids=lambda one: getattr(one, "label", one),
)
def test_each_unit_costs_what_a_naive_loop_finds(
    cells: TinyCells, tmp_path: Path, variant: Variant, by: str
) -> None:
    text = make_text(200)
    loaded = cells.load(variant, "fp32")
    item = make_item(loaded, write_text(tmp_path, text), by=by)
    outcome = MEASUREMENT.measure(loaded, item)
    found = table_of(outcome)
    windows = naive_windows(cells, variant, text)
    tokens = sum(len(ids) - 1 for ids in windows)
    assert found.tokens == tokens
    reference = Naive(loaded.model, windows).log_p()
    every = []
    for unit in found.units:
        assert set(unit.costs) == set(FORMATS)
        for name, cost in unit.costs.items():
            sums = Naive(held_naively(loaded.model, unit.layers, name), windows).kl(reference)
            rel = TIES.get(name, 0)
            mean = math.fsum(sums) / tokens
            assert cost.kl == pytest.approx(mean, rel=rel, abs=2e-7), (unit.name, name)
            kept = found.window_kl_sums[unit.name][name]
            assert kept == pytest.approx(sums, rel=rel, abs=2e-7 * tokens)
            every.append(cost.kl)
    layers = [layer for unit in found.units for layer in unit.layers]
    own = loaded.verification.details["linear_modules"]
    assert len(layers) == len(set(layers)) == own
    assert values_of(outcome)["sensitivity.largest"] == max(every)
    assert values_of(outcome)["sensitivity.kl.mean"] == 0
    for name in FORMATS:
        total = math.fsum(unit.costs[name].kl or 0 for unit in found.units)
        assert values_of(outcome)[f"sensitivity.sum.{name}"] == pytest.approx(total)
    assert has_states(KEY)
    assert has_sensitivities(KEY)
    assert read_sensitivities(KEY) == found
    assert outcome.details["whole_forwards"] is None
    assert outcome.details["inexact_blocks"] == []


@pytest.mark.slow
def test_the_bundled_model_costs_what_a_naive_loop_finds() -> None:
    folder = bundled_models()["tiny-mistral"]
    loaded = load_fresh(folder, "fp32")
    path = bundled_texts()["stdlib-calibration"]
    item = make_item(loaded, path, by="kind", window=64, limit=3)
    outcome = MEASUREMENT.measure(loaded, item)
    text = path.read_text(encoding="utf-8")
    tokens, bos = naive.text_ids(folder, text), naive.bos_id(folder)
    windows = [[bos, *tokens[at * 63 : (at + 1) * 63]] for at in range(3)]
    reference = Naive(loaded.model, windows).log_p()
    for unit in table_of(outcome).units:
        for name in ("nf4", "int8-wo"):
            sums = Naive(held_naively(loaded.model, unit.layers, name), windows).kl(reference)
            assert unit.costs[name].kl == pytest.approx(math.fsum(sums) / (3 * 63), abs=5e-7)


def test_units_by_block_and_kind(cells: TinyCells, tmp_path: Path) -> None:
    loaded, text = cells.load(LLAMA, "fp32"), write_text(tmp_path, make_text(200))
    names = {}
    for by in ("block", "kind"):
        outcome = MEASUREMENT.measure(loaded, make_item(loaded, text, by=by, formats=["nf4"]))
        names[by] = [unit.name for unit in table_of(outcome).units]
    assert names["block"] == ["model.layers.0", "model.layers.1"]
    assert sorted(names["kind"]) == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


def test_kinds_of_one_name_in_two_places_of_a_block_are_two() -> None:
    block = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    layers = [f"transformer.h.{at}.{name}" for at in range(2) for name in block]
    found = groups_of(layers, "kind")
    assert [one.name for one in found] == ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]
    assert found[1].layers == ("transformer.h.0.attn.c_proj", "transformer.h.1.attn.c_proj")
    experts = [f"m.0.mlp.experts.{at}.up_proj" for at in range(3)]
    assert [one.name for one in groups_of(experts, "kind")] == ["up_proj"]
    found = groups_of([*experts, "m.1.mlp.up_proj"], "kind")
    assert [one.name for one in found] == ["mlp.experts.up_proj", "mlp.up_proj"]


def test_the_bytes_and_errors_are_those_of_the_layers(cells: TinyCells, tmp_path: Path) -> None:
    text = make_text(200)
    loaded = cells.load(LLAMA, "fp32")
    found = table_of(MEASUREMENT.measure(loaded, make_item(loaded, write_text(tmp_path, text))))
    # Four bits, a maximum in fp32 a block of 64, and a table of 16; eight bits and a scale a row.
    for unit in found.units:
        [name] = unit.layers
        layer: Any = loaded.model.get_submodule(name)
        assert unit.weights == layer.weight.numel()
        assert unit.plain_bytes == 4 * unit.weights
        assert unit.costs["nf4"].bytes == unit.weights // 2 + 4 * unit.weights // 64 + 64
        assert unit.costs["int8-wo"].bytes == unit.weights + (4 + 1) * layer.out_features
    # The first windows, as many as are taken at once, go through the layer.
    first = naive_windows(cells, LLAMA, text)[: ASKED["batch"]]
    name = "model.layers.1.mlp.down_proj"
    layer = loaded.model.get_submodule(name)
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        loaded.model(input_ids=torch.tensor(first))
    handle.remove()
    weight, bias = layer.weight.detach(), layer.bias.detach()
    wanted = (seen[0] @ weight.T + bias).double()
    held = torch.tensor(rounded(weight.numpy(), "nf4"), dtype=torch.float32)
    error = ((seen[0] @ held.T + bias).double() - wanted).norm() / wanted.norm()
    [unit] = [unit for unit in found.units if unit.name == name]
    assert unit.costs["nf4"].output_error == pytest.approx(float(error), rel=1e-4)


def test_the_model_is_bit_for_bit_what_it_was(cells: TinyCells, tmp_path: Path) -> None:
    for variant in VARIANTS:
        loaded = load_fresh(cells.folder(variant), "fp32")
        modules = dict(loaded.model.named_modules())
        before = {name: one.clone() for name, one in loaded.model.state_dict().items()}
        text = write_text(tmp_path, make_text(200))
        MEASUREMENT.measure(loaded, make_item(loaded, text, formats=["nf4", "int8"], limit=1))
        assert dict(loaded.model.named_modules()) == modules
        after = loaded.model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not any("forward" in vars(module) for module in modules.values())


def test_a_damaged_layer_is_found(cells: TinyCells, tmp_path: Path) -> None:
    """One weight that is far beyond all others takes a row's or block's levels for itself."""

    name = "model.layers.0.mlp.gate_proj"
    loaded: LoadedModel = load_fresh(cells.folder(LLAMA), "fp32")
    with torch.no_grad():
        weight: Any = loaded.model.get_submodule(name).weight
        weight[:, 5] = 60.0  # one column, so that every row has one
        # What comes into that column is nothing, so that the model itself is as it was.
        norm: Any = loaded.model.get_submodule("model.layers.0.post_attention_layernorm").weight
        norm[5] = 0.0
    item = make_item(loaded, write_text(tmp_path, make_text(200)), formats=["int8-wo", "fp4"])
    outcome = MEASUREMENT.measure(loaded, item)
    assert outcome.details["largest"]["unit"] == name
    for label in ("int8-wo", "fp4"):
        ranked = sorted(table_of(outcome).units, key=lambda one: -(one.costs[label].kl or 0))
        assert ranked[0].name == name


def test_the_other_cells_are_held_against_the_reference_on_the_same_windows(
    cells: TinyCells, tmp_path: Path
) -> None:
    text = make_text(200)
    path = write_text(tmp_path, text)
    loaded = cells.load(LLAMA, "fp32")
    MEASUREMENT.measure(loaded, make_item(loaded, path))
    cell = cells.load(LLAMA, "nf4", compute_dtype="fp32")
    outcome = MEASUREMENT.measure(cell, make_item(cell, path, reference=False))
    windows = naive_windows(cells, LLAMA, text)
    reference = Naive(loaded.model, windows).log_p()
    every = tuple(name for name, one in loaded.model.named_modules() if "proj" in name)
    sums = Naive(held_naively(loaded.model, every, "nf4"), windows).kl(reference)
    assert outcome.series["window_kl_sum"] == pytest.approx(sums, abs=1e-5)
    tokens = sum(len(ids) - 1 for ids in windows)
    assert values_of(outcome)["sensitivity.kl.mean"] == pytest.approx(math.fsum(sums) / tokens)
    assert values_of(outcome)["sensitivity.largest"] is None
    assert "sensitivities" not in outcome.details
    kept = binned_windows(outcome.details["kl_by_window"], len(windows))
    assert kept is not None
    assert kept.counts.sum(axis=1).tolist() == [len(ids) - 1 for ids in windows]


def test_what_is_pruned_is_never_what_a_search_would_take(cells: TinyCells, tmp_path: Path) -> None:
    """Of a whole table: no pair that was left out has both fewer bytes and less KL than all."""
    loaded, text = cells.load(LLAMA, "fp32"), write_text(tmp_path, make_text(200))
    formats = ["int8-wo", "nf4", "fp4", "nf4-dq", "int4-g32"]
    whole = table_of(MEASUREMENT.measure(loaded, make_item(loaded, text, formats=formats)))
    item = make_item(loaded, text, formats=formats, prune="dominated")
    outcome = MEASUREMENT.measure(loaded, item)
    pruned = table_of(outcome)
    left_out = 0
    for all_of, some in zip(whole.units, pruned.units, strict=True):
        for label, cost in some.costs.items():
            complete = all_of.costs[label]
            assert (cost.bytes, cost.output_error) == (complete.bytes, complete.output_error)
            if cost.kl is not None:
                assert cost.kl == complete.kl
                continue
            left_out += 1
            other = some.costs[str(cost.reason).split()[0]]
            assert other.kl is not None
            assert other.bytes <= cost.bytes
            assert other.output_error <= cost.output_error
    assert left_out
    assert all(unit.costs["fp4"].kl is None for unit in pruned.units)
    values = values_of(outcome)
    assert values["sensitivity.sum.fp4"] is None
    assert values["sensitivity.sum.nf4"] == pytest.approx(
        math.fsum(unit.costs["nf4"].kl or 0 for unit in whole.units)
    )


@pytest.mark.parametrize("prune", [None, "dominated"])
@pytest.mark.parametrize("by", ["layer", "kind"])
def test_what_does_not_compute_what_it_holds_is_no_choice_and_prunes_nothing(
    cells: TinyCells, tmp_path: Path, prune: str | None, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, text = cells.load(LLAMA, "fp32"), write_text(tmp_path, make_text(200))
    sound = type(precisions()["nf4"]).verify

    def verify(self: Any, model: Any, options: Any) -> Any:
        found = sound(self, model, options)
        names = [name for name, _ in model.named_modules() if name.endswith("down_proj")]
        wrong = (f"{names[0]}: wrong",) if names and self.name == "nf4" else ()
        return replace(found, faults=(*found.faults, *wrong))

    monkeypatch.setattr(type(precisions()["nf4"]), "verify", verify)
    item = make_item(loaded, text, formats=["nf4", "fp4"], prune=prune, by=by)
    for unit in table_of(MEASUREMENT.measure(loaded, item)).units:
        nf4, fp4 = unit.costs["nf4"], unit.costs["fp4"]
        if unit.name.endswith("down_proj"):
            assert (nf4.kl, nf4.output_error) == (None, None)
            assert (nf4.reason or "").endswith("down_proj: wrong")
            assert fp4.kl is not None
        else:
            assert nf4.kl is not None
            assert (fp4.kl is None) == (prune is not None)


def test_of_two_formats_that_are_alike_the_first_stays() -> None:
    found = dominated({"a": (10, (0.1, 0.2)), "b": (10, (0.1, 0.2)), "c": (9, (0.3, 0.1))})
    assert set(found) == {"b"}
    assert dominated({"a": (10, (None,)), "b": (10, (0.1,))}) == {}
    # Less on one layer and more on another is neither.
    assert dominated({"a": (10, (0.1, 0.3)), "b": (10, (0.2, 0.2))}) == {}
    assert set(dominated({"a": (10, (0.2,)), "b": (10, (0.1,)), "c": (12, (0.1,))})) == {"a", "c"}


MIXABLE = [
    name
    for name, held in precisions().items()
    if is_quantized(with_defaults(name)) and held.unmixable(typed_options_of(name)) is None
]


# One of each library here; the others with the slow tests.
QUICK = ("int8", "nf4-dq", "fp8", "hqq4", "quanto-int4", "int4-g32", "gguf-q8_0")


@pytest.mark.parametrize(
    "label",
    [pytest.param(label, marks=[] if label in QUICK else [pytest.mark.slow]) for label in MIXABLE],
)
def test_every_format_that_holds_single_layers_is_measured(
    cells: TinyCells, tmp_path: Path, label: str
) -> None:
    """All layers held by block together are the whole model's, so that its KL bounds nothing away.

    What matters is that each library's layers can be put in, computed and taken out again.
    """
    loaded = cells.load(ONE_BLOCK, "fp32")
    text = write_text(tmp_path, make_text(120))
    item = make_item(loaded, text, by="block", formats=[label], limit=2)
    reference = MEASUREMENT.measure(loaded, item)
    [unit] = table_of(reference).units
    cost = unit.costs[label]
    assert cost.kl is not None, cost.reason
    assert cost.output_error is not None
    # A model of one block has nothing else that is quantized.
    typed = format_of(label, "fp32").options
    whole = cells.load(ONE_BLOCK, label, **typed)
    joint = MEASUREMENT.measure(
        whole, make_item(whole, text, by="block", formats=[label], limit=2, reference=False)
    )
    assert values_of(joint)["sensitivity.kl.mean"] == pytest.approx(cost.kl, rel=1e-4, abs=1e-9)
    predicted = precisions()[label].storage(loaded.resolved.shape, options_of(whole.cell.precision))
    assert cost.bytes == predicted.linear + predicted.quantization_state
