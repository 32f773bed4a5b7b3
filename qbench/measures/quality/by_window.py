"""What a record keeps of its windows so that quantiles have intervals; the quantiles of windows.

A quantile over tokens is exact in its metric. How surely it is known depends on which windows its
tokens stand in: of each window the tokens are counted by their divergence.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qbench.core.binned_windows import BY_METRIC, BinnedWindows, edges_parted, kept_as, stored
from qbench.core.quantile import named_share, quantile_of_sorted
from qbench.core.record import MetricDefinition
from qbench.measures.loaded import make_metric

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.core.record import Metric
    from qbench.measures.quality.scoring import Scores
    from qbench.measures.quality.windows import Window

_QUANTILES = ("p10", "median", "p90")
_WORDS = {"p10": "easiest tenth", "p90": "hardest tenth"}
WINDOW_METRICS = tuple(
    MetricDefinition(
        name=f"window_perplexity.{name}",
        unit="1",
        better="lower",
        title=f"perplexity of a window, {name}",
        formula="quantile over the windows, linear interpolation, each counting once, of exp(sum of"
        " the negative log-likelihood of its scored tokens / their number)"
        + (f": the end of the {_WORDS[name]} of the text" if name in _WORDS else ""),
    )
    for name in _QUANTILES
)
_TOO_LARGE = "the loss of some windows is too large for a perplexity"


def window_metrics(losses: list[float], windows: list[Window]) -> tuple[Metric, ...]:
    """The quantiles of the perplexity of windows with these summed losses."""
    made = []
    pairs = list(zip(losses, windows, strict=True))
    try:
        found = sorted(math.exp(loss / window.scored) for loss, window in pairs)
    except OverflowError:
        found = []
    for one in WINDOW_METRICS:
        share = named_share(one.name)
        value = None if share is None or not found else quantile_of_sorted(found, share)
        known = value if value is not None and math.isfinite(value) else None
        made.append(make_metric(WINDOW_METRICS, one.name, known, reason=_TOO_LARGE))
    return tuple(made)


def tokens_by_window(
    scores: Scores, windows: list[Window], metrics: Iterable[Metric]
) -> dict[str, Any]:
    """The divergence of each window's tokens, counted; nothing without a reference.

    As a part of a record's details. `metrics` are those of the divergence: the quantiles among them
    part the bins.
    """
    if scores.token_kl is None:
        return {}
    import torch

    kept = BY_METRIC["kl"]
    quantiles = (one.value for one in metrics if kept_as(one.name) == kept)
    edges = edges_parted(one for one in quantiles if one is not None)
    bins = len(edges) + 1
    places = torch.bucketize(
        scores.token_kl.double().cpu(), torch.tensor(edges, dtype=torch.float64)
    )
    sizes = torch.tensor([window.scored for window in windows])
    rows = torch.repeat_interleave(torch.arange(len(windows)), sizes)
    counts = torch.bincount(rows * bins + places, minlength=len(windows) * bins)
    found = BinnedWindows(counts.reshape(len(windows), bins).numpy(), edges)
    return {kept: stored(found)}
