"""The quantities that a cell is chosen by: what each is, and what is known of it.

A quality is a change from the reference, paired as everywhere; a cost is the figure itself.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from qbench.compare.comparable import Gap, missing_value
from qbench.compare.differences import level
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.items import describe_point, first_point, items, text_titles
from qbench.compare.marks import one_change

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.differences import Difference
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.record import Record
    from qbench.core.units import Display

ALPHA = Sampling().alpha
"""Intervals are (1 - alpha) ones."""
_MILLION, _HOUR_S = 1e6, 3600.0
_NOWHERE = ""
"""No item has this slug."""


@dataclass(frozen=True)
class Range:
    """What is known of one quantity of one cell."""

    value: float | None
    low: float | None
    """Ends of the 95 % interval, which are the value itself where it is exact; None where that end
    is not known."""
    high: float | None
    reason: str | None = None
    """Why something of it is not known."""
    found: Difference | None = field(default=None, compare=False, repr=False)
    """The estimate behind it, for how much more data would decide."""


@dataclass(frozen=True)
class Axis:
    """A quantity to choose by."""

    key: str
    """Such as `bytes`, `decode`, `perplexity:<text>`, `kl:<text>`, `tasks.<task>.<metric>`."""
    title: str
    """With the point of the grid, the text or the task that it is of."""
    short: str
    """A few words: without what is alike for all, the point or the only text."""
    display: Display
    unit: str
    """`B`, `s`, `J`, `1` for a share or a score, `nat`, `per 1M tokens` for a price."""
    better: Literal["lower", "higher"]
    kind: Literal["quality", "cost"]
    measurement: str
    item: str | None
    """Slug of the item that it is read from; None where the measurement has only one, or none."""
    metric: str
    of_change: bool = False
    """Whether it is the change from the reference."""
    factor: float = 1.0
    """What the metric is multiplied by."""


def cost_axes_of(
    cells: Sequence[CellRecords], *, price: float | None = None, batch: int | None = None
) -> list[Axis]:
    """Bytes, peak, times, energy and, where an hour has a price, that of a million tokens.

    Times and peaks are read at one point of their grids: of `batch` where it is given, else that of
    the decision table.
    """
    memory = first_point(cells, "memory", batch=batch)
    latency = first_point(cells, "latency", batch=batch)
    there, here = _at(memory), _at(latency)
    slug = memory.item.slug if memory else _NOWHERE
    on_gpu = memory is not None and memory.environment.device_type == "cuda"
    peak = "memory.peak" if on_gpu else "memory.peak.inference"
    found = [
        _cost(
            "bytes",
            "static bytes",
            "static bytes",
            "bytes",
            "B",
            "footprint",
            None,
            "memory.static",
        ),
        _cost("peak", f"peak of inference{there}", "peak", "bytes", "B", "memory", slug, peak),
    ]
    slug = latency.item.slug if latency else _NOWHERE
    found += [
        _cost(step, f"{words}{here}", step, "seconds", "s", "latency", slug, f"latency.{step}")
        for step, words in (("prefill", "prefill"), ("decode", "decode a token"))
    ]
    found.append(
        _cost(
            "energy",
            f"energy a token{here}",
            "energy/token",
            "number",
            "J",
            "latency",
            slug,
            "latency.energy",
        )
    )
    if price is not None:
        size = latency.item.params.get("batch") if latency else None
        made = size if isinstance(size, int) and size > 0 else 1
        factor = price * _MILLION / _HOUR_S / made
        title = f"price of a million generated tokens{here}"
        unit = "per 1M tokens"
        found.append(
            _cost(
                "price",
                title,
                "price/1M tokens",
                "number",
                unit,
                "latency",
                slug,
                "latency.decode",
                factor,
            )
        )
    return found


def quality_axes(records: TableRecords) -> list[Axis]:
    """Perplexity and divergence of each text, and each score of each task."""
    titles = text_titles(items(records, "quality"))
    found: list[Axis] = []
    for slug, name in titles.items():
        on = f" on {name}"
        short = on if len(titles) > 1 else ""
        found += [
            Axis(
                f"perplexity:{slug}",
                f"perplexity{on}",
                f"perplexity{short}",
                "change",
                "1",
                "lower",
                "quality",
                "quality",
                slug,
                "perplexity",
                of_change=True,
            ),
            Axis(
                f"kl:{slug}",
                f"KL{on}",
                f"KL{short}",
                "number",
                "nat",
                "lower",
                "quality",
                "quality",
                slug,
                "kl.mean",
            ),
        ]
    return [*found, *_task_axes(records)]


def range_of(axis: Axis, cell: CellRecords, reference: CellRecords | None) -> Range:
    """What the records say of one quantity of a cell."""
    mine = cell.of(axis.measurement, axis.item)
    lacking = why_not(mine, axis.metric) or _faulty_reference(axis, reference)
    if axis.kind == "quality" and cell.reference and any(one.status == "ok" for one in mine):
        return Range(0.0, 0.0, 0.0)  # by definition; of its divergence there is no figure
    if lacking:
        return Range(None, _outgrown(axis, mine), None, lacking)
    if not axis.of_change:
        return _of_level(axis, mine)
    found = _paired(axis, mine, reference)
    if isinstance(found, Gap):
        return Range(None, None, None, found.reason)
    return estimated(found, found.plain)


def _faulty_reference(axis: Axis, reference: CellRecords | None) -> str | None:
    """Why nothing can be held against the reference; None where it can."""
    if axis.kind == "quality" and reference is not None and reference.faulty:
        return f"the reference {reference.label} has layers that do not compute what they hold"
    return None


def _paired(axis: Axis, mine: Sequence[Record], reference: CellRecords | None) -> Difference | Gap:
    if reference is None:
        return Gap("missing", "there is no record of the reference to compare it with")
    theirs = reference.of(axis.measurement, axis.item)
    lacking = why_not(theirs, axis.metric)
    if lacking:
        return Gap("missing", f"the reference {reference.label}: {lacking}")
    return one_change(mine, theirs, axis.metric, Sampling(), same_run=True)


def _of_level(axis: Axis, mine: Sequence[Record]) -> Range:
    found = level(mine, axis.metric, sampling=Sampling())
    value = found.new
    if found.unit == "processes":  # as the tables have it
        value = statistics.median(
            value
            for one in mine
            if one.status == "ok" and (value := one.value(axis.metric)) is not None
        )
    return estimated(found, value, axis.factor)


def estimated(found: Difference, value: float | None, factor: float = 1.0) -> Range:
    """An estimate as a range, about `value` where that is given, all of it times the factor."""
    if value is None and found.estimate is not None:
        value = found.plain
    scaled = None if value is None else factor * value
    low, high = found.ends(ALPHA / 2)
    if low is None or high is None or value is None:
        return Range(scaled, None, None, found.reason, found)
    # A median of processes may lie outside the interval of their mean.
    ends = min(low, value), max(high, value)
    return Range(scaled, factor * ends[0], factor * ends[1], None, found)


def why_not(records: Sequence[Record], metric: str) -> str | None:
    """Why there is no value; None where there is one."""
    if not records:
        return "not measured"
    gap = missing_value(records, metric, "it")
    return None if gap is None else gap.reason.removeprefix("it: ")


def _outgrown(axis: Axis, records: Sequence[Record]) -> float | None:
    """What a peak that a GPU had no room for is above: the GPU's memory."""
    memory = [
        one.environment.device_memory_bytes
        for one in records
        if one.status == "oom" and one.environment.device_type == "cuda"
    ]
    known = [size for size in memory if size is not None]
    return float(max(known) + 1) if axis.key == "peak" and known else None


def _at(point: Record | None) -> str:
    return f" at {describe_point(point)}" if point else ""


def _cost(
    key: str,
    title: str,
    short: str,
    display: Display,
    unit: str,
    measurement: str,
    item: str | None,
    metric: str,
    factor: float = 1.0,
) -> Axis:
    return Axis(
        key,
        title,
        short,
        display,
        unit,
        "lower",
        "cost",
        measurement,
        item,
        metric,
        factor=factor,
    )


def _task_axes(records: TableRecords) -> list[Axis]:
    found: dict[str, Axis] = {}
    for slug in items(records, "tasks"):
        scored = (
            metric
            for cell in records.cells
            for record in cell.of("tasks", slug)
            for metric in record.metrics
        )
        for metric in scored:
            if metric.better == "neither" or metric.name in found:
                continue
            title = f"{slug} {metric.name.rpartition('.')[2]}"
            found[metric.name] = Axis(
                metric.name,
                title,
                title,
                "number",
                "1",
                metric.better,
                "quality",
                "tasks",
                slug,
                metric.name,
                of_change=True,
            )
    return list(found.values())
