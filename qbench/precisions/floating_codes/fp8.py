"""fp8: 8-bit codes E4M3, with one scale of 32 bits for each output row or for the whole weight.

Micikevicius et al. 2022, arXiv 2209.05433; OCP 8-bit Floating Point Specification 1.0. Scale =
largest |w| / 448, code = the nearest of w / scale, ties to the even mantissa.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.floating_codes.coding import Coding
from qbench.precisions.floating_codes.small_floats import E4M3_LARGEST, decoded, e4m3_values

if TYPE_CHECKING:
    import torch

    from qbench.precisions.floating_codes.options import Fp8Options

_SCALE_BYTES = 4
_LEAST = E4M3_LARGEST * 2.0**-126
"""A row of smaller weights has the scale of this: a scale of 0 would make its zeros no numbers."""


class Fp8(Coding):
    """E4M3 with scales of 32 bits."""

    quant_type = "fp8 (E4M3)"
    code_bits = 8

    def scales(self, options: Fp8Options, rows: int, width: int) -> int:
        """One a row, or one."""
        return 1 if options.granularity == "tensor" else rows

    def state_bytes(self, options: Fp8Options, rows: int, width: int) -> int:
        """4 bytes a scale."""
        return _SCALE_BYTES * self.scales(options, rows, width)

    def quantize(self, weight: torch.Tensor, options: Fp8Options, dtype: torch.dtype) -> Any:
        """A `Float8Tensor`, which torchao multiplies itself."""
        import torch
        from torchao.quantization import Float8Tensor, PerRow, PerTensor

        codes: Any = Float8Tensor.from_hp(
            weight,
            float8_dtype=torch.float8_e4m3fn,
            granularity=PerTensor() if options.granularity == "tensor" else PerRow(),
            hp_value_lb=_LEAST,
        )
        return Float8Tensor(codes.qdata, codes.scale, codes.block_size, dtype=dtype)

    def naive_weight(self, weight: Any, rows: slice) -> torch.Tensor:
        """E4M3 [code] · scale."""
        scales = weight.scale if weight.scale.numel() == 1 else weight.scale[rows]
        found: torch.Tensor = decoded(weight.qdata[rows], e4m3_values()) * scales
        return found
