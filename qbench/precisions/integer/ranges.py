"""The range of a layer's inputs that static 8-bit activations cover, by three methods.

    minmax      the largest absolute value
    percentile  that percentile of the absolute values, between neighbours linearly (as numpy's)
    mse         of the largest absolute value times 1/100 … 100/100, the limit whose rounding and
                clipping make the smallest squared error over all inputs

The scale is limit / 127.5: torchao's 2·absmax/(qmax - qmin).

Inputs are not kept: the model reads the windows once for the extremes and, but for minmax, again
for what the method sums up, in fp64 of a few million values at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.precisions.integer.inputs import run
from qbench.precisions.integer.layers import ACTIVATION_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from transformers import PreTrainedModel

    from qbench.precisions.integer.options import IntegerOptions

CANDIDATES = 100
"""Limits that `mse` tries."""
VALUES_AT_ONCE = 2**22
"""Inputs that are taken to fp64 together."""
_SMALLEST_SCALE = 1e-12
"""For a layer whose inputs are all 0."""


def find_ranges(
    model: PreTrainedModel,
    layers: dict[str, Any],
    windows: list[torch.Tensor],
    options: IntegerOptions,
) -> dict[str, InputRange]:
    """The range of each layer's inputs in the model as it is; without those no window reaches."""
    extremes: dict[str, Extremes] = {}
    run(model, layers, windows, lambda name, inputs: _see(extremes, name, inputs, Extremes))
    method = options.calibration_method
    if method == "minmax":
        return {name: seen.range(limit=seen.largest, clipped=0) for name, seen in extremes.items()}
    choices: dict[str, Largest | Errors] = {}

    def make(name: str) -> Largest | Errors:
        if method == "percentile":
            return Largest(extremes[name], options.calibration_percentile)
        return Errors(extremes[name])

    run(
        model, layers, windows, lambda name, inputs: _see(choices, name, inputs, lambda: make(name))
    )
    return {name: extremes[name].range(*chosen.choose()) for name, chosen in choices.items()}


def _see(found: dict[str, Any], name: str, inputs: torch.Tensor, make: Callable[[], Any]) -> None:
    if name not in found:
        found[name] = make()
    found[name].see(inputs)


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


class Extremes:
    """The extremes and the number of what a layer saw; nothing of it is kept."""

    def __init__(self) -> None:
        self._lowest: torch.Tensor | None = None
        self._highest: torch.Tensor | None = None
        self.count = 0
        self._dimensions = 0

    def see(self, inputs: torch.Tensor) -> None:
        """Inputs of one window, of any shape."""
        import torch

        low, high = (one.double() for one in inputs.aminmax())
        self._lowest = low if self._lowest is None else torch.minimum(self._lowest, low)
        self._highest = high if self._highest is None else torch.maximum(self._highest, high)
        self.count += inputs.numel()
        self._dimensions = inputs.ndim

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return max(abs(float(self._lowest or 0)), abs(float(self._highest or 0)))

    def range(self, limit: float, clipped: int) -> InputRange:
        """What stands in the record, with so many inputs beyond the limit."""
        return InputRange(
            lowest=float(self._lowest or 0),
            highest=float(self._highest or 0),
            limit=limit,
            dimensions=self._dimensions,
            clipped_share=clipped / self.count,
        )


class Largest:
    """The largest absolute values of what a layer sees, down to a percentile."""

    def __init__(self, extremes: Extremes, percentile: float) -> None:
        place = (extremes.count - 1) * percentile / 100
        self._share = place - int(place)
        self._kept: torch.Tensor | None = None
        self._most = extremes.count - int(place)

    def see(self, inputs: torch.Tensor) -> None:
        """Inputs of one window."""
        import torch

        for part in _parts(inputs):
            sizes = part.double().abs()
            if self._kept is not None:
                sizes = torch.cat([self._kept, sizes])
            self._kept = sizes.topk(min(self._most, len(sizes))).values

    def choose(self) -> tuple[float, int]:
        """The limit, and how many are beyond it."""
        if self._kept is None:
            raise ValueError("nothing was seen")
        below = self._kept[-1]
        above = self._kept[max(0, len(self._kept) - 2)]
        limit = below + (above - below) * self._share
        return float(limit), int((self._kept > limit).sum())


def _parts(inputs: torch.Tensor) -> Sequence[torch.Tensor]:
    flat = inputs.reshape(-1)
    return [flat[at : at + VALUES_AT_ONCE] for at in range(0, len(flat), VALUES_AT_ONCE)]


class Errors:
    """The squared error that each candidate makes on what a layer sees."""

    def __init__(self, extremes: Extremes) -> None:
        self._largest = extremes.largest
        self._errors: torch.Tensor | float = 0.0
        self._clipped: torch.Tensor | int = 0

    def see(self, inputs: torch.Tensor) -> None:
        """Inputs of one window."""
        import torch

        parts = torch.arange(1, CANDIDATES + 1, dtype=torch.float64, device=inputs.device)
        limits = self._largest * parts / CANDIDATES
        for part in _parts(inputs):
            ordered = part.double().sort().values
            self._errors = self._errors + _squared_errors(ordered, limits)
            above = len(ordered) - torch.searchsorted(ordered, limits, right=True)
            self._clipped = self._clipped + above + torch.searchsorted(ordered, -limits)

    def choose(self) -> tuple[float, int]:
        """The limit, and how many are beyond it."""
        import torch

        if self._largest == 0.0:
            return 0.0, 0
        best = int(torch.as_tensor(self._errors).argmin())
        limit = self._largest * (best + 1) / CANDIDATES
        return limit, int(torch.as_tensor(self._clipped)[best])


def _squared_errors(ordered: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """Of rounding the ordered values to the 256 levels of each limit, from running sums: exact."""
    import torch

    zero = torch.zeros(1, dtype=torch.float64, device=ordered.device)
    sums = torch.cat([zero, ordered.cumsum(0)])
    squares = torch.cat([zero, ordered.square().cumsum(0)])
    codes = torch.arange(-128, 128, dtype=torch.float64, device=ordered.device)
    scales = limits[:, None] / ACTIVATION_STEPS
    ends = torch.searchsorted(ordered, (codes[:-1] + 0.5) * scales)
    first = torch.zeros(len(limits), 1, dtype=ends.dtype, device=ends.device)
    last = torch.full_like(first, len(ordered))
    edges = torch.cat([first, ends, last], dim=1)
    levels = codes * scales
    counts = edges.diff().double()
    error = squares[edges].diff() - 2 * levels * sums[edges].diff() + counts * levels.square()
    return error.sum(1)
