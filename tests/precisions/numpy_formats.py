"""The quantized formats by their published definitions, in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Dettmers et al. 2023 (QLoRA), appendix E.
NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
# bitsandbytes' FP4: E2M1 with a subnormal of 1/16, over its largest value, 12.
FP4_MAGNITUDES = tuple(value / 12 for value in (0.0, 0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0))
FP4_LEVELS = tuple(sorted({sign * value for value in FP4_MAGNITUDES for sign in (-1, 1)}))
LEVELS = {"nf4": NF4_LEVELS, "nf4-dq": NF4_LEVELS, "fp4": FP4_LEVELS}
BLOCK = 64
NESTED_BLOCK = 256
# The 8-bit map of double quantization is coarsest near 1: 0.1 to 1 in 64 even steps.
NESTED_ERROR = 0.9 / 64 / 2


def blocks(weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows of 64 weights, in fp64; the size must be a multiple of 64."""
    return weight.astype(np.float64).reshape(-1, BLOCK)


def four_bit(weight: NDArray[np.float32], name: str) -> NDArray[np.float64]:
    """Every weight at the nearest level of its block's scale: what `name` makes of it.

    Under double quantization the block maxima are taken as they are.
    """
    levels = np.array(LEVELS[name])
    rows = blocks(weight)
    maxima = np.abs(rows).max(axis=1, keepdims=True)
    scaled = rows / np.where(maxima == 0, 1, maxima)
    nearest = np.abs(scaled[:, :, None] - levels).argmin(axis=2)
    found: NDArray[np.float64] = (levels[nearest] * maxima).reshape(weight.shape)
    return found


def nested_bound(weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """The most that double quantization may move a weight, in the weight's shape."""
    maxima = np.abs(blocks(weight)).max(axis=1)
    spread = np.abs(maxima - maxima.mean())
    nested = [spread[at : at + NESTED_BLOCK] for at in range(0, spread.size, NESTED_BLOCK)]
    bounds = np.concatenate([np.full(part.size, NESTED_ERROR * part.max()) for part in nested])
    return np.repeat(bounds, BLOCK).reshape(weight.shape)


def int8_rows(weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """Every weight at the nearest of 255 even steps of its row's scale."""
    # bitsandbytes rounds a weight to fp16 before it takes the row's maximum.
    rows = weight.astype(np.float16).astype(np.float64)
    scales = np.abs(rows).max(axis=1, keepdims=True) / 127
    found: NDArray[np.float64] = np.round(rows / scales) * scales
    return found


def rounded(weight: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Rounded to `fp32`, `fp16` or `bf16` (to nearest, ties to even), held in fp32."""
    if dtype == "fp32":
        return weight
    if dtype == "fp16":
        return weight.astype(np.float16).astype(np.float32)
    bits = np.ascontiguousarray(weight).view(np.uint32)
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return upper.view(np.float32)


def small_float_levels(exponent_bits: int, mantissa_bits: int, largest: float) -> list[float]:
    """The numbers of a small floating format from 0 up, at the place of their codes."""
    bias = 2 ** (exponent_bits - 1) - 1
    found = []
    for code in range(2 ** (exponent_bits + mantissa_bits)):
        exponent, mantissa = divmod(code, 2**mantissa_bits)
        part = mantissa / 2**mantissa_bits
        found.append(
            (1 + part) * 2.0 ** (exponent - bias) if exponent else part * 2.0 ** (1 - bias)
        )
    return [level for level in found if level <= largest]


E4M3_LEVELS = small_float_levels(4, 3, largest=448)
E2M1_LEVELS = small_float_levels(2, 1, largest=6)


def nearest_codes(values: NDArray[np.float64], levels: list[float], sign: int) -> NDArray[np.int64]:
    """Codes of the nearest levels, of two as near the even one; `sign` is added below 0.

    Beyond the largest level it is that one.
    """
    distances = np.abs(np.abs(values)[..., None] - np.array(levels))
    best = distances.min(axis=-1, keepdims=True)
    is_best = distances == best
    lower = is_best.argmax(axis=-1)
    upper = len(levels) - 1 - is_best[..., ::-1].argmax(axis=-1)
    codes = np.where(lower % 2 == 0, lower, upper)
    found: NDArray[np.int64] = codes + sign * np.signbit(values)
    return found
