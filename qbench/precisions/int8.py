"""LLM.int8(): 8-bit codes with one scale an output row, outlier columns computed in 16 bits.

Dettmers et al. 2022, arXiv 2208.07339; the implementation is bitsandbytes'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from qbench.core.aliases import Also
from qbench.core.number_types import ITEM_BYTES, FloatOption
from qbench.core.spec import Frozen
from qbench.precisions.layer_probe import LayerFormat
from qbench.precisions.layer_weights import LibraryWeights
from qbench.precisions.loading import load_pretrained
from qbench.precisions.precision import Precision
from qbench.precisions.products import Products
from qbench.precisions.storage import static_bytes
from qbench.precisions.verification import Verification, verify_quantized
from qbench.precisions.writing.library import bitsandbytes_form

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.page import Page
    from qbench.core.spec import ModelShape, StaticBytes, TensorShape
    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.writing.form import CheckpointForm

_OUTPUT_TOLERANCE = 0.03
"""Activations are rounded to 8 bits as well: about 1 % of a row's norm, measured 0.7 to 1.2 %."""


class Int8Options(Frozen):
    """Options of `int8`."""

    dtype: Annotated[FloatOption, Also("torch_dtype")] = "bf16"
    """Type of what is not quantized: embeddings, head, norms and activations.

    bitsandbytes rounds the weights to fp16 before it quantizes them, whatever this type is.
    """
    threshold: Annotated[
        float,
        Also("llm_int8_threshold", unlike={"load_in_8bit": "the precision's own name says it"}),
    ] = Field(default=6.0, ge=0)
    """Activation columns with a value of this size or more are computed in floating point; 0 turns
    it off."""


@dataclass(frozen=True)
class Int8(LibraryWeights, Precision):
    """LLM.int8() through transformers and bitsandbytes."""

    name: str = "int8"
    summary: str = "LLM.int8(): 8-bit weights and activations, outlier columns in 16 bits"
    needs: tuple[str, ...] = ("bitsandbytes", "accelerate")
    options: type[Frozen] = Int8Options
    title: str | None = "int8 (LLM.int8)"
    also_called: tuple[str, ...] = ("llm.int8", "llm-int8", "load_in_8bit", "bnb-int8", "bnb-8bit")
    order: int = 20
    merges_in_place: bool = True
    slow_on_cpu: bool = True
    random_weights: str | None = (
        "the weights are random, and so is which activation columns are outliers: of a wide SwiGLU"
        " model nearly all that the down projection reads, where a trained model has a few."
        " LLM.int8's time and peak memory are not the trained model's; measure int8 on the model"
        " itself"
    )

    def pools_batch(self, options: Int8Options) -> bool:
        """A column with an outlier in any row is computed in floating point for all rows."""
        return True

    def storage(self, shape: ModelShape, options: Int8Options) -> StaticBytes:
        """A byte a weight and an fp32 scale an output row: N + 4·O."""

        def linear(tensor: TensorShape) -> tuple[int, int]:
            return tensor.numel, 4 * tensor.out_features

        return static_bytes(shape, ITEM_BYTES[options.dtype], linear)

    def products(self, options: Int8Options, config: Mapping[str, Any] | None = None) -> Products:
        """Inputs in 8 bits, columns with outliers in floating point."""
        return Products("outliers", options.dtype, options.dtype)

    def untrainable(self, options: Int8Options, method: str, training: Frozen) -> str | None:
        """PEFT (0.21) cannot dequantize its layers, which DoRA must."""
        if getattr(training, "dora", False):
            return "DoRA on int8 fails in PEFT, which finds no scales to dequantize; use nf4"
        return None

    def explain(self, weight: Weight, options: Int8Options) -> Page:
        """Codes, scales and outliers of a weight."""
        from qbench.precisions.explain import int8

        return int8.explain(weight, options)

    def load(self, checkpoint: Checkpoint, options: Int8Options) -> PreTrainedModel:
        """Quantizes the checkpoint layer by layer while loading it."""
        return load_pretrained(
            checkpoint, dtype=options.dtype, quantization=self.library_config(options)
        )

    def library_config(self, options: Int8Options) -> Any:
        """Bitsandbytes' own."""
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=options.threshold)

    def forms(self, options: Int8Options) -> tuple[CheckpointForm, ...]:
        """As bitsandbytes saves it."""
        return (bitsandbytes_form(partial(self.library_config, options)),)

    def hold_layer(self, name: str, layer: nn.Linear, options: Int8Options) -> nn.Module:
        """As transformers has bitsandbytes make it."""
        from bitsandbytes.nn import Int8Params, Linear8bitLt

        made: Any = Linear8bitLt(
            layer.in_features,
            layer.out_features,
            bias=False,
            has_fp16_weights=False,
            threshold=options.threshold,
            device="meta",
        )
        weight = layer.weight
        held = Int8Params(weight.data.to("cpu"), requires_grad=False, has_fp16_weights=False)
        made.weight = held.to(weight.device)
        made.bias = layer.bias
        quantized: nn.Module = made
        return quantized

    def verify(self, model: PreTrainedModel, options: Int8Options) -> Verification:
        """Every linear layer holds int8 codes and scales, and computes what they say."""
        from bitsandbytes.nn import Linear8bitLt

        return verify_quantized(
            model,
            Linear8bitLt,
            LayerFormat(naive=_naive_weight, library=library_weight),
            state_fault=_state_fault,
            shape_of=lambda layer: tuple(_codes(layer).shape),
            dequantized_tolerance=1e-5,
            forward_tolerance=_OUTPUT_TOLERANCE,
            details={
                "quant_type": "int8",
                "dtype": options.dtype,
                "compute_dtype": "int8, fp16 outliers",
                "threshold": options.threshold,
            },
        )


def _scales(layer: Any) -> torch.Tensor | None:
    """The row scales, (out,): they move from the weight to the state at the first forward."""
    scales = getattr(layer.weight, "SCB", None)
    state: torch.Tensor | None = layer.state.SCB
    return state if scales is None else scales


def _codes(layer: Any) -> torch.Tensor:
    """The int8 codes, (out, in): they move like the scales."""
    codes = getattr(layer.weight, "CB", None)
    if codes is None:
        codes = layer.state.CB
    stored: torch.Tensor = layer.weight.data
    return stored if codes is None else codes


def _state_fault(layer: Any) -> str | None:
    import torch

    if _codes(layer).dtype != torch.int8:
        return f"holds {_codes(layer).dtype} where int8 codes were expected"
    scales = _scales(layer)
    if scales is None:
        return "holds no scales: it was not quantized"
    if scales.numel() != layer.out_features:
        return f"holds {scales.numel()} scales for {layer.out_features} output rows"
    return None


def _naive_weight(layer: Any, rows: slice) -> torch.Tensor:
    """Code · scale / 127, row by row: the definition of absmax quantization, (rows, in) in fp32."""
    scales = _scales(layer)
    if scales is None:
        raise ValueError("the layer holds no scales")
    return _codes(layer)[rows].float() * (scales[rows].float() / 127)[:, None]


def library_weight(layer: Any, rows: slice = slice(None)) -> torch.Tensor:
    """Rows of the layer's weights as bitsandbytes dequantizes them, (rows, in); all by default."""
    from bitsandbytes.functional import int8_vectorwise_dequant

    scales: Any = _scales(layer)
    weight: torch.Tensor = int8_vectorwise_dequant(_codes(layer)[rows], scales[rows])
    return weight


PRECISIONS = (Int8(),)
