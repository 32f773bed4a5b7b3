"""What a gate can find with the items there are: for `plan`, before anything is measured anew.

The spread of a change that has not happened yet is not known. The spread between a cell and its
reference stands in for it: a regression moves the windows about as unevenly as a quantization does,
so that a mere rerun is found equal with far fewer items than this says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.comparable import Gap
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.estimates.estimates import Exact
from qbench.compare.estimates.power import POWER, detectable_change, units_to_find
from qbench.compare.gate.sides import BothSides, find_change
from qbench.compare.verdicts import amount_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.compare import CellName, ItemName
    from qbench.compare.differences import Difference
    from qbench.compare.estimates.estimates import Estimate
    from qbench.compare.gate.rules import GateRule
    from qbench.core.record import Record


@dataclass(frozen=True)
class Power:
    """What one rule can find in one metric of one item of one cell."""

    rule: GateRule
    cell: CellName
    item: ItemName
    metric: str
    detectable: float | None
    """The change found with 80 % chance, beyond the margin; None where it is not known."""
    relative: bool
    units: int
    unit: str | None
    needed: int | None
    """Units for which the margin itself could be found; None where it is not known."""
    reason: str | None = None
    """Why nothing is known."""

    def __str__(self) -> str:
        place = f"{self.cell.label}: {self.metric} on {self.item.slug}"
        if self.detectable is None:
            return f"{place}: {self.reason}"
        if self.unit is None:
            return f"{place}: exact, any change beyond the margin is found"
        if math.isinf(self.detectable):
            return f"{place}: finds no change at all with {self.units:,} {self.unit}" + self._more
        change = amount_text(self.detectable, relative=self.relative, signed=False)
        text = f"{place}: finds {change} with {100 * POWER:g} % chance ({self.units:,} {self.unit})"
        return text + self._more

    @property
    def _more(self) -> str:
        if self.needed is None or self.needed <= self.units:
            return ""
        return f"; the margin itself would take about {self.needed:,} {self.unit}"


def gate_power(
    rules: Sequence[GateRule],
    records: Sequence[Record],
    *,
    sampling: Sampling | None = None,
) -> list[Power]:
    """What each rule can find, judged by records of an earlier run or of the baseline.

    `records` are the newest of one suite and device. Empty where there are none yet.
    """
    sampling = sampling or Sampling()
    sides = BothSides(records, (), (), ())
    found = []
    for rule in rules:
        amount = rule.bound[1]
        # Whatever the rule is against: the reference is what the spread is known against.
        counted = rule.counted_from is not None
        stated = rule.model_copy(update={"against": "reference"}) if counted else rule
        for place, metric in sides.asked(rule):
            seen = find_change(stated, sides, place, metric.name, sampling)
            if seen is not None:
                detectable, units, unit, needed, reason = _estimated(seen, amount.value, sampling)
                found.append(
                    Power(
                        rule,
                        *place,
                        metric.name,
                        detectable,
                        amount.relative,
                        units,
                        unit,
                        needed,
                        reason,
                    )
                )
    return found


def _estimated(
    seen: Difference | Gap, margin: float, sampling: Sampling
) -> tuple[float | None, int, str | None, int | None, str | None]:
    if isinstance(seen, Gap):
        return None, 0, None, None, seen.reason
    if seen.estimate is None:
        return None, seen.units, seen.unit, None, seen.reason
    if isinstance(seen.estimate, Exact):
        reason = None if seen.unit is None else f"{seen.method}, so that no spread is known"
        return 0.0 if reason is None else None, seen.units, seen.unit, None, reason
    change = detectable_change(seen.estimate, alpha=sampling.alpha)
    distance = abs(seen.bound(margin)) if seen.old is not None else _distance(seen.estimate, margin)
    needed = units_to_find(seen.estimate, seen.units, distance, alpha=sampling.alpha)
    return seen.shown(change), seen.units, seen.unit, needed, None


def _distance(estimate: Estimate, margin: float) -> float:
    """How far a level lies from its bound."""
    return abs(margin - estimate.value)
