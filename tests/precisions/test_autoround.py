"""AutoRound: what a block's outputs err by, computed anew; its codes against nearest levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qbench.core.number_types import torch_type
from qbench.precisions.integer.autoround import Rounding
from qbench.precisions.integer.options import IntegerOptions
from qbench.precisions.verification import linear_layers
from tests.precisions.calibrated import LLAMA, OPTIONS, calibration, naive_windows
from tests.precisions.naive_integers import quantize
from tests.precisions.tiny_cells import TinyCells, load_fresh

if TYPE_CHECKING:
    import torch

GROUP = 16
TUNED = {
    "bits": 3,
    "granularity": "group",
    "group": GROUP,
    "weights": "autoround",
    "rounding_steps": 25,
    **OPTIONS,
}


def first_block(model: Any) -> list[torch.Tensor]:
    """What the first block makes of each window."""
    import torch

    found: list[torch.Tensor] = []
    handle = model.model.layers[0].register_forward_hook(
        lambda _module, _inputs, output: found.append(output.clone())
    )
    with torch.inference_mode():
        for row in naive_windows():
            model(input_ids=torch.tensor([row]))
    handle.remove()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
def test_a_block_errs_less_than_at_nearest_levels_by_what_the_record_says(
    mapping: str, cells: TinyCells
) -> None:
    whole = first_block(cells.load(LLAMA, "fp32").model)
    found: dict[str, float] = {}
    grid = {"bits": 3, "granularity": "group", "group": GROUP, "mapping": mapping, "dtype": "fp32"}
    tuned = cells.load(LLAMA, "integer", **TUNED, mapping=mapping)
    for name, loaded in {"tuned": tuned, "nearest": cells.load(LLAMA, "integer", **grid)}.items():
        off = [one - other for one, other in zip(first_block(loaded.model), whole, strict=True)]
        found[name] = float(
            (
                sum(one.square().sum() for one in off) / sum(one.square().sum() for one in whole)
            ).sqrt()
        )
    layers = calibration(tuned)["layers"]
    assert len(layers) == 14
    for name, layer in layers.items():
        assert layer["block_error"] < 0.9 * layer["block_error_nearest"]
        if ".0." in name:
            assert layer["block_error"] == pytest.approx(found["tuned"], rel=1e-4)
            # A symmetric grid has its largest weights midway between two levels.
            assert layer["block_error_nearest"] == pytest.approx(found["nearest"], rel=0.05)


def test_weights_are_rounded_to_a_neighbour_of_the_nearest_level(cells: TinyCells) -> None:
    loaded = cells.load(LLAMA, "integer", **TUNED, mapping="symmetric")
    original = dict(linear_layers(cells.load(LLAMA, "fp32").model))
    changed = []
    for name, layer in linear_layers(loaded.model):
        weight = original[name].weight.numpy()
        scales = np.repeat(layer.weight.scale.numpy(), GROUP, axis=1)
        _, widest, _ = quantize(weight, 3, "symmetric", (1, GROUP))
        assert (layer.weight.scale.numpy() <= widest * (1 + 1e-6)).all()
        nearest = np.clip(np.round(weight / scales), -4, 3)
        steps = np.abs(layer.weight.qdata.numpy() - nearest)
        assert steps.max() == 1
        changed.append((steps > 0).mean())
    assert 0.005 < np.mean(changed) < 0.5


def test_the_same_seed_gives_the_same_codes(cells: TinyCells) -> None:
    options = TUNED | {"rounding_steps": 4, "calibration_windows": 12, "calibration_window": 16}
    made = [load_fresh(cells.folder(LLAMA), "integer", **options) for _ in range(2)]
    first, again = (dict(linear_layers(one.model)) for one in made)
    for name, layer in first.items():
        assert layer.weight.qdata.equal(again[name].weight.qdata)
    about = calibration(made[0])
    assert {part: about[part] for part in ("implementation", "paper", "steps")} == {
        "implementation": "qbench",
        "paper": "arXiv 2309.05516",
        "steps": 4,
    }


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
def test_weights_that_are_all_0_stay_so(mapping: str, dtype: str) -> None:
    import torch

    options = IntegerOptions.model_validate(
        {"bits": 4, "mapping": mapping, "weights": "autoround", "dtype": dtype}
    )
    weight = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    rounding = Rounding(weight, options, torch_type(dtype))
    rounding.weight().square().sum().backward()
    assert rounding.added.grad is not None
    assert rounding.added.grad.isfinite().all()
    rounding.step(0.001)
    held = rounding.codes().dequantize().float()
    assert (held[1] == 0).all()
    assert held.isfinite().all()
