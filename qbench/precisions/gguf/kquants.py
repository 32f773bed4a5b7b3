"""K-quants made of weights: blocks of 256 whose parts have small integers as scales and minima.

The search for scales is that of llama.cpp's reference (`quantize_row_q4_K_ref` and the like in
`ggml-quants.c`), without an importance matrix, for many blocks at once. Sums are taken in its
order, one weight after another, so that equally good choices come out as they do there. The
weights of a part lie one below another here, (weights, parts): a sum is then one of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.precisions.gguf.layouts import LAYOUTS, steps_of, write, write_half
from qbench.sources.models.gguf_types import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

_WEIGHTS = 256
_TINY = 1e-15
"""A part whose weights are all smaller is taken for zeros."""


@dataclass(frozen=True)
class _Affine:
    """Of a type whose parts have a scale and a minimum: where its scales are searched."""

    part: int
    """Weights of a part."""
    top: int
    """The largest code."""
    step_top: int
    """The largest step and floor."""
    first: float
    """What the first try adds to `top`; each next one adds 0.1 more."""
    tries: int
    absolute: bool = False
    """Whether errors count by size, weighted by the weights' size, instead of squared."""


_AFFINE = {
    "Q2_K": _Affine(16, 3, 15, -0.5, 16, absolute=True),
    "Q4_K": _Affine(32, 15, 63, -1.0, 21),
    "Q5_K": _Affine(32, 31, 63, -0.5, 16),
}


def quantize_k(values: torch.Tensor, kind: str) -> torch.Tensor:
    """Blocks, uint8 (blocks, bytes), of weights in fp32, (blocks, 256)."""
    if kind in _AFFINE:
        return _affine(values, kind, _AFFINE[kind])
    return {"Q3_K": _q3, "Q6_K": _q6}[kind](values)


def _affine(values: torch.Tensor, kind: str, how: _Affine) -> torch.Tensor:
    """Of weights = scale · code - minimum."""
    layout = LAYOUTS[kind]
    parts = values.view(-1, how.part).T.contiguous()
    scales, minima, codes = _search_affine(parts, how)
    blocks = _blank(values, kind)
    steps, scale = _steps(blocks, scales.view(len(values), -1), how.step_top, layout.scale_at or 0)
    floors, low = _steps(blocks, minima.view(len(values), -1), how.step_top, layout.minimum_at or 0)
    write(blocks, layout.steps, steps)
    write(blocks, layout.floors, floors)
    scale = (scale * steps).view(1, -1)
    low = (low * floors).view(1, -1)
    again = ((parts + low) / scale).round().clamp(0, how.top)
    codes = again.where(scale != 0, codes)
    write(blocks, layout.codes, codes.T.reshape(len(values), -1))
    return blocks


def _steps(
    blocks: torch.Tensor, sizes: torch.Tensor, top: int, at: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers up to `top` for the sizes (blocks, parts), and their unit as the block holds it."""
    import torch

    largest = sizes.amax(1, keepdim=True).clamp(min=0) + 0.0  # no negative zero
    inverse = torch.where(largest > 0, _in_fp32(0, 0, top) / largest, 0.0)
    unit = write_half(blocks, at, largest / top)
    return (inverse * sizes).round().clamp(0, top), unit


def _search_affine(
    parts: torch.Tensor, how: _Affine
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scales and minima, (1, parts), and codes, (weights, parts): the least weighted error."""
    import torch

    size = parts.abs()
    # In fp64: torch's roots in fp32 are off by a last digit on CPUs of some makers.
    mean = (_total(parts.square()) / how.part).double()
    weights = size if how.absolute else mean.sqrt().float() + size
    high = parts.amax(0, keepdim=True)
    low = parts.amin(0, keepdim=True).clamp(max=0)
    flat = high == low
    sum_w = _total(weights)
    sum_x = _total(weights * parts)

    def error(scale: torch.Tensor, codes: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
        off = scale * codes + least - parts
        return _total(weights * (off.abs() if how.absolute else off.square()))

    inverse = _in_fp32(0, 0, how.top) / (high - low)
    scale = 1 / inverse
    codes = (inverse * (parts - low)).round().clamp(0, how.top)
    best = error(scale, codes, low)
    for attempt in range(how.tries):
        inverse = _in_fp32(how.first, attempt, how.top) / (high - low)
        tried = (inverse * (parts - low)).round().clamp(0, how.top)
        weighted = weights * tried
        sum_l = _total(weighted)
        sum_l2 = _total(weighted * tried)
        sum_xl = _total(weighted * parts)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        own_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        own_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        above = own_low > 0
        own_scale = torch.where(above, sum_xl / sum_l2, own_scale)
        own_low = own_low.masked_fill(above, 0)
        own_error = error(own_scale, tried, own_low)
        better = (determinant > 0) & (own_error < best)
        codes = torch.where(better, tried, codes)
        best = torch.where(better, own_error, best)
        scale = torch.where(better, own_scale, scale)
        low = torch.where(better, own_low, low)
    return scale.masked_fill(flat, 0), -low, codes.masked_fill(flat, 0)


def _q3(values: torch.Tensor) -> torch.Tensor:
    """Of weights = scale · code, codes from -4 to 3, a signed step of 6 bits for each 16."""
    return _symmetric(values, "Q3_K", top=4, step_top=32, search=_search_by_turns)


def _q6(values: torch.Tensor) -> torch.Tensor:
    """Of weights = scale · code, codes from -32 to 31, a signed step of 8 bits for each 16."""
    return _symmetric(values, "Q6_K", top=32, step_top=128, search=_search_by_range)


def _symmetric(
    values: torch.Tensor,
    kind: str,
    *,
    top: int,
    step_top: int,
    search: Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    import torch

    layout, parts = LAYOUTS[kind], values.view(-1, 16).T.contiguous()
    found, codes = search(parts, top)
    scales = found.view(len(values), -1)
    extreme = _extreme(scales.T).T
    nothing = extreme.abs() < _TINY if layout.signed_steps else extreme == 0
    inverse = torch.where(nothing, 0.0, -_in_fp32(0, 0, step_top) / extreme)
    steps = (inverse * scales).round().clamp(-step_top, step_top - 1)
    blocks = _blank(values, kind)
    unit = write_half(blocks, layout.scale_at or 0, torch.where(nothing, 0.0, 1 / inverse))
    stored = steps if layout.signed_steps else (steps + layout.step_offset).masked_fill(nothing, 0)
    write(blocks, layout.steps, stored.int() & 0xFF)
    scale = (unit * steps_of(blocks, kind)).view(1, -1)
    again = (parts / scale).round().clamp(-top, top - 1) + top
    codes = again.where(scale != 0, codes).T.reshape(len(values), -1)
    write(blocks, layout.codes, codes.masked_fill(nothing, 0) if layout.signed_steps else codes)
    return blocks


def _search_by_range(parts: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and codes, the latter from 0: the best of 19 ranges about the largest weight's."""
    import torch

    extreme, weights = _extreme(parts), parts.square()
    zeros = extreme.abs() < _TINY
    scale = best = codes = torch.zeros_like(extreme)
    for attempt in (0, *range(-9, 0), *range(1, 10)):
        inverse = -_in_fp32(0, attempt, top) / extreme
        tried = (inverse * parts).round().clamp(-top, top - 1)
        sum_xl = _total(weights * parts * tried)
        sum_l2 = _total(weights * tried * tried)
        own = torch.where(sum_l2 > 0, sum_xl / sum_l2, 0.0)
        if not attempt:
            scale, best, codes = own, own * sum_xl, tried
            continue
        better = (sum_l2 > 0) & (sum_xl * sum_xl > best * sum_l2)
        codes = torch.where(better, tried, codes)
        scale = torch.where(better, own, scale)
        best = torch.where(better, own * sum_xl, best)
    return scale.masked_fill(zeros, 0), (codes + top).masked_fill(zeros, 0)


def _search_by_turns(parts: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and codes, the latter from 0: each code in turn is put where the scale is best."""
    import torch

    extreme, weights = _extreme(parts), parts.square()
    zeros = extreme.abs() < _TINY
    codes = (
        (-_in_fp32(0, 0, top) / extreme * parts).round().clamp(-top, top - 1).masked_fill(zeros, 0)
    )
    sum_xl = _total(weights * parts * codes)
    sum_l2 = _total(weights * codes * codes)
    for _ in range(5):
        for at in range(len(parts)):
            weight, value, code = weights[at : at + 1], parts[at : at + 1], codes[at : at + 1]
            without_xl = sum_xl - weight * value * code
            without_l2 = sum_l2 - weight * code * code
            moved = (value * without_l2 / without_xl).round().clamp(-top, top - 1)
            new_xl = without_xl + weight * value * moved
            new_l2 = without_l2 + weight * moved * moved
            better = (without_xl > 0) & (moved != code) & (new_l2 > 0)
            better &= new_xl * new_xl * sum_l2 > sum_xl * sum_xl * new_l2
            codes[at : at + 1] = torch.where(better, moved, code)
            sum_xl = torch.where(better, new_xl, sum_xl)
            sum_l2 = torch.where(better, new_l2, sum_l2)
    scale = torch.where(sum_l2 > 0, sum_xl / sum_l2, 0.0)
    return scale.masked_fill(zeros, 0), (codes + top).masked_fill(zeros, 0)


def _in_fp32(first: float, attempt: int, top: int) -> torch.Tensor:
    """The sum first + attempt / 10 + top, rounded as the reference rounds it.

    A tensor, since torch divides a plain number in two steps, each of which rounds.
    """
    import torch

    return torch.tensor(float(first)) + torch.tensor(0.1) * attempt + top


def _extreme(values: torch.Tensor) -> torch.Tensor:
    """Of each column the first value of the largest size, with its sign, (1, columns)."""
    return values.gather(0, values.abs().argmax(0, keepdim=True))


def _total(values: torch.Tensor) -> torch.Tensor:
    """The sum of each column, (1, columns), in the order of the rows."""
    total = values[:1].clone()
    for row in values[1:]:
        total += row
    return total


def _blank(values: torch.Tensor, kind: str) -> torch.Tensor:
    import torch

    return torch.zeros(len(values), BY_NAME[kind].bytes, dtype=torch.uint8, device=values.device)
