"""A metric over the points of a line: its values, where they do not compare, what is shown."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from qbench.compare.comparable import find_gap
from qbench.compare.differences import level
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.items import TASKS
from qbench.compare.marks import default_allowance
from qbench.precisions.names import picks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.history.points import LineName, Place, Point
    from qbench.compare.marks import Allowance
    from qbench.core.record import Metric, Record

HEADLINES = (
    "memory.static",
    "memory.peak",
    "latency.prefill",
    "latency.decode",
    "latency.energy",
    "cold_start.first_token",
    "perplexity",
    "kl.mean",
    "decoded.kl.mean",
    "chat.kl.mean",
    "completion.loss",
)
"""What a person chooses by, as the main tables have it; of tasks all scores are."""


@dataclass(frozen=True)
class Dot:
    """A metric at a point."""

    point: Point
    metric: str
    """Its name."""
    value: float
    """The median of the repeats, as reports show it."""

    @property
    def place(self) -> Place:
        """When it was measured."""
        return self.point.place

    @cached_property
    def interval(self) -> Interval:
        """The interval, widened to the median that is shown where that lies outside."""
        good = [one for one in self.point.records if one.status == "ok"]
        sampling = Sampling()
        found = level(good, self.metric, sampling=sampling)
        low, high = found.ends(sampling.alpha / 2)
        if low is None or high is None:
            return Interval(None, None, found.reason)
        return Interval(min(low, self.value), max(high, self.value), None)


class Interval(NamedTuple):
    """The 95 % interval of a dot, as far as one run tells."""

    low: float | None
    high: float | None
    reason: str | None
    """Why there is none."""


@dataclass(frozen=True)
class Break:
    """Where a line begins anew, since what follows does not compare with what was before."""

    at: int
    """The first dot after it."""
    reason: str


@dataclass(frozen=True)
class MetricLine:
    """A metric of one item of one cell on one device over the history."""

    name: LineName
    device: str
    metric: Metric
    """As its newest record has it."""
    allowance: Allowance
    """What is small enough to be called the same."""
    dots: tuple[Dot, ...]
    breaks: tuple[Break, ...]

    @cached_property
    def stretches(self) -> tuple[range, ...]:
        """The dots between breaks, which compare."""
        ends = [0, *(one.at for one in self.breaks), len(self.dots)]
        return tuple(range(*pair) for pair in pairwise(ends))

    @cached_property
    def values(self) -> tuple[float, ...]:
        """Of its dots."""
        return tuple(dot.value for dot in self.dots)

    @property
    def is_relative(self) -> bool:
        """Whether its changes are counted as ratios, which its values allow."""
        return self.allowance.relative and min(self.values) > 0


def find_lines(
    measured: Mapping[LineName, Sequence[Point]],
    *,
    metrics: Sequence[str] = (),
    only: Sequence[str] = (),
    devices: Sequence[str] = (),
    everything: bool = False,
) -> list[MetricLine]:
    """The lines that were asked for, each with at least one value.

    `metrics` are names or patterns, with or without the measurement in front; without them they are
    `HEADLINES` and the scores of tasks, and all with `everything`. `only` picks cells, `devices`
    devices, by name or kind.
    """
    lines = []
    for name, points in picked(measured, only=only, devices=devices).items():
        device = points[-1].records[0].environment.device
        known = {
            metric.name: metric
            for point in points
            for one in point.records
            for metric in one.metrics
            if metric.value is not None
        }
        for metric in known.values():
            if everything or _is_asked(name, metric, metrics):
                made = _line(name, device, metric, points)
                if made is not None:
                    lines.append(made)
    return lines


def picked(
    measured: Mapping[LineName, Sequence[Point]],
    *,
    only: Sequence[str] = (),
    devices: Sequence[str] = (),
) -> dict[LineName, Sequence[Point]]:
    """The points of the cells and devices that were asked for."""
    found = {}
    for name, points in measured.items():
        record = points[-1].records[0]
        told = (name.device_kind, record.environment.device)
        if devices and not any(fnmatchcase(one, each) for each in devices for one in told):
            continue
        if only and not any(picks(pattern, record.cell.names) for pattern in only):
            continue
        found[name] = points
    return found


def _is_asked(name: LineName, metric: Metric, metrics: Sequence[str]) -> bool:
    if metrics:
        called = (metric.name, f"{name.measurement}.{metric.name}")
        return any(
            fnmatchcase(told, one)
            for pattern in metrics
            for one in (pattern, f"{pattern}.mean")
            for told in called
        )
    scores = name.measurement in TASKS and metric.better != "neither"
    return metric.name in HEADLINES or scores


def _line(
    name: LineName, device: str, metric: Metric, points: Sequence[Point]
) -> MetricLine | None:
    dots = [
        Dot(point, metric.name, value)
        for point in points
        if (value := _value(point.records, metric.name)) is not None
    ]
    if not dots:
        return None
    breaks = []
    for at in range(1, len(dots)):
        new, old = dots[at].point.records, dots[at - 1].point.records
        gap = find_gap(new, old, metric.name)
        if gap is not None:
            breaks.append(Break(at, gap.reason))
    allowance = default_allowance(metric, name.measurement)
    return MetricLine(name, device, metric, allowance, tuple(dots), tuple(breaks))


def _value(records: Sequence[Record], metric: str) -> float | None:
    values = [one.value(metric) for one in records if one.status == "ok"]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.median(finite) if finite else None
