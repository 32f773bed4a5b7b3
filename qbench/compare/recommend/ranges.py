"""What is known of each quantity of a cell: its figure, the ends of its interval, or why not.

A quality is a change from the reference, paired as everywhere; a cost is the figure itself.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from qbench.compare.comparable import Gap, missing_value
from qbench.compare.differences import level
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.marks import one_change
from qbench.compare.price import devices_of
from qbench.compare.speed import why_not_served

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.differences import Difference
    from qbench.compare.recommend.axis import Axis
    from qbench.compare.selection import CellRecords
    from qbench.core.record import Record

ALPHA = Sampling().alpha
"""Intervals are (1 - alpha) ones."""


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
    unlike_served: str | None = None
    """Of a time: why it is not that of its format as it is served."""
    found: Difference | None = field(default=None, compare=False, repr=False)
    """The estimate behind it, for how much more data would decide."""


def range_of(axis: Axis, cell: CellRecords, reference: CellRecords | None) -> Range:
    """What the records say of one quantity of a cell."""
    mine = cell.of(axis.measurement, axis.item)
    lacking = why_not(mine, axis.metric) or _faulty_reference(axis, reference)
    if axis.kind == "quality" and cell.reference and any(one.status == "ok" for one in mine):
        return Range(0.0, 0.0, 0.0)  # by definition; of its divergence there is no figure
    if lacking:
        return Range(None, _outgrown(axis, mine), None, lacking)
    if not axis.of_change:
        factor, unknown = factor_of(axis, mine)
        if unknown:
            return Range(None, None, None, unknown)
        known = _of_level(axis, mine, 1.0 if axis.inverse else factor)
        known = _inverted(known, factor) if axis.inverse else known
        return replace(known, unlike_served=why_not_served(mine, axis.metric))
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


def _inverted(known: Range, factor: float) -> Range:
    """The factor over a rate: what took more of it a second cost less."""

    def over(value: float | None) -> float | None:
        return factor / value if value else None

    return replace(known, value=over(known.value), low=over(known.high), high=over(known.low))


def factor_of(axis: Axis, records: Sequence[Record]) -> tuple[float, str | None]:
    """What the metric of these records is multiplied by, or why that is not known."""
    if axis.unknown is not None:
        return 0.0, axis.unknown
    if not axis.by_devices:
        return axis.factor, None
    devices, reason = devices_of(records)
    return axis.factor * (devices or 0), reason or None


def _of_level(axis: Axis, mine: Sequence[Record], factor: float) -> Range:
    found = level(mine, axis.metric, sampling=Sampling())
    value = found.new
    if found.unit == "processes":  # as the tables have it
        value = statistics.median(
            value
            for one in mine
            if one.status == "ok" and (value := one.value(axis.metric)) is not None
        )
    return estimated(found, value, factor)


def estimated(found: Difference, value: float | None, factor: float = 1.0) -> Range:
    """An estimate as a range, about `value` where that is given, all of it times the factor."""
    if value is None and found.estimate is not None:
        value = found.plain
    scaled = None if value is None else factor * value
    low, high = found.ends(ALPHA / 2)
    if low is None or high is None or value is None:
        return Range(scaled, None, None, found.reason, found=found)
    # A median of processes may lie outside the interval of their mean.
    ends = min(low, value), max(high, value)
    return Range(scaled, factor * ends[0], factor * ends[1], found=found)


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
