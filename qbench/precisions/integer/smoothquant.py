"""SmoothQuant: outlying input columns are divided by a factor that their weights are multiplied by.

Xiao et al. 2023, arXiv 2211.10438; the implementation is torchao's prototype. Factor of a column:
sqrt(largest |input| / largest |weight|), the migration strength of 0.5 that the authors use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.integer.config import torchao_config
from qbench.precisions.integer.inputs import run, unreached
from qbench.precisions.integer.layers import hold_in

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qbench.precisions.integer.options import IntegerOptions

ALPHA = 0.5
"""Share of the difficulty that moves from the inputs to the weights."""


def quantize_smoothed(
    model: PreTrainedModel,
    layers: dict[str, Any],
    windows: list[torch.Tensor],
    options: IntegerOptions,
    dtype: torch.dtype,
) -> dict[str, dict[str, float]]:
    """Quantizes the layers in place; by layer the extremes of its factors.

    Raises `ModelError` for a layer that no window reaches.
    """
    import torch
    from torchao.prototype.smoothquant import SmoothQuantConfig
    from torchao.prototype.smoothquant.core import SmoothQuantObservedLinear
    from torchao.quantization import quantize_

    chosen = {id(layer) for layer in layers.values()}

    def config(step: str) -> SmoothQuantConfig:
        base = torchao_config(options)
        return SmoothQuantConfig(base, step, alpha=ALPHA, use_running_absmax=True)

    quantize_(model, config("prepare"), filter_fn=lambda module, _: id(module) in chosen)
    run(model, {}, windows, lambda *_: None)
    found = {}
    for name in layers:
        seen: Any = model.get_submodule(name)
        if seen.obs.x_abs_max is None:
            raise unreached(name)
        # The factors and codes are computed in fp32, whatever the model ran in.
        seen.weight = torch.nn.Parameter(seen.weight.data.float(), requires_grad=False)
        seen.obs.weight = seen.weight
        factor = seen.obs.calculate_qparams()[0]
        found[name] = {"factor_min": float(factor.min()), "factor_max": float(factor.max())}
    quantize_(
        model,
        config("convert"),
        filter_fn=lambda module, _: isinstance(module, SmoothQuantObservedLinear),
    )
    for name, before in layers.items():
        made: Any = model.get_submodule(name)
        hold_in(made, dtype)
        made.eval()
        if hasattr(before, "source_cls"):
            made.source_cls = before.source_cls
    return found
