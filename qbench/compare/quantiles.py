"""Quantiles over tokens or windows: what a record keeps of them, and how surely they are known.

- `kl.p99` and the like are quantiles over tokens. Of each window the record has how many tokens lie
  in which bin of a logarithmic axis (`qbench.core.binned_windows`).
- `window_perplexity.p90` and the like are quantiles over windows, whose losses are kept one by one.

Whole windows are drawn, documents or items, as they are for means: see `qbench.compare.series`.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal

from qbench.compare.estimates.estimates import FEWEST_UNITS, Exact
from qbench.compare.estimates.quantiles import Binned, Listed, bootstrap_quantile, influence
from qbench.compare.series import ITEM_IDS, ITEM_WEIGHTS, SUMS_OF_LOSS, WEIGHTS, documents_of
from qbench.compare.series_estimates import Estimated
from qbench.core.binned_windows import EDGES, binned_windows, kept_as
from qbench.core.quantile import named_share
from qbench.core.unchecked import as_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from qbench.compare.estimates.bootstrap import Floats, Sampling
    from qbench.compare.estimates.quantiles import Spread
    from qbench.compare.series import Unit
    from qbench.core.record import Record

OF_WINDOWS = "window_perplexity"
"""What the names of quantiles over the windows' perplexities begin with."""
_BEYOND = 10 * EDGES[-1]
"""Where the last bin is taken to end."""
_NEAR = 1.34
"""Factor that a quantile read off bins may be from the recorded one: a little more than a bin."""
_KEPT = 256


@dataclass(frozen=True)
class Quantile:
    """A quantile that was recorded, and the values of the windows that it is of."""

    share: float
    value: float
    each: Literal["windows", "items"]
    """What has tokens: windows, which follow each other in a text, or items."""
    tokens: tuple[float, ...]
    """Scored tokens of each: two sides are paired where they are the same."""
    ids: tuple[str, ...] | None
    """Of items, where the record names them."""
    counts: bytes | None
    """Tokens by window and bin; None where `values` are the windows' own."""
    edges: tuple[float, ...]
    values: tuple[float, ...] | None
    documents: tuple[int, ...] | None
    """Of each window the number of its document; None where these are not drawn."""

    @property
    def unit(self) -> Unit:
        """What is drawn."""
        return self.each if self.documents is None else "documents"

    @property
    def units(self) -> int:
        """How many of them there are."""
        return len(self.tokens if self.documents is None else set(self.documents))

    @property
    def told(self) -> str:
        """What it is a quantile of."""
        return self.each if self.counts is None else "tokens"

    @cached_property
    def spread(self) -> Spread:
        """The values by what is drawn."""
        import numpy as np

        if self.counts is not None:
            counts = np.frombuffer(self.counts, np.int64).reshape(len(self.tokens), -1)
            edges = np.array((0.0, *self.edges, _BEYOND))
            found: Spread = Binned(counts.astype(np.float64), edges)
        else:
            found = Listed(np.array(self.values), np.arange(len(self.tokens)))
        if self.documents is None:
            return found
        _, numbers = np.unique(np.array(self.documents), return_inverse=True)
        return found.by_group(numbers)

    def of(self, times: Floats) -> Floats:
        """The quantile of resamples."""
        return self.spread.quantile(times, self.share)


def is_quantile(metric: str) -> bool:
    """Whether the metric is a quantile of what a record keeps by window."""
    return kept_as(metric) is not None or _is_of_windows(metric)


def keeps_quantile(record: Record, metric: str) -> bool:
    """Whether the record has the quantile and what its chance is told from."""
    value = record.value(metric)
    return value is not None and find_quantile(record, metric, value) is not None


def find_quantile(record: Record, metric: str, value: float) -> Quantile | None:
    """What the chance of a quantile can be told from; None where the record does not keep it."""
    each, tokens = _tokens(record)
    share = named_share(metric)
    if share is None or not is_quantile(metric) or not math.isfinite(value):
        return None
    if not tokens or min(tokens) <= 0:
        return None
    counts: bytes | None = None
    edges: tuple[float, ...] = ()
    values: tuple[float, ...] | None = None
    if _is_of_windows(metric):
        values = _perplexities(record.series.get(SUMS_OF_LOSS, ()), tokens)
        if values is None:
            return None
    else:
        held = binned_windows(record.details.get(kept_as(metric) or ""), len(tokens))
        if held is None or held.counts.sum(axis=1).tolist() != list(tokens):
            return None
        counts, edges = held.counts.tobytes(), held.edges
    ids, documents = None, None
    if each == "items":
        named = as_list(record.details.get(ITEM_IDS))
        ids = tuple(map(str, named)) if len(named) == len(tokens) else None
    else:
        documents = documents_of(record, len(tokens))
    found = Quantile(share, value, each, tokens, ids, counts, edges, values, documents)
    return found if _agrees(found) else None


def pair_quantiles(own: Quantile, base: Quantile) -> tuple[Quantile, Quantile] | None:
    """Both by the same windows, documents or items; None where they are not of the same ones."""
    alike = (own.each, own.tokens, own.ids) == (base.each, base.tokens, base.ids)
    if not alike or own.share != base.share:
        return None
    documents = own.documents or base.documents
    return replace(own, documents=documents), replace(base, documents=documents)


@lru_cache(maxsize=_KEPT)
def quantile_level(own: Quantile, sampling: Sampling) -> Estimated:
    """The quantile itself."""
    refused = _refused((own,))
    if refused is not None:
        return refused
    moved = influence(own.spread, own.share)
    ordered = own.each == "windows"
    estimate = bootstrap_quantile(own.of, own.value, moved, sampling, ordered=ordered)
    return Estimated(estimate, _method(own))


@lru_cache(maxsize=_KEPT)
def quantile_change(
    pairs: tuple[tuple[Quantile, Quantile], ...], *, relative: bool, sampling: Sampling
) -> Estimated:
    """How far the first of each pair is from the second, on the mean over the pairs.

    The pairs are of the same windows: one pair, or one of each seed. A relative change is the
    difference of logarithms.
    """
    sides = [side for pair in pairs for side in pair]
    first = sides[0]
    if all(_same(own, base) for own, base in pairs):
        told = f"the same in each of {first.units} {first.unit}"
        return Estimated(Exact(0.0), told)
    if relative and min(one.value for one in sides) <= 0:
        reason = "a relative change of what can be 0; state the margin as a number, without %"
        return Estimated(None, "none", reason)
    refused = _refused(sides)
    if refused is not None:
        return refused

    def figure(times: Floats) -> Floats:
        changes = (_apart(own.of(times), base.of(times), relative=relative) for own, base in pairs)
        return _mean(list(changes))

    def moved(one: Quantile) -> Floats:
        found = influence(one.spread, one.share)
        return found / one.value if relative else found

    value = statistics.fmean(change_of(own, base, relative=relative) for own, base in pairs)
    away = _mean([moved(own) - moved(base) for own, base in pairs])
    try:
        ordered = first.each == "windows"
        estimate = bootstrap_quantile(figure, value, away, sampling, ordered=ordered)
    except ValueError:
        return Estimated(None, "none", f"some resamples of the {first.unit} have no finite value")
    return Estimated(estimate, f"paired {_method(first)}")


def change_of(own: Quantile, base: Quantile, *, relative: bool) -> float:
    """How far two recorded quantiles are apart."""
    return math.log(own.value / base.value) if relative else own.value - base.value


def _tokens(record: Record) -> tuple[Literal["windows", "items"], tuple[float, ...]]:
    """What has tokens in a record, and how many each."""
    if WEIGHTS in record.series:
        return "windows", tuple(record.series[WEIGHTS])
    return "items", tuple(record.series.get(ITEM_WEIGHTS, ()))


def _is_of_windows(metric: str) -> bool:
    return metric.rpartition(".")[0] == OF_WINDOWS and named_share(metric) is not None


def _perplexities(losses: Sequence[float], tokens: Sequence[float]) -> tuple[float, ...] | None:
    if len(losses) != len(tokens):
        return None
    try:
        found = tuple(math.exp(loss / n) for loss, n in zip(losses, tokens, strict=True))
    except OverflowError:
        return None
    return found if all(map(math.isfinite, found)) else None


def _agrees(found: Quantile) -> bool:
    """Whether what is kept gives the recorded value, as nearly as it can.

    Where few lie beyond, the recorded value stands between two that may be bins apart; that they
    are few is then the reason why there is no chance.
    """
    import numpy as np

    if _beyond(found) < FEWEST_UNITS:
        return True
    made = float(found.of(np.ones((1, found.units)))[0])
    if found.counts is None:
        return math.isclose(made, found.value, rel_tol=1e-6)
    low, high = sorted((made, found.value))
    return high <= max(low * _NEAR, EDGES[0])


def _same(own: Quantile, base: Quantile) -> bool:
    sides = [(one.value, one.counts, one.edges, one.values) for one in (own, base)]
    return sides[0] == sides[1]


def _refused(sides: Sequence[Quantile]) -> Estimated | None:
    """Why there is no estimate: too few are drawn, or too few hold values beyond the quantile."""
    first = sides[0]
    if first.units < FEWEST_UNITS:
        return Estimated(None, "none", short_by=FEWEST_UNITS - first.units)
    beyond = min(_beyond(one) for one in sides)
    if beyond >= FEWEST_UNITS:
        return None
    remedy = "a longer text" if first.each == "windows" else "more of them"
    reason = (
        f"too few {first.unit} to decide by: {beyond} of {first.units} hold {first.told} beyond the"
        f" quantile, and {FEWEST_UNITS} must; take {remedy}"
    )
    return Estimated(None, "none", reason)


def _beyond(one: Quantile) -> int:
    """Windows or documents with values on the side of the quantile where there are fewer."""
    above = one.spread.above(one.share)
    return min(_count(above > 0), _count(above < one.spread.sizes))


def _count(found: np.ndarray) -> int:
    return int(found.sum())


def _apart(own: Floats, base: Floats, *, relative: bool) -> Floats:
    import numpy as np

    return np.log(own) - np.log(base) if relative else own - base


def _mean(parts: Sequence[Floats]) -> Floats:
    found: Floats = sum(parts[1:], start=parts[0]) / len(parts)
    return found


def _method(own: Quantile) -> str:
    return f"block bootstrap over {own.unit}" if own.each == "windows" else "bootstrap over items"
