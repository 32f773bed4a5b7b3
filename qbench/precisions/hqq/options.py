"""The options of HQQ, and which layers it can hold with them in how many bytes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qbench.core.aliases import Also
from qbench.core.number_types import FloatOption
from qbench.core.spec import Frozen

Bits = Literal[8, 4, 3, 2, 1]

_IN_A_WORD = {8: 1, 4: 2, 3: 10, 2: 4, 1: 8}
"""Codes that hqq packs into a word: an int32 of 3-bit codes, else a byte."""


class HqqOptions(Frozen):
    """Options of `hqq4`, `hqq3` and `hqq2`."""

    group: Annotated[int, Field(ge=8, multiple_of=8), Also("group_size", "q_group_size")] = 64
    """Weights that share a scale and a zero point."""
    axis: Literal[0, 1] = 1
    """1: a group is neighbours of a row, as HQQ's fused kernels have it. 0: weights of a column,
    which is more accurate for few bits, and which those kernels do not read."""
    optimize: bool = True
    """Whether zero points are moved to make the error's norm (p = 0.7) small, which is HQQ; without
    it, scale and zero point are those of the group's extremes, each weight at the nearest level."""
    dtype: Annotated[FloatOption, Also("torch_dtype", "compute_dtype")] = "bf16"
    """Type of what is not quantized, of scales and zero points, and of the products."""


class FreeHqqOptions(HqqOptions):
    """Options of `hqq`."""

    bits: Annotated[Bits, Also("nbits", "num_bits", "w_bit")] = 4
    """Width of a code."""


def layer_bytes(
    options: HqqOptions, bits: Bits, outputs: int, inputs: int, item_bytes: int
) -> tuple[int, int] | None:
    """Bytes of a layer's codes, and of its scales and zero points; None if hqq cannot hold it.

    hqq folds the weights into a matrix of a group a row (axis 1) or a column (axis 0), and packs
    codes of the same column: those of the first rows in the highest bits. Rows are filled up to
    tens for 3 bits; for the other widths there must be whole words.
    """
    groups, rest = divmod(outputs * inputs, options.group)
    rows, columns = (groups, options.group) if options.axis == 1 else (options.group, groups)
    if rest or (bits != 3 and rows % _IN_A_WORD[bits]):
        return None
    word_bytes = 4 if bits == 3 else 1
    return -(-rows // _IN_A_WORD[bits]) * columns * word_bytes, 2 * groups * item_bytes
