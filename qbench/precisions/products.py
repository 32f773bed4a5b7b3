"""How the linear layers of a precision multiply, as far as bytes and rates depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qbench.core.number_types import FP32, INT8, FloatType, NumberType

ProductKind = Literal[
    "floating", "dequantized", "packed", "4bit", "outliers", "codes", "rounded", "mixed"
]
"""What a layer does with its inputs x:

    floating      weights of a floating type, multiplied as they are
    dequantized   all weights of the layer are made from the codes in the type of x, then multiplied
    packed        a kernel reads packed codes, for any number of rows
    4bit          bitsandbytes' 4-bit layers: for few rows a kernel reads the codes
    outliers      LLM.int8 as bitsandbytes has it: x in 8 bits but for columns with outliers
    codes         x in 8 bits too, whose products with the codes are integers
    rounded       x in floating-point codes too, multiplied as they are or as what they stand for
    mixed         some of these, each layer its own
"""
MOST_ROWS_IN_FP32 = 16
"""Rows of input that CUDA's kernel for products of 8-bit integers refuses."""


@dataclass(frozen=True)
class Products:
    """What the linear layers of a precision hold and multiply."""

    kind: ProductKind
    rest: FloatType
    """Type of what is not quantized, and of the activations between layers."""
    compute: FloatType
    """Type that floating or dequantized weights are multiplied in."""
    group: int | None = None
    """Weights of a row that share a scale; None where whole rows do, or more. A layer whose rows
    it does not divide stays in the type of the rest."""
    whole_tensor: bool = False
    """Whether all weights of a layer share one scale."""
    copies: int = 2
    """Of `dequantized`: a layer's weights in the type of x that are there at once while they are
    made, such as codes turned into numbers and these times their scales."""
    wide_bytes: int = 0
    """Of `dequantized`: bytes a weight that are there besides, whatever the type of x: codes in
    fp32, or taken apart bit by bit."""
    constants: int = 0
    """Of `dequantized`: numbers for each scale that are there in the type of x meanwhile, such as
    the scale itself or a zero point."""
    at_once: int | None = None
    """Of `dequantized`: weights of a layer that are made at the most before they are multiplied and
    the next ones are made; None for all of it."""
    fused: bool = False
    """Of `dequantized`: whether all that is made within one operation of a library, so that a
    counting of live tensors does not see it."""
    members: tuple[Products | None, ...] = ()
    """Of `mixed`: those of its layers, each once; None for one whose is not known."""

    def holds(self, inputs: int) -> bool:
        """Whether a layer of so many inputs is held in codes, where the kind has any."""
        return self.group is None or inputs % self.group == 0

    def scales(self, outputs: int, inputs: int) -> int:
        """Scales of one layer."""
        if self.whole_tensor:
            return 1
        return outputs * (1 if self.group is None else inputs // self.group)

    def multiplied_in(self, device: str, rows: int) -> NumberType:
        """The type that the products of so many rows are taken in on a device of torch's.

        For integers CUDA's kernel (`torch._int_mm`) takes more than 16 rows; for fewer, torchao
        0.18 catches its refusal and multiplies in fp32 (`torchao.kernel.intmm.safe_int_mm`).
        """
        if self.kind == "outliers":
            return INT8
        each = {one.multiplied_in(device, rows) for one in self.members if one is not None}
        if INT8 in each:  # the fastest that some layers are multiplied in
            return INT8
        if self.kind == "codes":
            few = device.startswith("cuda") and rows <= MOST_ROWS_IN_FP32
            return FP32 if few else INT8
        return self.compute


def floating(dtype: FloatType) -> Products:
    """Weights of a floating type, multiplied as they are."""
    return Products("floating", dtype, dtype)
