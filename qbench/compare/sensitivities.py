"""What single units of a model cost in each format, with the certainty that the windows give it.

Their table stands in the record of the reference. Sums of single costs are made window by window,
so that they can be paired with what all of them cost together on the same windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import ValidationError

from qbench.compare.differences import Difference, level_of
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.series import absurd, documents_of, grouped
from qbench.compare.series_estimates import of_change
from qbench.compare.summed_kl import summed_series
from qbench.precisions.mixed.sensitivities import Sensitivities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.selection import TableRecords
    from qbench.compare.series import Series
    from qbench.core.record import Record
    from qbench.precisions.mixed.sensitivities import Cost, Unit

SENSITIVITY = "sensitivity"
ONE_OF_MANY = Sampling(resamples=2_000)
"""Of each of hundreds of pairs: its limits at 2.5 % rest on 50 resamples."""
_NO_WINDOWS = "the record does not keep it by window"
_LARGEST_SIZE = 1 << 62
_SAME = 1e-4
"""Share by which the windows, kept in 6 digits, may miss the mean of what nearly cancels out."""


@dataclass(frozen=True)
class Damages:
    """The table of one item, with the windows that its figures are means of."""

    record: Record
    table: Sensitivities

    @cached_property
    def units(self) -> dict[str, Unit]:
        """By name, in the order of the model."""
        return {unit.name: unit for unit in self.table.units}

    @property
    def formats(self) -> tuple[str, ...]:
        """Labels, in the order they were asked for."""
        return tuple(self.table.formats)

    def cost(self, unit: str, label: str) -> Cost | None:
        """What the table says of a pair; None for one that it does not know."""
        known = self.units.get(unit)
        return None if known is None else known.costs.get(label)

    def kl(self, unit: str, label: str) -> float | None:
        """KL of a pair, in nats a token; None where it was not measured."""
        cost = self.cost(unit, label)
        return None if cost is None else cost.kl

    def saved(self, unit: str, label: str) -> int | None:
        """Bytes that the unit takes less than in the reference's type."""
        cost = self.cost(unit, label)
        return None if cost is None else self.units[unit].plain_bytes - cost.bytes

    def level(self, unit: str, label: str) -> Difference | None:
        """KL of a pair with its chance error; None where it was not measured."""
        kl = self.kl(unit, label)
        if kl is None:
            return None
        series = self.series({unit: label})
        if series is None:
            return Difference(
                kl, None, relative=False, estimate=None, method="none", reason=_NO_WINDOWS
            )
        return level_of(series, kl, ONE_OF_MANY)

    def ranked(self, label: str) -> list[str]:
        """Units whose KL in a format was measured, that of the largest first."""
        found = {name: kl for name in self.units if (kl := self.kl(name, label)) is not None}
        return sorted(found, key=lambda name: -found[name])

    def told_apart(self, unit: str, other: str, label: str) -> bool:
        """Whether two units' KL in a format differ by more than chance, at 5 %."""
        own, base = self.series({unit: label}), self.series({other: label})
        if own is None or base is None:
            return False
        found = of_change(
            grouped(own), grouped(base), relative=False, sampling=ONE_OF_MANY
        ).estimate
        tail = ONE_OF_MANY.alpha / 2
        return found is not None and (found.limit(tail) > 0 or found.limit(1 - tail) < 0)

    def total(self, chosen: Mapping[str, str]) -> float | None:
        """Sum of the units' KL, each in its format; None where one was not measured.

        A unit in the type of the rest costs nothing.
        """
        found = [self.kl(unit, label) for unit, label in self._costing(chosen).items()]
        known = [kl for kl in found if kl is not None]
        return math.fsum(known) if len(known) == len(found) else None

    def series(self, chosen: Mapping[str, str]) -> Series | None:
        """The sum of the units' KL by window, each in its format; None where it is not kept."""
        total = self.total(chosen)
        found = summed_series(self.table, self._costing(chosen).items())
        if total is None or found is None:
            return None
        sums, weights = found.sums, found.weights
        if not all(map(math.isfinite, sums)) or not sum(weights) > 0 or min(weights) < 0:
            return None
        if absurd(sums, weights):
            return None
        if not math.isclose(math.fsum(sums) / sum(weights), total, rel_tol=_SAME, abs_tol=1e-9):
            return None
        return replace(found, clusters=documents_of(self.record, len(weights)))

    def _costing(self, chosen: Mapping[str, str]) -> dict[str, str]:
        return {unit: label for unit, label in chosen.items() if label != self.table.rest}


def damages_of(found: Sequence[Record]) -> Damages | None:
    """The table that the records of one item hold; None where none of them does."""
    for record in found:
        told = record.details.get("sensitivities")
        if record.status != "ok" or not isinstance(told, dict):
            continue
        try:
            table = Sensitivities.model_validate(told)
        except ValidationError:
            continue
        if table.units and table.formats and _is_sane(table):
            return Damages(record, table)
    return None


def damages_by_item(records: TableRecords) -> dict[str, Damages]:
    """Of the reference, by the item's slug."""
    if records.reference is None:
        return {}
    found = records.reference.of(SENSITIVITY)
    made = {one.item.slug: damages_of([one]) for one in found}
    return {slug: one for slug, one in made.items() if one is not None}


def _is_sane(table: Sensitivities) -> bool:
    """Whether its numbers are such as can be shown: a record may hold any."""
    sizes = [size for unit in table.units for size in (unit.plain_bytes, unit.weights)]
    costs = [cost for unit in table.units for cost in unit.costs.values()]
    sizes += [cost.bytes for cost in costs]
    figures = [one for cost in costs for one in (cost.kl, cost.output_error) if one is not None]
    return all(0 <= size < _LARGEST_SIZE for size in sizes) and all(map(math.isfinite, figures))
