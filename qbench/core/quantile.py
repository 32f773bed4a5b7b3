"""Quantiles by linear interpolation between order statistics (numpy's default), and their names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

_NAMED = re.compile(r"p(\d{1,2})(?:_(\d{1,3}))?")


def quantile_of_sorted(ordered: Sequence[float] | torch.Tensor, share: float) -> float:
    """The quantile of values that ascend; also of a long tensor, which torch's own refuses."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    low, high = float(ordered[below]), float(ordered[above])
    return low + (place - below) * (high - low)


def named_share(name: str) -> float | None:
    """The share that the last part of a metric's name stands for: 0.999 for `kl.p99_9`.

    None for what is no quantile, or the smallest or largest value.
    """
    last = name.rpartition(".")[2]
    if last == "median":
        return 0.5
    found = _NAMED.fullmatch(last)
    share = float(f"{found[1]}.{found[2] or 0}") / 100 if found else 0.0
    return share or None
