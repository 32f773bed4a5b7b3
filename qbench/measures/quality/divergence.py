"""Metrics of a cell's divergence from the reference, from the scores of one pass."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qbench.core.log_bins import EDGES, stored
from qbench.core.quantile import quantile_of_sorted
from qbench.core.record import Metric, MetricDefinition
from qbench.measures.loaded import make_metric

if TYPE_CHECKING:
    from qbench.measures.quality.scoring import Scores

_QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
_IN_LLAMA_CPP = {"median": "median", "p90": "90 %", "p99": "99 %", "p99_9": "99.9 %"}
_CHANGE = "probability_change"
_CHANGE_QUANTILES = {
    "min": 0.0,
    "p0_1": 0.001,
    "p1": 0.01,
    "p5": 0.05,
    "p10": 0.1,
    "p25": 0.25,
    "median": 0.5,
    "p75": 0.75,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p99_9": 0.999,
    "max": 1.0,
}
_CHANGE_WORDS = {"min": "largest fall", "max": "largest rise"}
_CHANGE_IN_LLAMA_CPP = {"min": "minimum", "median": "median", "max": "maximum"}
_INFINITE = (
    "infinite at {count} of {windows} windows: there the reference gives no probability at all to a"
    " token that the cell gives one"
)

DIVERGENCE_METRICS = (
    MetricDefinition(
        name="kl.mean",
        unit="nat",
        better="lower",
        title="KL divergence from the reference",
        formula="mean over the scored tokens of sum p (log p - log q), p the reference's and q the"
        " cell's distribution of the next token (Kullback and Leibler 1951)",
        also_called=("KLD", "mean KLD"),
    ),
    *(
        MetricDefinition(
            name=f"kl.{name}",
            unit="nat",
            better="lower",
            title=f"KL divergence, {name.replace('_', '.')}",
            formula="quantile over the scored tokens, linear interpolation",
            also_called=(f"{_IN_LLAMA_CPP[name]} KLD",),
        )
        for name in _QUANTILES
    ),
    MetricDefinition(
        name="kl.max",
        unit="nat",
        better="lower",
        title="KL divergence, largest",
        formula="largest over the scored tokens",
        also_called=("maximum KLD",),
    ),
    MetricDefinition(
        name="kl.rounding",
        unit="nat",
        better="neither",
        title="KL of rounding alone",
        formula="of the cell and of the reference, added: half the mean KL of the model against"
        " itself under another attention kernel, in its own type, on the first windows. Two runs"
        " differ by the rounding of both, so half of it is what a divergence contains of one: it"
        " stands below kl.mean, and a kl.mean not well above it is noise, not damage",
    ),
    MetricDefinition(
        name="top1_agreement",
        unit="1",
        better="higher",
        title="same most likely token",
        formula="share of scored tokens for which cell and reference put the same token first, the"
        " lowest id of tied ones, as greedy decoding does",
        also_called=("same top p",),
    ),
    MetricDefinition(
        name="rms_probability_change",
        unit="1",
        better="lower",
        title="RMS change of the true token's probability",
        formula="square root of the mean over the scored tokens of (q(true) - p(true)) squared",
        also_called=("RMS Δp",),
    ),
    MetricDefinition(
        name="kl.reverse",
        unit="nat",
        better="lower",
        title="KL divergence of the reference from the cell",
        formula="mean over the scored tokens of sum q (log q - log p), p the reference's and q the"
        " cell's distribution: large where the cell finds likely what the reference does not,"
        " where kl.mean is large for what the cell has lost",
        also_called=("reverse KLD",),
    ),
    MetricDefinition(
        name=f"{_CHANGE}.mean",
        unit="1",
        better="higher",
        title="change of the true token's probability",
        formula="mean over the scored tokens of q(true) - p(true), with its sign: below 0 where the"
        " cell finds the text less likely than the reference does",
        also_called=("mean Δp",),
    ),
    *(
        MetricDefinition(
            name=f"{_CHANGE}.{name}",
            unit="1",
            better="neither",
            title="change of the true token's probability, "
            + _CHANGE_WORDS.get(name, name.replace("_", ".")),
            formula="quantile over the scored tokens of q(true) - p(true), linear interpolation",
            also_called=(
                f"{_CHANGE_IN_LLAMA_CPP.get(name, name[1:].replace('_', '.') + ' %')} Δp",
            ),
        )
        for name in _CHANGE_QUANTILES
    ),
)


def named_after(prefix: str, words: str) -> tuple[MetricDefinition, ...]:
    """The same metrics under names that begin with `prefix`, of the tokens that `words` tell."""
    return tuple(
        one.model_copy(
            update={
                "name": f"{prefix}{one.name}",
                "title": f"{one.title}, {words}",
                "also_called": (),
            }
        )
        for one in DIVERGENCE_METRICS
    )


def divergence_metrics(
    scores: Scores,
    tokens: int,
    rounding: tuple[float | None, str | None],
    unknown: str | None,
    definitions: tuple[MetricDefinition, ...] = DIVERGENCE_METRICS,
    prefix: str = "",
) -> tuple[Metric, ...]:
    """All metrics of divergence over `tokens` scored tokens; `unknown` says why there are none.

    `definitions` are those of `named_after(prefix, …)`, where the metrics are called so.
    """
    values: dict[str, float | None] = dict.fromkeys(
        definition.name for definition in DIVERGENCE_METRICS
    )
    if scores.token_kl is not None and scores.token_change is not None:
        token_kl = scores.token_kl.sort().values
        changes = scores.token_change.sort().values
        reverse = math.fsum(scores.reverse_kl) / tokens
        values = {
            "kl.mean": math.fsum(scores.kl) / tokens,
            **{
                f"kl.{name}": quantile_of_sorted(token_kl, share)
                for name, share in _QUANTILES.items()
            },
            "kl.max": float(token_kl[-1]),
            "kl.rounding": None,
            "top1_agreement": math.fsum(scores.same_top) / tokens,
            "rms_probability_change": math.sqrt(math.fsum(scores.squared_change) / tokens),
            "kl.reverse": reverse if math.isfinite(reverse) else None,
            f"{_CHANGE}.mean": math.fsum(scores.change) / tokens,
            **{
                f"{_CHANGE}.{name}": quantile_of_sorted(changes, share)
                for name, share in _CHANGE_QUANTILES.items()
            },
        }
    values["kl.rounding"] = rounding[0]
    infinite = sum(not math.isfinite(one) for one in scores.reverse_kl)
    reasons = {"kl.rounding": rounding[1]}
    if infinite:
        told = _INFINITE.format(count=infinite, windows=len(scores.reverse_kl))
        reasons["kl.reverse"] = told
    return tuple(
        make_metric(definitions, f"{prefix}{name}", value, reason=reasons.get(name, unknown))
        for name, value in values.items()
    )


def divergence_histogram(scores: Scores) -> dict[str, Any]:
    """The divergence of the tokens, counted on a logarithmic axis; nothing without a reference."""
    if scores.token_kl is None:
        return {}
    import torch

    edges = torch.tensor(EDGES, dtype=torch.float64)
    places = torch.bucketize(scores.token_kl.double().cpu(), edges, right=True)
    counts = torch.bincount(places, minlength=len(EDGES) + 1).tolist()
    return {"kl_histogram": stored(counts)}


def divergence_series(scores: Scores, unit: str = "window") -> dict[str, list[float]]:
    """Sums by window, for paired comparisons; nothing without a reference.

    `unit` begins their names: what a window is.
    """
    if not scores.kl:
        return {}
    finite = all(map(math.isfinite, scores.reverse_kl))
    return {
        f"{unit}_kl_sum": scores.kl,
        f"{unit}_same_top": scores.same_top,
        f"{unit}_squared_change": scores.squared_change,
        **({f"{unit}_reverse_kl_sum": scores.reverse_kl} if finite else {}),
        f"{unit}_change": scores.change,
    }
