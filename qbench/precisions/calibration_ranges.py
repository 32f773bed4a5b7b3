"""The range of a layer's inputs that static 8-bit activations cover, by three methods.

    minmax      the largest absolute value
    percentile  that percentile of the absolute values, between neighbours linearly (as numpy's)
    mse         of the largest absolute value times 1/100 … 100/100, the limit whose rounding and
                clipping make the smallest squared error over all inputs

The scale is limit / 127.5: torchao's 2·absmax/(qmax - qmin).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.precisions.integer_layers import ACTIVATION_STEPS

if TYPE_CHECKING:
    import torch

    from qbench.precisions.integer_options import IntegerOptions

CANDIDATES = 100
"""Limits that `mse` tries."""
_SMALLEST_SCALE = 1e-12
"""For a layer whose inputs are all 0."""


@dataclass(frozen=True)
class InputRange:
    """What a layer saw, and the limit that was chosen."""

    lowest: float
    highest: float
    limit: float
    dimensions: int
    """Of the inputs: torchao wants a scale of as many."""
    clipped_share: float
    """Inputs beyond the limit."""

    @classmethod
    def of(cls, inputs: list[torch.Tensor], options: IntegerOptions) -> InputRange:
        """The range of all inputs of a layer, by the method of the options."""
        import torch

        values = torch.cat([one.reshape(-1) for one in inputs]).double()
        limit = choose_limit(
            values, options.calibration_method, percentile=options.calibration_percentile
        )
        return cls(
            lowest=float(values.min()),
            highest=float(values.max()),
            limit=limit,
            dimensions=inputs[0].ndim,
            clipped_share=float((values.abs() > limit).double().mean()),
        )

    @property
    def scale(self) -> float:
        """The step between two codes."""
        return max(self.limit / ACTIVATION_STEPS, _SMALLEST_SCALE)

    @property
    def scale_tensor(self) -> torch.Tensor:
        """The scale as torchao wants it."""
        import torch

        return torch.full((1,) * self.dimensions, self.scale, dtype=torch.float32)

    @property
    def recorded(self) -> dict[str, float]:
        """As it stands in the record."""
        return {
            "min": self.lowest,
            "max": self.highest,
            "limit": self.limit,
            "scale": self.scale,
            "clipped_share": self.clipped_share,
        }


def choose_limit(values: torch.Tensor, method: str, *, percentile: float) -> float:
    """The limit for values, (n,) in fp64, by one of the three methods."""
    import torch

    sizes = values.abs()
    largest = float(sizes.max())
    if method == "minmax" or largest == 0.0:
        return largest
    if method == "percentile":
        ordered = sizes.sort().values
        place = (len(ordered) - 1) * percentile / 100
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        low, high = float(ordered[below]), float(ordered[above])
        return low + (high - low) * (place - below)
    ordered = values.sort().values
    zero = torch.zeros(1, dtype=torch.float64, device=values.device)
    sums = torch.cat([zero, ordered.cumsum(0)])
    squares = torch.cat([zero, ordered.square().cumsum(0)])
    limits = [largest * part / CANDIDATES for part in range(1, CANDIDATES + 1)]
    errors = [_squared_error(ordered, sums, squares, limit) for limit in limits]
    return limits[errors.index(min(errors))]


def _squared_error(
    ordered: torch.Tensor, sums: torch.Tensor, squares: torch.Tensor, limit: float
) -> float:
    """Of rounding the ordered values to the 256 levels, from their running sums: exact."""
    import torch

    scale = limit / ACTIVATION_STEPS
    codes = torch.arange(-128, 128, dtype=torch.float64, device=ordered.device)
    ends = torch.searchsorted(ordered, (codes[:-1] + 0.5) * scale)
    first = torch.zeros(1, dtype=ends.dtype, device=ends.device)
    last = torch.full_like(first, len(ordered))
    edges = torch.cat([first, ends, last])
    levels = codes * scale
    counts = edges.diff().double()
    error = squares[edges].diff() - 2 * levels * sums[edges].diff() + counts * levels.square()
    return float(error.sum())
