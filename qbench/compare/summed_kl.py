"""What units of layers cost in formats, with an interval by the windows that it was measured on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.series import Series
from qbench.compare.series_estimates import Estimated, of_level

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.precisions.mixed.sensitivities import Sensitivities


def summed_kl(
    table: Sensitivities, pairs: Iterable[tuple[str, str]], sampling: Sampling | None = None
) -> tuple[float, Estimated] | None:
    """Mean KL a token of units in formats, each alone, added up; with its interval over windows.

    `pairs` are names of units and labels of formats. The windows of all of them are the same, so
    that what their sum varies by is seen. None where a pair has no KL.
    """
    rows = [table.window_kl_sums.get(unit, {}).get(label) for unit, label in pairs]
    known = [row for row in rows if row is not None]
    if not known or len(known) < len(rows):
        return None
    sums = tuple(math.fsum(of_window) for of_window in zip(*known, strict=True))
    value = math.fsum(sums) / table.tokens
    series = Series(sums, tuple(map(float, table.window_tokens)), "mean", 1.0, "windows")
    return value, of_level(series, value, sampling or Sampling())
