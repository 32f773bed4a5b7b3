"""What a mix is made of for a budget, from a table: held against all assignments there are."""

from __future__ import annotations

import itertools
import math
import random
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import MeasurementError
from qbench.core.spec import ModelShape, PrecisionRef, StaticBytes, TensorShape
from qbench.precisions import options_of, precisions
from qbench.precisions.mixed.layers import formats_of
from qbench.precisions.mixed.options import MixedOptions
from qbench.precisions.mixed.sensitivities import Cost, Sensitivities, Unit
from qbench.predict.found_mix import FoundMix, find_mix
from qbench.predict.static import stored_bytes
from qbench.running.mixes import interval_of

if TYPE_CHECKING:
    from collections.abc import Mapping

LAYERS = {"a": (64, 64), "b": (128, 64), "c": (64, 128), "d": (64, 320)}
FORMATS = ("nf4", "int8-wo", "fp8")


def shape() -> ModelShape:
    """Four linear layers, one with a bias, and an embedding that no budget in bits counts."""
    tensors = [
        TensorShape(name=f"model.layers.{name}.weight", shape=size, role="linear")
        for name, size in LAYERS.items()
    ]
    others = [
        TensorShape(name="model.layers.a.bias", shape=(64,), role="bias"),
        TensorShape(name="model.embed_tokens.weight", shape=(512, 64), role="embedding"),
    ]
    return ModelShape(tensors=(*tensors, *others), origin="config")


def mix(budget: str, **options: Any) -> PrecisionRef:
    given = {"budget": budget, "from": list(FORMATS), "dtype": "bf16", **options}
    chosen = MixedOptions.model_validate(given)
    return PrecisionRef(label="mix", name="mixed", options=chosen.model_dump(mode="json"))


def table(
    costs: Mapping[str, Mapping[str, tuple[float | None, float | None]]], **more: Any
) -> Sensitivities:
    """Of KL and output error by unit and format; the bytes are not those that count."""
    formats = {
        one.label: one
        for one in formats_of(
            MixedOptions.model_validate({"budget": "8 bits", "from": list(FORMATS)})
        )
    }
    units = [
        Unit(
            name=name,
            layers=(f"model.layers.{name}",),
            weights=math.prod(LAYERS[name]),
            plain_bytes=2 * math.prod(LAYERS[name]),
            costs={
                label: Cost(bytes=1, kl=kl, output_error=error, reason=None if kl else "pruned")
                for label, (kl, error) in of_unit.items()
            },
        )
        for name, of_unit in costs.items()
    ]
    return Sensitivities(rest="bf16", formats=formats, units=tuple(units), tokens=100, **more)


def drawn(seed: int) -> Sensitivities:
    numbers = random.Random(seed)
    damage = {"nf4": 1.0, "fp8": 0.2, "int8-wo": 0.01}
    return table(
        {
            name: {
                label: (numbers.lognormvariate(0, 1) * size, numbers.lognormvariate(0, 1) * size)
                for label, size in damage.items()
            }
            for name in LAYERS
        }
    )


def by_hand(held: Mapping[str, str]) -> PrecisionRef:
    """The same mix as a person writes it."""
    rules = {f"model.layers.{name}": label for name, label in held.items()}
    made = MixedOptions.model_validate({"layers": rules})
    return PrecisionRef(label="by-hand", name="mixed", options=made.model_dump(mode="json"))


@cache
def bytes_of(labels: tuple[str, ...]) -> StaticBytes:
    """By the arithmetic of a mix by hand."""
    return stored_bytes(shape(), by_hand(dict(zip(LAYERS, labels, strict=True))))


def best(found: Sensitivities, most: float, *, whole: bool) -> tuple[float, dict[str, str]]:
    """The least sum of KL of all assignments whose loaded bytes are few enough."""
    weights = sum(math.prod(size) for size in LAYERS.values())
    fitting = []
    for labels in itertools.product(("bf16", *FORMATS), repeat=len(LAYERS)):
        held = dict(zip(LAYERS, labels, strict=True))
        static = bytes_of(labels)
        taken = static.total if whole else 8 * (static.linear + static.quantization_state) / weights
        costs = {unit.name: unit.costs for unit in found.units}
        kl = sum(costs[name][label].kl or 0.0 for name, label in held.items() if label != "bf16")
        if taken <= most:
            fitting.append((kl, held))
    return min(fitting, key=lambda one: one[0])


@pytest.mark.parametrize("budget", ["4.8 bits", "5.5 bits", "7 bits", "9 bits", "100 KB", "120 KB"])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_best_of_all_mixes_by_hand(budget: str, seed: int) -> None:
    number, unit = budget.split()
    most = float(number) * (1 if unit == "bits" else 1000)
    ref, found = find_mix(mix(budget), shape(), drawn(seed))
    kl, held = best(drawn(seed), most, whole=unit == "KB")
    assert found.predicted_kl == pytest.approx(kl)
    assert found.units == held
    static = stored_bytes(shape(), ref)
    assert static == stored_bytes(shape(), by_hand(held))
    assert found.static_bytes == static.total
    taken = found.bits_per_weight if unit == "bits" else found.static_bytes
    assert taken is not None
    assert taken <= most


def alone(
    costs: Mapping[str, tuple[float | None, float | None]], budget: str, **options: Any
) -> FoundMix:
    """Found where one layer has these costs, and the others are best left as they are."""
    dear = dict.fromkeys(FORMATS, (9.0, 9.0))
    whole = {name: (costs if name == "d" else dear) for name in LAYERS}
    return find_mix(mix(budget, **options), shape(), table(whole))[1]


def test_what_was_not_measured_is_no_choice() -> None:
    costs = {"nf4": (None, 0.1), "fp8": (0.3, 0.05), "int8-wo": (0.4, 0.01)}
    found = alone(costs, "12.1 bits")
    assert found.units == {"a": "bf16", "b": "bf16", "c": "bf16", "d": "fp8"}
    assert (found.predicted_kl, found.unknown) == (0.3, None)


def test_rounding_below_0_earns_nothing() -> None:
    """A layer whose KL came out below 0 is no better than one that is left as it is."""
    costs = {"nf4": (-1e-9, 0.1), "fp8": (-2e-9, 0.05), "int8-wo": (-3e-9, 0.01)}
    assert alone(costs, "16 bits").units["d"] == "nf4"


def test_by_output_error_squares_are_summed() -> None:
    costs = {"nf4": (None, 0.1), "fp8": (None, 0.05), "int8-wo": (0.0, 0.2)}
    found = alone(costs, "12.5 bits", by="output_error")
    assert found.units["d"] == "fp8"
    assert found.predicted_kl is None
    assert found.unknown == "the KL of 1 of its units alone was not measured"


def test_what_the_table_does_not_say_is_told() -> None:
    known = drawn(0)
    with pytest.raises(MeasurementError, match="the least that they take is 4"):
        find_mix(mix("4 bits"), shape(), known)
    with pytest.raises(MeasurementError, match="say nothing of nf4-dq, only of"):
        find_mix(mix("5 bits", **{"from": ["nf4-dq"]}), shape(), known)
    with pytest.raises(MeasurementError, match="set the mix's dtype to bf16"):
        find_mix(mix("5 bits", dtype="fp16"), shape(), known)
    pruned = {name: dict.fromkeys(FORMATS, (None, 0.1)) for name in LAYERS}
    with pytest.raises(
        MeasurementError, match=r"; a has no KL in nf4 \(pruned\), nor have 11 other"
    ):
        find_mix(mix("9 bits"), shape(), table(pruned))
    other = known.model_copy(
        update={"units": (known.units[0].model_copy(update={"layers": ("model.x",)}),)}
    )
    with pytest.raises(MeasurementError, match=r"model\.x: a layer of the sensitivities"):
        find_mix(mix("5 bits"), shape(), other)


def test_the_interval_is_of_the_summed_windows() -> None:
    """Two units whose windows make up for each other leave a sum without chance in it."""
    counts = 24
    up = tuple(float(index % 5) for index in range(counts))
    down = tuple(4.0 - one for one in up)
    windows = {"a": {"nf4": up}, "d": {"nf4": down}}
    costs = {name: {"nf4": (0.5 if name in windows else None, 0.1)} for name in LAYERS}
    known = table(costs, window_tokens=(4,) * counts, window_kl_sums=windows)
    _, found = find_mix(mix("9.5 bits"), shape(), known)
    assert {name for name, label in found.units.items() if label == "nf4"} == {"a", "d"}
    low, high = interval_of(known, found) or (math.nan, math.nan)
    assert low == pytest.approx(1.0)
    assert high == pytest.approx(1.0)
    few = known.model_copy(
        update={
            "window_tokens": (4,) * 8,
            "window_kl_sums": {
                name: {label: one[:8] for label, one in of_unit.items()}
                for name, of_unit in windows.items()
            },
        }
    )
    assert interval_of(few, found) is None


def test_a_format_is_the_one_that_was_measured_whatever_kernel_the_device_chose() -> None:
    asked = formats_of(MixedOptions.model_validate({"budget": "8 bits", "from": ["int4-g32"]}))[0]
    held = precisions()[asked.name]
    changed = held.for_device(options_of(asked), "cuda", bf16=True)
    assert changed
    placed = asked.model_copy(update={"options": {**asked.options, **changed}})
    known = drawn(0)
    units = [
        one.model_copy(update={"costs": {"int4-g32": Cost(bytes=1, kl=0.1)}}) for one in known.units
    ]
    known = known.model_copy(update={"formats": {"int4-g32": placed}, "units": tuple(units)})
    # Layers so narrow stay as they are beside the packed kernel.
    assert find_mix(mix("16 bits", **{"from": ["int4-g32"]}), shape(), known)
    other = asked.model_copy(update={"options": {**asked.options, "dtype": "fp16"}})
    known = known.model_copy(update={"formats": {"int4-g32": other}})
    with pytest.raises(MeasurementError, match="say nothing of int4-g32"):
        find_mix(mix("16 bits", **{"from": ["int4-g32"]}), shape(), known)
