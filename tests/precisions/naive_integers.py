"""Round to nearest by the formulas, in numpy and one group after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from safetensors import safe_open

if TYPE_CHECKING:
    from pathlib import Path


def checkpoint_weight(folder: Path, name: str) -> np.ndarray:
    """A weight of a checkpoint in fp32, (out, in)."""
    (file,) = folder.glob("*.safetensors")
    with safe_open(file, framework="np") as tensors:
        weight: np.ndarray = tensors.get_tensor(name).astype(np.float32)
    return weight


def quantize(
    weight: np.ndarray, bits: int, mapping: str, group: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and zero points; `group` is the block of rows and columns that share one."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    rows, columns = (size // part for size, part in zip(weight.shape, group, strict=True))
    codes = np.zeros(weight.shape, dtype=np.int8)
    scales = np.zeros((rows, columns), dtype=np.float32)
    zeros = np.zeros((rows, columns), dtype=np.int8)
    for row in range(rows):
        for column in range(columns):
            place = (
                slice(row * group[0], (row + 1) * group[0]),
                slice(column * group[1], (column + 1) * group[1]),
            )
            block = weight[place]
            if mapping == "symmetric":
                scale = np.float32(2 * np.abs(block).max() / (high - low))
                zero = 0
            else:
                smallest, largest = min(block.min(), 0), max(block.max(), 0)
                scale = np.float32((largest - smallest) / (high - low))
                zero = int(np.clip(low - np.round(smallest / scale), low, high))
            # A symmetric grid puts the largest of a group midway between two levels; which of them
            # it becomes hangs on a rounding. torchao multiplies by the reciprocal, and so here.
            steps = np.round(block * (np.float32(1) / scale))
            codes[place] = np.clip(steps + zero, low, high)
            scales[row, column], zeros[row, column] = scale, zero
    return codes, scales, zeros
