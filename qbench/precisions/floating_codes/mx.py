"""mxfp8 and mxfp4: codes E4M3 or E2M1, with a power of two for each 32 of a row.

OCP Microscaling Formats (MX) Specification 1.0. A scale is one byte (E8M0), a value the code times
the scale. The specification proposes the scale 2^(floor(log2 of the largest) - exponent of the
largest code), which cuts off what lies above the largest code; NVIDIA's kernels take the next
higher power of two of largest / largest code instead, which cuts off nothing (cuBLAS, "Block
scaling"; torchao's RCEIL).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from qbench.precisions.floating_codes.coding import Coding
from qbench.precisions.floating_codes.small_floats import (
    E2M1_LARGEST,
    E4M3_LARGEST,
    E8M0_LARGEST,
    E8M0_LEAST,
    decoded,
    e2m1_values,
    e4m3_values,
    e8m0_values,
    positive,
    rounded_to,
    unpacked,
)
from qbench.precisions.products import Products
from qbench.precisions.writing.compressed import compressed_form

if TYPE_CHECKING:
    import torch

    from qbench.core.number_types import FloatType
    from qbench.precisions.floating_codes.options import MxOptions
    from qbench.precisions.writing.form import CheckpointForm

BLOCK = 32
_APART_BYTES = 30
"""Bytes a weight that torchao holds at once while it takes codes of 4 bits apart."""


def taken_apart(dtype: FloatType, block: int) -> Products:
    """Products of codes of 4 bits with a scale a block, which torchao takes apart first."""
    return Products("dequantized", dtype, dtype, group=block, copies=0, wide_bytes=_APART_BYTES)


class Mx(Coding):
    """Codes with a power of two for each 32 of a row."""

    block = BLOCK
    capability = (10, 0)

    def __init__(self, code_bits: Literal[4, 8]) -> None:
        """`code_bits` are those of E2M1 or E4M3."""
        self.code_bits = code_bits
        self.quant_type = "mxfp8 (E4M3)" if code_bits == 8 else "mxfp4 (E2M1)"
        kinds = {
            8: "E4M3, a sign, 4 bits of exponent (bias 7), 3 of mantissa: 0, 2^-9 … 448",
            4: "E2M1, a sign, 2 bits of exponent, 1 of mantissa: 0, 0.5, 1, 1.5, 2, 3, 4, 6",
        }
        self.told = (
            f"code: {kinds[code_bits]}",
            f"scale: a power of two for each {BLOCK} weights of a row, in 8 bits (E8M0)",
            "scaling ceil: the next above largest |w| / largest code, which cuts off nothing",
            "scaling floor: that of the largest |w|, less the exponent of the largest code",
            "a weight is code · scale; the code is the nearest of w / scale, ties to the even one",
        )
        self._values = e4m3_values() if code_bits == 8 else e2m1_values()
        self._largest = E4M3_LARGEST if code_bits == 8 else E2M1_LARGEST

    def scales(self, options: MxOptions, rows: int, width: int) -> int:
        """One a block."""
        return rows * width // BLOCK

    def state_bytes(self, options: MxOptions, rows: int, width: int) -> int:
        """A byte a scale."""
        return self.scales(options, rows, width)

    def quantize(
        self,
        weight: torch.Tensor,
        options: MxOptions,
        dtype: torch.dtype,
        *,
        kernel: bool = False,
    ) -> Any:
        """An `MXTensor`; torchao has no product of its weights with inputs as they are."""
        from torchao.prototype.mx_formats.mx_tensor import MXTensor, QuantizeTensorToMXKwargs
        from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

        codes = self._quantized(weight, options)
        chosen = KernelPreference.AUTO if kernel else KernelPreference.EMULATED
        inputs = QuantizeTensorToMXKwargs(
            elem_dtype=codes.elem_dtype,
            block_size=BLOCK,
            scaling_mode=_mode(options),
            kernel_preference=chosen,
        )
        return MXTensor(
            codes.qdata,
            codes.scale,
            codes.elem_dtype,
            BLOCK,
            dtype,
            chosen,
            inputs if kernel else None,
            is_swizzled_scales=False,
        )

    def forms(self, options: MxOptions) -> tuple[CheckpointForm, ...]:
        """compressed-tensors' of weights alone, which keeps scales as bytes of E8M0 too."""
        if options.activations != "none":
            return ()
        common = {
            "num_bits": self.code_bits,
            "type": "float",
            "symmetric": True,
            "strategy": "group",
            "group_size": BLOCK,
            "scale_dtype": "torch.uint8",
            "zp_dtype": "torch.uint8",
        }
        kind = "mxfp8-quantized" if self.code_bits == 8 else "mxfp4-pack-quantized"
        return (compressed_form(kind, common, self._parts),)

    def unwritable(self, options: MxOptions) -> str:
        """Inputs in blocks."""
        return (
            "transformers would round the inputs of such a checkpoint by scales that are no powers"
            " of two, which is another model; export the weights alone"
        )

    def _parts(self, layer: Any) -> dict[str, torch.Tensor]:
        """Codes and scales by compressed-tensors' names."""
        import torch

        held, codes = layer.weight, "weight" if self.code_bits == 8 else "weight_packed"
        scales = held.scale.view(torch.uint8).reshape(len(held.qdata), -1)
        return {codes: held.qdata, "weight_scale": scales}

    def products(self, options: MxOptions) -> Products:
        """Codes and scales in the type, then their product; those of 4 bits are taken apart."""
        if self.code_bits == 8:
            return Products("dequantized", options.dtype, options.dtype, group=BLOCK, constants=1)
        return taken_apart(options.dtype, BLOCK)

    def round_inputs(self, inputs: torch.Tensor, options: MxOptions) -> torch.Tensor:
        """By torchao's `MXTensor`, which takes no fp16."""
        found: torch.Tensor = self._quantized(inputs.float(), options).dequantize()
        return found.to(inputs.dtype)

    def naive_weight(self, weight: Any, rows: slice) -> torch.Tensor:
        """E4M3 or E2M1 [code] · 2^(scale - 127)."""
        held = weight.qdata[rows]
        codes = unpacked(held) if self.code_bits == 4 else held
        scales = decoded(weight.scale[rows], e8m0_values())
        found: torch.Tensor = decoded(codes, self._values) * scales.repeat_interleave(BLOCK, dim=1)
        return found

    def naive_inputs(self, inputs: torch.Tensor, options: MxOptions) -> torch.Tensor:
        """Block by block."""
        blocks = inputs.float().reshape(len(inputs), -1, BLOCK)
        largest = blocks.abs().amax(dim=2, keepdim=True)
        if options.scaling == "floor":
            powers = largest.frexp().exponent - 1 - math.frexp(self._largest)[1] + 1
        else:
            parts = (largest / self._largest).frexp()
            powers = parts.exponent - (parts.mantissa == 0.5).int()
        scales = 2.0 ** powers.clamp(E8M0_LEAST, E8M0_LARGEST).float()
        found = rounded_to(blocks / scales, positive(self._values)) * scales
        return found.reshape(inputs.shape)

    def _quantized(self, values: torch.Tensor, options: MxOptions) -> Any:
        import torch
        from torchao.prototype.mx_formats.mx_tensor import MXTensor

        kind: Any = torch.float8_e4m3fn if self.code_bits == 8 else torch.float4_e2m1fn_x2
        return MXTensor.to_mx(values.contiguous(), kind, BLOCK, scaling_mode=_mode(options))


def _mode(options: MxOptions) -> Any:
    from torchao.prototype.mx_formats.config import ScaleCalculationMode

    return ScaleCalculationMode[{"floor": "FLOOR", "ceil": "RCEIL"}[options.scaling]]
