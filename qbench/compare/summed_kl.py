"""What units of layers cost in formats, with an interval by the windows that it was measured on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.series import Series
from qbench.compare.series_estimates import Estimated, of_level

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from qbench.precisions.mixed.sensitivities import Sensitivities


def summed_series(table: Sensitivities, pairs: Iterable[tuple[str, str]]) -> Series | None:
    """By window the KL of units in formats, each alone, added up; None where a pair has none.

    `pairs` are names of units and labels of formats; of no pair nothing is added up. The windows of
    all of them are the same, so that what their sum varies by is seen.
    """
    weights = tuple(map(float, table.window_tokens))
    rows = [table.window_kl_sums.get(unit, {}).get(label, ()) for unit, label in pairs]
    if not weights or any(len(row) != len(weights) for row in rows):
        return None
    sums = tuple(map(math.fsum, zip(*rows, strict=True))) if rows else (0.0,) * len(weights)
    return Series(sums, weights, "mean", 1.0, "windows")


def summed_kl(
    table: Sensitivities, pairs: Collection[tuple[str, str]], sampling: Sampling | None = None
) -> tuple[float, Estimated] | None:
    """Mean KL a token of the pairs added up, with its interval over windows: see `summed_series`.

    None where a pair has no KL, and of no pair.
    """
    series = summed_series(table, pairs) if pairs else None
    if series is None:
        return None
    value = math.fsum(series.sums) / table.tokens
    return value, of_level(series, value, sampling or Sampling())
