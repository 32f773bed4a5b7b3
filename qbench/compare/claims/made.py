"""Records as a check compares them: with a figure that is made of several of their metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.variation import variation
from qbench.core.record import Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.claims.claim import Check
    from qbench.core.record import Record, VariesBy

_MOST_FIRST: tuple[VariesBy, ...] = ("sample", "process", "nothing")
"""What a figure varies by is the first of these that a part of it varies by."""


_OF_THE_ARM = frozenset({"method", "options", "seed"})
"""Parameters of a training that arms may differ in: see `qbench.compare.claims.cells`."""


def as_compared(records: Sequence[Record], check: Check) -> list[Record]:
    """The records with the figure of a check among their metrics, where it is made of several.

    Those of trainings without what makes them another arm's.
    """
    alike = [_without_arm(record) for record in records]
    if not check.plus and check.per is None:
        return alike
    return [_with_figure(record, check) for record in alike]


def _without_arm(record: Record) -> Record:
    if record.item.measurement != "training":
        return record
    left = {key: one for key, one in record.item.params.items() if key not in _OF_THE_ARM}
    return record.model_copy(update={"item": record.item.model_copy(update={"params": left})})


def _with_figure(record: Record, check: Check) -> Record:
    names = (check.metric, *check.plus, *([check.per] if check.per else []))
    parts = [record.metric(name) for name in names]
    known = [part for part in parts if part is not None]
    if len(known) < len(names):
        return record
    reason = next((part.reason for part in known if part.value is None), None)
    terms = [part.value or 0.0 for part in known]
    value: float | None = sum(terms if check.per is None else terms[:-1])
    unit = known[0].unit
    if check.per is not None and value is not None:
        value = value / terms[-1] if terms[-1] else None
        per = known[-1].unit
        unit = unit if per == "1" else f"{unit}/{per}"
        reason = reason or (None if value is not None else f"{check.per} is 0")
    varying = {variation(record, part) for part in known}
    made = Metric(
        name=check.figure,
        unit=unit,
        better="neither",
        value=None if reason else value,
        reason=reason,
        varies_by=next(one for one in _MOST_FIRST if one in varying),
    )
    return record.model_copy(update={"metrics": (*record.metrics, made)})
