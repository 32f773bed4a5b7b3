"""What quanto's formats hold: widths, groups and bytes, without its package."""

from __future__ import annotations

from typing import NamedTuple

_BYTE = 8
_LARGEST_GROUP, _STEP = 128, 32


class Codes(NamedTuple):
    """A format of quanto's weights."""

    qtype: str
    """quanto's name of it."""
    bits: int
    """Of a code."""

    @property
    def shifted(self) -> bool:
        """Whether it has groups with a shift each; else a scale a row."""
        return self.bits < _BYTE


def group_of(inputs: int) -> int | None:
    """Weights of a row that share a scale under 8 bits: quanto's own choice; None for the row."""
    if inputs <= _LARGEST_GROUP:
        return None
    fitting = (size for size in range(_LARGEST_GROUP, 0, -_STEP) if inputs % size == 0)
    return next(fitting, None)


def layer_bytes(codes: Codes, outputs: int, inputs: int, item_bytes: int) -> tuple[int, int]:
    """Bytes of a layer's codes, and of its scales and shifts, each of `item_bytes`.

    Codes under 8 bits are packed by column of the matrix of groups, rows filled up to whole bytes.
    """
    if not codes.shifted:
        return outputs * inputs, outputs * item_bytes
    columns = group_of(inputs) or inputs
    rows = outputs * inputs // columns
    return -(-rows // (_BYTE // codes.bits)) * columns, 2 * rows * item_bytes
