"""What is told is what a loaded model holds: the measurement `weight_error` of the same tensors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.numpy import load_file

from qbench.core.errors import UsageError
from qbench.measures.weight_error import WEIGHT_ERROR, WeightErrorOptions
from qbench.precisions import precisions
from qbench.precisions.explain.explain import check_precision, explain, explained
from qbench.precisions.integer.options import IntegerOptions
from tests.precisions.tiny_cells import TinyCells, Variant, open_cells

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIANTS = [
    Variant("llama", "llama", {"hidden": 128, "intermediate": 192}),
    Variant("gpt2", "gpt2", {"hidden": 64}),  # stored as (in, out)
]
NARROWEST = 64
LAYERS = {"llama": ("mlp.down_proj", "self_attn.k_proj"), "gpt2": ("mlp.c_fc", "attn.c_attn")}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyCells]:
    with open_cells(tmp_path_factory) as opened:
        yield opened


def is_rounded_to_nearest(name: str) -> bool:
    """Not so where codes are chosen, or factors and ranges found, by a calibration text.

    Nor where the group divides no layer of these models.
    """
    options = precisions()[name].options()
    if not isinstance(options, IntegerOptions):
        return True
    return not options.calibrates and NARROWEST % (options.group or 1) == 0


@pytest.mark.parametrize("name", filter(is_rounded_to_nearest, explained()))
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_the_error_is_that_of_the_loaded_layer(
    cells: TinyCells, variant: Variant, name: str
) -> None:
    # A mixture gives a layer its type by its place; of one tensor alone that is not known.
    chosen = {"pure": True} if "pure" in precisions()[name].options.model_fields else {}
    options = precisions()[name].options(**chosen)
    loaded = cells.load(variant, name, **chosen)
    [item] = WEIGHT_ERROR.items(WeightErrorOptions(), loaded.resolved, Path())
    layers = WEIGHT_ERROR.measure(loaded, item).details["layers"]
    folder = cells.folder(variant)
    for part in LAYERS[variant.label]:
        [layer] = [one for one in layers if one["name"].endswith(f".1.{part}")]
        prefix = "model.layers" if variant.label == "llama" else "transformer.h"
        tensor = f"{prefix}.1.{part}.weight"
        found = explain(name, str(folder), tensor, options=options, base=folder).data
        assert sorted(found["shape"]) == sorted(layer["shape"])  # GPT-2's are (in, out) in 16 bits
        assert found["error"]["relative"] == pytest.approx(layer["relative_error"], rel=1e-6)


@pytest.mark.parametrize("name", precisions())
def test_a_precision_is_explained_or_said_to_have_no_explanation(name: str) -> None:
    if name in explained():
        check_precision(name)
    else:
        with pytest.raises(UsageError, match=f"{name}.*no explanation; expected another precision"):
            check_precision(name)


@pytest.mark.parametrize("name", ["int8-wo", "int4-g32", "int4-g32-asym"])
def test_the_nominal_bits_are_those_of_a_record(cells: TinyCells, name: str) -> None:
    loaded = cells.load(VARIANTS[0], name)
    folder = cells.folder(VARIANTS[0])
    options = precisions()[name].options()
    details = precisions()[name].verify(loaded.model, options).details
    total = 0.0
    for tensor in load_file(folder / "model.safetensors"):
        if "proj" in tensor:
            found = explain(name, str(folder), tensor, base=folder).data
            weights = math.prod(found["shape"])
            total += found["bits_per_weight"]["nominal"] * weights / 8
    assert total == pytest.approx(details["nominal_linear_bytes"], rel=1e-12)
