"""fp8: 8-bit codes E4M3, with one scale of 32 bits for each output row or for the whole weight.

Micikevicius et al. 2022, arXiv 2209.05433; OCP 8-bit Floating Point Specification 1.0. Scale =
largest |w| / 448, code = the nearest of w / scale, ties to the even mantissa. Inputs likewise: with
a scale a token where weights have one a row, else with one for all.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qbench.core.number_types import FP32
from qbench.precisions.floating_codes.coding import Coding
from qbench.precisions.floating_codes.small_floats import (
    E4M3_LARGEST,
    decoded,
    e4m3_values,
    positive,
    rounded_to,
)
from qbench.precisions.products import Products
from qbench.precisions.writing.compressed import compressed_form
from qbench.precisions.writing.library import torchao_form

if TYPE_CHECKING:
    import torch

    from qbench.precisions.floating_codes.options import Fp8Options
    from qbench.precisions.writing.form import CheckpointForm

_SCALE_BYTES = 4
_OF_BIASES = 0.02
_BIASES = "torchao rounds a sum before it adds the layer's bias, and a plain layer after"
_LEAST = E4M3_LARGEST * 2.0**-126
"""A row of smaller numbers has the scale of this: a scale of 0 would make its zeros no numbers."""


class Fp8(Coding):
    """E4M3 with scales of 32 bits."""

    quant_type = "fp8 (E4M3)"
    code_bits = 8
    told = (
        "code: E4M3, a sign, 4 bits of exponent (bias 7), 3 of mantissa: 0, 2^-9 … 448",
        "scale: largest |w| / 448 of a row, or of the whole weight, in 32 bits",
        "a weight is code · scale; the code is the nearest of w / scale, ties to the even one",
    )
    capability = (8, 9)
    dequantizes = True

    def scales(self, options: Fp8Options, rows: int, width: int) -> int:
        """One a row, or one."""
        return 1 if options.granularity == "tensor" else rows

    def state_bytes(self, options: Fp8Options, rows: int, width: int) -> int:
        """4 bytes a scale."""
        return _SCALE_BYTES * self.scales(options, rows, width)

    def quantize(
        self,
        weight: torch.Tensor,
        options: Fp8Options,
        dtype: torch.dtype,
        *,
        kernel: bool = False,
    ) -> Any:
        """A `Float8Tensor`, which torchao multiplies itself."""
        from torchao.float8.inference import Float8MMConfig
        from torchao.quantization import Float8Tensor
        from torchao.quantization.quantize_.workflows.float8.float8_tensor import (
            QuantizeTensorToFloat8Kwargs,
        )

        codes, over = _quantized(weight, options), _granularity(options)
        more: dict[str, Any] = {}
        if kernel:
            inputs = QuantizeTensorToFloat8Kwargs(granularity=over)
            more = {
                "mm_config": Float8MMConfig(use_fast_accum=True),
                "act_quant_kwargs": inputs,
            }
        return Float8Tensor(codes.qdata, codes.scale, codes.block_size, dtype=dtype, **more)

    def library_config(self, options: Fp8Options) -> Any | None:
        """Of a scale a row."""
        from torchao.quantization import Float8WeightOnlyConfig

        return None if options.granularity == "tensor" else Float8WeightOnlyConfig()

    def forms(self, options: Fp8Options) -> tuple[CheckpointForm, ...]:
        """Torchao's own for weights alone with a scale a row; compressed-tensors' for all."""
        strategy = "tensor" if options.granularity == "tensor" else "channel"
        common = {"num_bits": 8, "type": "float", "symmetric": True}
        weights = {**common, "strategy": strategy}
        if options.activations == "none":
            packed = compressed_form(
                "float-quantized", weights, _codes, tolerance=_OF_BIASES, inexact=_BIASES
            )
            if options.granularity == "tensor":
                return (packed,)
            return torchao_form(partial(self.library_config, options)), packed
        inputs = {
            **common,
            "strategy": "tensor" if options.granularity == "tensor" else "token",
            "dynamic": True,
        }
        return (compressed_form("float-quantized", weights, _codes, inputs=inputs),)

    def products(self, options: Fp8Options) -> Products:
        """Codes in fp32, these times their scales, then in the type."""
        return Products(
            "dequantized",
            options.dtype,
            options.dtype,
            whole_tensor=options.granularity == "tensor",
            copies=0 if options.dtype == FP32 else 1,
            wide_bytes=8,
        )

    def round_inputs(self, inputs: torch.Tensor, options: Fp8Options) -> torch.Tensor:
        """By torchao's `Float8Tensor`."""
        found: torch.Tensor = _quantized(inputs, options).dequantize()
        return found

    def naive_weight(self, weight: Any, rows: slice) -> torch.Tensor:
        """E4M3 [code] · scale."""
        scales = weight.scale if weight.scale.numel() == 1 else weight.scale[rows]
        found: torch.Tensor = decoded(weight.qdata[rows], e4m3_values()) * scales
        return found

    def naive_inputs(self, inputs: torch.Tensor, options: Fp8Options) -> torch.Tensor:
        """The scale is computed in the inputs' own type."""
        largest = inputs.abs().amax(dim=1, keepdim=True)
        if options.granularity == "tensor":
            largest = largest.amax()
        scales = (largest / E4M3_LARGEST).float()
        return rounded_to(inputs.float() / scales, positive(e4m3_values())) * scales

    def pools_batch(self, options: Fp8Options) -> bool:
        """One scale for all inputs."""
        return options.granularity == "tensor"


def _codes(layer: Any) -> dict[str, torch.Tensor]:
    """Codes and scales by compressed-tensors' names."""
    scale = layer.weight.scale
    shape = (1,) if scale.numel() == 1 else (-1, 1)
    return {"weight": layer.weight.qdata, "weight_scale": scale.reshape(shape)}


def _granularity(options: Fp8Options) -> Any:
    from torchao.quantization import PerRow, PerTensor

    return PerTensor() if options.granularity == "tensor" else PerRow()


def _quantized(values: torch.Tensor, options: Fp8Options) -> Any:
    import torch
    from torchao.quantization import Float8Tensor

    return Float8Tensor.from_hp(
        values,
        float8_dtype=torch.float8_e4m3fn,
        granularity=_granularity(options),
        hp_value_lb=_LEAST,
    )
