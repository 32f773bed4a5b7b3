"""Calibration: a model reads windows of a text, and what its layers see decides their constants.

The record has the text, the windows and, of static activations, the range of every layer.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.number_types import torch_type
from qbench.precisions.integer.autoround import quantize_by_autoround
from qbench.precisions.integer.awq import quantize_by_awq
from qbench.precisions.integer.gptq import quantize_by_gptq
from qbench.precisions.integer.inputs import unreached
from qbench.precisions.integer.layers import hold_in
from qbench.precisions.integer.ranges import find_ranges
from qbench.precisions.integer.smoothquant import ALPHA, quantize_smoothed
from qbench.precisions.integer.windows import draw_windows
from qbench.sources.data.texts import ResolvedText, resolve_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.precisions.integer.options import IntegerOptions


def calibrate(
    model: PreTrainedModel,
    layers: dict[str, Any],
    options: IntegerOptions,
    checkpoint: Checkpoint,
) -> None:
    """Quantizes the layers of a model that is loaded unquantized, with what they see of a text.

    Leaves on the model, as `calibration`, what is to stand in the record. Raises `TextError` for a
    text that cannot be obtained or is too short, `ModelError` for a layer that no window reaches.
    """
    text = options.calibration_text
    if not isinstance(text, ResolvedText):
        text = resolve_text(text, base=Path())
    windows, about = draw_windows(model, text, options, checkpoint)
    about |= _method(options)
    dtype = torch_type(options.dtype)
    quantize = _BY_WEIGHTS.get(options.weights, _quantize_with_ranges)
    about["layers"] = quantize(model, layers, windows, options, dtype)
    kept: Any = model
    kept.calibration = about


def _method(options: IntegerOptions) -> dict[str, Any]:
    """Whose code chooses the constants, after which paper, and what it is told."""
    torchao = f"torchao {version('torchao')}"
    own: dict[str, dict[str, Any]] = {
        "gptq": {
            "paper": "arXiv 2210.17323",
            "damping": options.damping,
            "act_order": options.act_order,
        },
        "awq": {"paper": "arXiv 2306.00978", "clipping": options.clipping},
        "autoround": {"paper": "arXiv 2309.05516", "steps": options.rounding_steps},
    }
    if options.weights in own:
        return {"implementation": "qbench", **own[options.weights]}
    if options.weights == "smoothquant":
        return {"implementation": torchao, "paper": "arXiv 2211.10438", "alpha": ALPHA}
    return {"implementation": f"ranges by qbench, codes by {torchao}"}


def _quantize_with_ranges(
    model: PreTrainedModel,
    layers: dict[str, Any],
    windows: list[torch.Tensor],
    options: IntegerOptions,
    dtype: torch.dtype,
) -> dict[str, dict[str, float]]:
    """Static activations: one scale a layer, from the range of its inputs in the float model."""
    from torchao.quantization import (
        Int8StaticActivationInt8WeightConfig,
        PerRow,
        PerTensor,
        quantize_,
    )

    over = PerTensor() if options.granularity == "tensor" else PerRow()
    ranges = find_ranges(model, layers, windows, options)
    for name, layer in layers.items():
        if name not in ranges:
            raise unreached(name)
        config = Int8StaticActivationInt8WeightConfig(
            act_quant_scale=ranges[name].scale_tensor.to(layer.weight.device),
            granularity=[PerTensor(), over],
            set_inductor_config=False,
        )
        layer.weight.data = layer.weight.data.float()
        quantize_(layer, config)
        hold_in(layer, dtype)
    return {name: found.recorded for name, found in ranges.items()}


_BY_WEIGHTS = {
    "gptq": quantize_by_gptq,
    "awq": quantize_by_awq,
    "autoround": quantize_by_autoround,
    "smoothquant": quantize_smoothed,
}
"""What chooses the codes, by the option `weights`."""
