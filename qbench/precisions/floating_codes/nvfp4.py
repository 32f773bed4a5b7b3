"""nvfp4: codes E2M1, a scale E4M3 for each 16 of a row, and one of 32 bits for the whole weight.

NVIDIA, "Pretraining Large Language Models with NVFP4", arXiv 2509.25149, appendix C. The scale of
the weight is its largest |w| / (448 · 6), so that the scales of blocks use all of E4M3; that of a
block its largest |w| / 6, divided by the weight's. A value is the code times both scales. torchao
lets no block's scale fall below E4M3's least normal number, 2^-6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.floating_codes.coding import Coding
from qbench.precisions.floating_codes.mx import taken_apart
from qbench.precisions.floating_codes.small_floats import (
    E2M1_LARGEST,
    E4M3_LARGEST,
    decoded,
    e2m1_values,
    e4m3_values,
    positive,
    rounded_to,
    unpacked,
)
from qbench.precisions.writing.compressed import compressed_form
from qbench.precisions.writing.library import torchao_form

if TYPE_CHECKING:
    import torch

    from qbench.precisions.floating_codes.options import FloatingCodesOptions
    from qbench.precisions.products import Products
    from qbench.precisions.writing.form import CheckpointForm

BLOCK = 16
LEAST_SCALE = 2.0**-6
"""E4M3's least normal number."""
_WEIGHT_SCALE_BYTES = 4
_OFF_AT_MOST = 0.02
_DIVIDED = (
    "compressed-tensors divides by the reciprocal of the weight's scale, and multiplies in 16 bits"
)
_LEAST = E4M3_LARGEST * E2M1_LARGEST * 2.0**-100
"""Numbers that are all smaller have the scale of this: 0 would make zeros no numbers."""


class Nvfp4(Coding):
    """E2M1 with scales of two levels."""

    quant_type = "nvfp4 (E2M1)"
    code_bits = 4
    told = (
        "code: E2M1, a sign, 2 bits of exponent, 1 of mantissa: 0, 0.5, 1, 1.5, 2, 3, 4, 6",
        "scale of the weight: its largest |w| / (448 · 6), in 32 bits",
        f"scale of {BLOCK} weights of a row: their largest |w| / 6 / scale of the weight, as E4M3",
        "a weight is code · scale of its block · scale of the weight",
    )
    block = BLOCK
    capability = (10, 0)

    def scales(self, options: FloatingCodesOptions, rows: int, width: int) -> int:
        """One a block."""
        return rows * width // BLOCK

    def state_bytes(self, options: FloatingCodesOptions, rows: int, width: int) -> int:
        """A byte a block's scale, and the weight's."""
        return self.scales(options, rows, width) + _WEIGHT_SCALE_BYTES

    def quantize(
        self,
        weight: torch.Tensor,
        options: FloatingCodesOptions,
        dtype: torch.dtype,
        *,
        kernel: bool = False,
    ) -> Any:
        """An `NVFP4Tensor`; torchao's own product of it hides what it holds meanwhile."""
        from torchao.prototype.mx_formats.nvfp4_tensor import (
            NVFP4Tensor,
            QuantizeTensorToNVFP4Kwargs,
        )

        codes = _quantized(weight)
        inputs = QuantizeTensorToNVFP4Kwargs(use_dynamic_per_tensor_scale=True)
        return NVFP4Tensor(
            codes.qdata,
            codes.scale,
            BLOCK,
            dtype,
            codes.per_tensor_scale,
            act_quant_kwargs=inputs if kernel else None,
        )

    def forms(self, options: FloatingCodesOptions) -> tuple[CheckpointForm, ...]:
        """Of weights alone, compressed-tensors' and torchao's own."""
        if options.activations != "none":
            return ()
        weights = {
            "num_bits": 4,
            "type": "float",
            "symmetric": True,
            "strategy": "tensor_group",
            "group_size": BLOCK,
        }
        packed = compressed_form(
            "nvfp4-pack-quantized", weights, _parts, tolerance=_OFF_AT_MOST, inexact=_DIVIDED
        )
        return torchao_form(_torchao_config), packed

    def unwritable(self, options: FloatingCodesOptions) -> str:
        """Inputs with a scale of their own."""
        return (
            "NVFP4 checkpoints state a scale for a layer's inputs, which a calibration finds, and"
            " these inputs are rounded by their own largest"
        )

    def products(self, options: FloatingCodesOptions) -> Products:
        """Codes are taken apart, and multiplied by both scales."""
        return taken_apart(options.dtype, BLOCK)

    def round_inputs(self, inputs: torch.Tensor, options: FloatingCodesOptions) -> torch.Tensor:
        """By torchao's `NVFP4Tensor`, which takes no fp16."""
        found: torch.Tensor = _quantized(inputs.float()).dequantize()
        return found.to(inputs.dtype)

    def naive_weight(self, weight: Any, rows: slice) -> torch.Tensor:
        """E2M1 [code] · E4M3 [block's scale] · the weight's scale."""
        scales = decoded(weight.scale[rows], e4m3_values()) * weight.per_tensor_scale
        codes = decoded(unpacked(weight.qdata[rows]), e2m1_values())
        found: torch.Tensor = codes * scales.repeat_interleave(BLOCK, dim=1)
        return found

    def naive_inputs(self, inputs: torch.Tensor, options: FloatingCodesOptions) -> torch.Tensor:
        """All inputs share the scale that a weight has for itself.

        They are multiplied by the reciprocal of both scales, as NVIDIA's and torchao's kernels do:
        in 16 bits many lie in the middle of two levels, and go by the last bit.
        """
        blocks = inputs.float().reshape(len(inputs), -1, BLOCK)
        largest = blocks.abs().amax(dim=2, keepdim=True)
        whole = largest.amax() / (E4M3_LARGEST * E2M1_LARGEST)
        wanted = (largest / E2M1_LARGEST / whole).clamp(LEAST_SCALE, E4M3_LARGEST)
        scales = rounded_to(wanted, positive(e4m3_values()))
        codes = rounded_to(blocks * (1 / whole / scales), positive(e2m1_values()))
        found = codes * (scales * whole)
        return found.reshape(inputs.shape)

    def pools_batch(self, options: FloatingCodesOptions) -> bool:
        """One scale for all inputs, beside those of blocks."""
        return True


def _parts(layer: Any) -> dict[str, torch.Tensor]:
    """Codes and scales by compressed-tensors' names: that of the weight as what is divided by."""
    held = layer.weight
    return {
        "weight_packed": held.qdata,
        "weight_scale": held.scale.reshape(len(held.qdata), -1),
        "weight_global_scale": 1 / held.per_tensor_scale.float().reshape(1),
    }


def _torchao_config() -> Any:
    from torchao.prototype.mx_formats import NVFP4WeightOnlyConfig

    return NVFP4WeightOnlyConfig()


def _quantized(values: torch.Tensor) -> Any:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    largest = values.abs().amax().clamp(min=_LEAST)
    scale = per_tensor_amax_to_scale(largest)
    return NVFP4Tensor.to_nvfp4(values.contiguous(), per_tensor_scale=scale)
