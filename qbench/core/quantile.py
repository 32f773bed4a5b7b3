"""Quantiles by linear interpolation between order statistics (numpy's default)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


def quantile_of_sorted(ordered: Sequence[float] | torch.Tensor, share: float) -> float:
    """The quantile of values that ascend; also of a long tensor, which torch's own refuses."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    low, high = float(ordered[below]), float(ordered[above])
    return low + (place - below) * (high - low)
