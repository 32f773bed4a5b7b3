"""Loading a model with each linear layer quantized as soon as it is read.

So the floating model is never there as a whole: at most the quantized model and one layer. The
layers that come out are bit for bit those of a model that is quantized after it is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.precisions.loading import load_pretrained
from qbench.precisions.plain_layers import replace_conv1d

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint


def load_layer_by_layer(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    quantize: Callable[[str, nn.Linear], nn.Module | None],
    weight_bytes: float = 1.0,
) -> PreTrainedModel:
    """As `load_pretrained`, with every plain linear layer but the head handed to `quantize`.

    It is given the layer's name and the layer, its weight (out, in) and its bias on their device in
    `dtype`; GPT-2's `Conv1D` has become a linear layer by then. It changes the layer, or returns
    another one to stand in its place, or leaves it alone. `weight_bytes` is what it will hold a
    weight in, by which a model is laid over several GPUs. Raises what `load_pretrained` does, and
    whatever `quantize` raises.
    """
    from qbench.precisions.layer_quantizer import LayerByLayer, QuantizingFailed

    plan = LayerByLayer(quantize, weight_bytes)
    try:
        model = load_pretrained(checkpoint, dtype=dtype, quantization=plan)
        # Those that no checkpoint's tensor became as it is, or of a type of their own.
        replace_conv1d(model)
        for name in sorted(plan.waiting):
            plan.quantize_now(model, name)
    except QuantizingFailed as failed:
        raise failed.error from None
    return model
