"""What a metric is computed from, window by window or item by item: what pairing needs.

A metric whose series is not listed here, or whose series does not give the recorded value, has no
known chance error and is never decided upon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from qbench.compare.estimates.estimates import FEWEST_UNITS
from qbench.core.unchecked import as_list, as_mapping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.estimates.bootstrap import Floats
    from qbench.core.record import Record

Link = Literal["mean", "exp", "root"]
Unit = Literal["windows", "documents", "items", "groups", "processes"]
WEIGHTS = "window_tokens"
SUMS_OF_LOSS = "window_nll"
DOCUMENTS = "window_document"
"""The series with the number of the document that most of each window's tokens are of."""
ITEM_WEIGHTS = "item_tokens"


class Paired(NamedTuple):
    """The series that a metric is computed from."""

    series: str
    link: Link = "mean"
    """The metric is the mean of the series a token, its exponential or its square root."""
    weights: str = WEIGHTS
    """The series with the tokens of each window or item."""
    counts: bool = False
    """Whether the series counts tokens that are so or not."""


PAIRED_SERIES = {
    "perplexity": Paired(SUMS_OF_LOSS, "exp"),
    "bits_per_byte": Paired(SUMS_OF_LOSS),
    "kl.mean": Paired("window_kl_sum"),
    "top1_agreement": Paired("window_same_top", counts=True),
    "rms_probability_change": Paired("window_squared_change", "root"),
    "kl.reverse": Paired("window_reverse_kl_sum"),
    "probability_change.mean": Paired("window_change"),
    "decoded.perplexity": Paired(SUMS_OF_LOSS, "exp"),
    "decoded.kl.mean": Paired("window_kl_sum"),
    "decoded.top1_agreement": Paired("window_same_top", counts=True),
    "decoded.rms_probability_change": Paired("window_squared_change", "root"),
    "decoded.kl.reverse": Paired("window_reverse_kl_sum"),
    "decoded.probability_change.mean": Paired("window_change"),
    "sensitivity.kl.mean": Paired("window_kl_sum"),
    "sensitivity.top1_agreement": Paired("window_same_top", counts=True),
    "needle.loss": Paired("item_nll", weights=ITEM_WEIGHTS),
    "chat.perplexity": Paired("item_nll", "exp", ITEM_WEIGHTS),
    "chat.kl.mean": Paired("item_kl_sum", weights=ITEM_WEIGHTS),
    "chat.top1_agreement": Paired("item_same_top", weights=ITEM_WEIGHTS, counts=True),
    "chat.rms_probability_change": Paired("item_squared_change", "root", ITEM_WEIGHTS),
    "chat.kl.reverse": Paired("item_reverse_kl_sum", weights=ITEM_WEIGHTS),
    "chat.probability_change.mean": Paired("item_change", weights=ITEM_WEIGHTS),
    "completion.loss": Paired("item_nll", weights=ITEM_WEIGHTS),
    "completion.perplexity": Paired("item_nll", "exp", ITEM_WEIGHTS),
}
"""By metric, the series by window or item whose sum over that of the tokens it comes from.

Bits per byte is that mean in another unit, a factor that is the same in both of a pair.
"""
_LARGEST = 1e60
CLUSTERS = "clusters"
"""Key of a record's details with the number of the cluster that each item belongs to, if any do."""
ITEM_IDS = "item_ids"
"""Key of a record's details with the ids of its items, in the order of its `item_…` series."""
ITEMS_OF = "items_of"
"""Key of a record's details with the places of the items that a score's series is of, by the score,
where not all items count under it."""


@dataclass(frozen=True)
class Series:
    """A metric's values by unit, and how the metric comes from them."""

    sums: tuple[float, ...]
    weights: tuple[float, ...]
    link: Link
    factor: float
    """From the mean to the metric's own unit."""
    unit: Unit
    ids: tuple[str, ...] | None = None
    scores: bool = False
    """Whether its values are scores, which can come out alike by chance: right or wrong, counts,
    shares of words. Losses and divergences are the same to the last bit only if the model is."""
    clusters: tuple[int, ...] | None = None
    """By item, the number of the cluster that it shares something with the others of, such as a
    passage; by window, that of its document. None where each stands by itself."""

    @property
    def span(self) -> float:
        """How far one of its values a token can be from another, as far as they show: from 0."""
        pairs = zip(self.sums, self.weights, strict=True)
        values = [own / weight for own, weight in pairs if weight]
        return max(1.0, *values) - min(0.0, *values)

    @property
    def of_text(self) -> bool:
        """Whether its units follow each other in a text, and their weights are tokens."""
        return self.unit in ("windows", "documents")

    @property
    def binary(self) -> bool:
        """Whether every item is either right or wrong."""
        return self.unit == "items" and set(self.weights) <= {1.0} and set(self.sums) <= {0.0, 1.0}

    def figure(self, mean: Floats) -> Floats:
        """The metric from the mean, in its own unit."""
        import numpy as np

        if self.link == "exp":
            return np.exp(mean)
        return self.factor * (np.sqrt(mean) if self.link == "root" else mean)

    def logarithm(self, mean: Floats) -> Floats:
        """The logarithm of the metric from the mean, less a constant."""
        import numpy as np

        if self.link == "exp":
            return mean
        return np.log(mean) * (0.5 if self.link == "root" else 1.0)


def find_series(record: Record, metric: str, value: float) -> Series | None:
    """What the metric can be recomputed from; None where nothing gives the recorded value."""
    paired = PAIRED_SERIES.get(metric)
    ids = record.details.get(ITEM_IDS)
    named = tuple(str(one) for one in ids) if isinstance(ids, list | tuple) else None
    if paired is not None:
        sums, weights = record.series.get(paired.series), record.series.get(paired.weights)
        if not sums or not weights or len(sums) != len(weights) or absurd(sums, weights):
            return None
        if not (min(weights) >= 0 and 1 / _LARGEST < sum(weights) < math.inf):
            return None
        unit: Unit = "windows" if paired.weights == WEIGHTS else "items"
        documents = None
        if unit == "windows":
            named, documents = None, documents_of(record, len(sums))
        elif named is not None and len(named) != len(sums):
            return None
        mean = math.fsum(sums) / math.fsum(weights)
        factor = 1.0
        if metric == "bits_per_byte" and mean:
            factor = value / mean
        made = Series(
            tuple(sums),
            tuple(weights),
            paired.link,
            factor,
            unit,
            named,
            scores=paired.counts,
            clusters=documents,
        )
        return made if _agrees(made, mean, value) else None
    return _of_items(record, metric, value, named)


def _of_items(
    record: Record, metric: str, value: float, named: tuple[str, ...] | None
) -> Series | None:
    """The same of a score by item, which may be of some of the named items alone."""
    own = as_list(record.details.get(CLUSTERS))
    places = _places(record, metric)
    if places is not None and named is not None:
        if not all(0 <= at < len(named) for at in places):
            return None
        own = [own[at] for at in places] if len(own) == len(named) else []
        named = tuple(named[at] for at in places)
    for name in (f"item_{metric.rpartition('.')[2]}", "item_correct"):
        scores = record.series.get(name)
        if not scores or absurd(scores) or (named is not None and len(named) != len(scores)):
            continue
        ones = (1.0,) * len(scores)
        known = len(own) == len(scores) and all(isinstance(one, int) for one in own)
        clusters = tuple(own) if known else None
        made = Series(
            tuple(scores), ones, "mean", 1.0, "items", named, scores=True, clusters=clusters
        )
        if _agrees(made, math.fsum(scores) / len(scores), value):
            return made
    return None


def _places(record: Record, metric: str) -> list[int] | None:
    """The places of the items that count under a score; None where all do."""
    of = as_mapping(record.details.get(ITEMS_OF))
    places = as_list(of.get(metric.rpartition(".")[2])) or None
    return places if places and all(isinstance(one, int) for one in places) else None


def documents_of(record: Record, windows: int) -> tuple[int, ...] | None:
    """By window, the number of its document, where documents are what is drawn; else None.

    They are where a record knows them, some hold several windows, and they are enough for a
    bootstrap. Where each window is a document of its own, documents are drawn as windows are.
    """
    found = record.series.get(DOCUMENTS, [])
    if len(found) != windows or not all(float(one).is_integer() for one in found):
        return None
    return tuple(map(int, found)) if FEWEST_UNITS <= len(set(found)) < windows else None


def absurd(*columns: Sequence[float]) -> bool:
    """Whether their squares would be 0 or infinite: no loss, score or count of tokens is such."""
    sizes = [abs(one) for values in columns for one in values]
    return any(_LARGEST < one < math.inf or 0 < one < 1 / _LARGEST for one in sizes)


def _agrees(series: Series, mean: float, value: float) -> bool:
    """Whether the series gives the recorded value, however it was summed."""
    import numpy as np

    if not math.isfinite(mean):
        return True  # told as such when the pairs are looked at
    with np.errstate(over="ignore", invalid="ignore"):
        made = float(series.figure(np.array([mean]))[0])
    return math.isclose(made, value, rel_tol=1e-6, abs_tol=1e-12)


def align(own: Series, base: Series) -> Series | None:
    """`base` in the order of `own`; None where they are not the same units."""
    if own.unit != base.unit or own.link != base.link or len(own.sums) != len(base.sums):
        return None
    if own.ids == base.ids or own.ids is None or base.ids is None:
        return base
    place = {name: index for index, name in enumerate(base.ids)}
    if set(place) != set(own.ids) or len(place) != len(base.ids):
        return None
    order = [place[name] for name in own.ids]
    return replace(
        base,
        sums=tuple(base.sums[index] for index in order),
        weights=tuple(base.weights[index] for index in order),
        ids=own.ids,
        clusters=base.clusters and tuple(base.clusters[index] for index in order),
    )


def grouped(series: Series) -> Series:
    """The series by cluster where there are any: their sums, and those of the weights.

    Clusters stay in the order of what is in them, so that documents follow each other.
    """
    if series.clusters is None:
        return series
    sums: dict[int, float] = {}
    weights: dict[int, float] = {}
    for cluster, one, weight in zip(series.clusters, series.sums, series.weights, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + one
        weights[cluster] = weights.get(cluster, 0.0) + weight
    ids = tuple(str(cluster) for cluster in sums)
    return replace(
        series,
        sums=tuple(sums.values()),
        weights=tuple(weights.values()),
        unit="documents" if series.unit == "windows" else "groups",
        ids=ids,
        clusters=None,
    )


def pair_up(own: Series, base: Series) -> tuple[Series, Series] | None:
    """Both by window, item or cluster, in one order; None where they are not the same ones.

    The clusters are those of either side that knows them.
    """
    base_aligned = align(own, base)
    if base_aligned is None or own.weights != base_aligned.weights:
        return None
    clusters = own.clusters or base_aligned.clusters
    mine, theirs = (grouped(replace(one, clusters=clusters)) for one in (own, base_aligned))
    return mine, theirs
