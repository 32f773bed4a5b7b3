"""What a report says of each metric beside its value: for the rows of exports.

The figure that it shows, pooled over processes, with its interval; the change from the reference
with its interval, verdict and margin; and what is derived of two cells: flips, and the changes
that fine-tuning made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.compare.comparable import Gap
from qbench.compare.compare import ItemName
from qbench.compare.flips import CHANGED, FLIPS, SCORED, flip_metrics
from qbench.compare.items import TASKS, items
from qbench.compare.quantiles import OF_WINDOWS, is_quantile
from qbench.compare.recommend.prices import TRAINING
from qbench.compare.tuned.arms import arms_of
from qbench.compare.variation import variation
from qbench.core.page import INTERVAL_LEVEL
from qbench.core.record import Metric
from qbench.report.costs import token_costs, training_cost_table
from qbench.report.decision import change_figure
from qbench.report.differences import differences_of
from qbench.report.energy import TOKENS, token_grams, training_grams
from qbench.report.energy import TRAINING as GRAMS
from qbench.report.figures import change_with_interval, pool, with_interval
from qbench.report.finetune.comparisons import tuned_comparisons
from qbench.report.finetune.results import results_of
from qbench.report.tasks import GAINED, LOST, flip_figures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.compare.co2 import Co2
    from qbench.compare.marks import Mark
    from qbench.compare.price import Price
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.page import Figure
    from qbench.core.record import Better, Record

FINDINGS = (
    "pooled",
    "low",
    "high",
    "interval_reason",
    "against",
    "change",
    "change_low",
    "change_high",
    "relative",
    "verdict",
    "margin",
    "change_reason",
    "level",
)
"""Columns of what is found, in order.

`pooled` is the figure that a report shows, the median over the processes, and `low` to `high` its
interval; `change` and what follows it is about the change from the cell or arm that `against`
names, a ratio less 1 where it is `relative`, with the margin within which it is called equivalent.
`level` is that of all intervals of a row.
"""
_SHOWN_WITH_INTERVAL = (
    "perplexity",
    "kl.mean",
    "decoded.kl.mean",
    "chat.kl.mean",
    "sensitivity.kl.mean",
)
"""Means over windows whose own intervals a report has, beside those of scores and quantiles."""
_BETTER: dict[str, Better] = {
    LOST: "lower",
    GAINED: "higher",
    FLIPS: "lower",
    CHANGED: "lower",
}

Found = dict[str, Any]
Which = tuple[str, str, str, str]


class Derived(NamedTuple):
    """A row of what no record holds by itself."""

    record: Record
    """A record of the cell or arm that it is about."""
    pooled: bool
    """Whether it is about several seeds of a tuning."""
    metric: Metric
    found: Found


def which(record: Record) -> Which:
    """What tells a record from all others, also where it is shown with more than it holds."""
    return record.suite, record.environment.device_kind, record.key, record.started_at


def findings(table: TableRecords) -> dict[tuple[Which, str], Found]:
    """What is found of each metric of a table's records, by `which` record and the name."""
    found: dict[tuple[Which, str], Found] = {}
    for cell in table.every:
        for name, records in _items(cell).items():
            for metric in _metrics(records):
                told = _level(cell, records, metric)
                if cell.tuning is not None and not cell.is_training:
                    told |= _tuned_change(table, cell, name, metric.name)
                for record in records:
                    found[which(record), metric.name] = {**told}
    differences = differences_of(table)
    if table.reference is None or differences is None:
        return found
    for record, changed, told in _window_changes(table, table.reference):
        found[which(record), changed].update(told)
    cells = {cell.label: cell for cell in table.cells}
    for one in differences.found:
        told = _change(differences.reference, one.value, one.mark)
        told |= {
            "relative": one.line.allowance.relative,
            "verdict": one.verdict,
            "margin": one.line.allowance.amount,
            "change_reason": None if one.value is not None else one.mark.reason,
        }
        for record in cells[one.cell].of(*one.line.item):
            found.setdefault((which(record), one.line.metric.name), {}).update(told)
    return found


def derived(table: TableRecords) -> Iterator[Derived]:
    """Flips of every cell against the reference, and the judged changes of fine-tuning."""
    reference = table.reference
    if reference is not None:
        for cell in table.every:
            if not cell.reference:
                yield from _flips(cell, reference)
    if not table.tuned:
        return
    for one in tuned_comparisons(table, results_of(table)):
        records = one.cells[0].of(*one.item)
        metric = records[0].metric(one.metric) if records else None
        if metric is None:
            continue
        known = None if isinstance(one.judged.found, Gap) else one.judged.found.new
        value = one.judged.value
        told = _change(one.against, value, one.judged.mark)
        gap = isinstance(one.judged.found, Gap)
        told |= {
            "relative": one.judged.allowance.relative,
            "verdict": one.judged.mark.finding if gap else one.judged.verdict,
            "margin": one.judged.allowance.amount,
            "change_reason": None if value is not None else one.judged.mark.reason,
        }
        reason = "no seed has a figure of it" if known is None else None
        metric = metric.model_copy(update={"value": known, "reason": reason, "samples": None})
        yield Derived(records[0], len(one.cells) > 1, metric, told)


def priced(table: TableRecords, price: Price | None) -> Iterator[Derived]:
    """What a million tokens of each cell and each training cost; nothing without a price."""
    if price is None:
        return
    for cell in table.cells:
        for cost in token_costs(table, cell, price):
            item = cost.point.item
            records = cell.of(item.measurement, item.slug)
            yield _worked_out(records, cost.name, cost.axis.unit, cost.figure)
    arms = arms_of(table)
    costs = training_cost_table(arms, price)
    for row, figure in zip(costs.rows, costs.column(TRAINING), strict=True):
        arm = next(one for one in arms if one.name == row.label)
        records = [record for cell in arm.trainings for record in cell.of("training")]
        several = len(arm.trainings) > 1
        yield _worked_out(records, TRAINING, price.currency or "", figure, pooled=several)


def emitted(table: TableRecords, co2: Co2 | None) -> Iterator[Derived]:
    """Grams of a million new tokens of each cell and of each training; nothing without a factor."""
    if co2 is None:
        return
    for cell in table.cells:
        for measurement in ("latency", "serving"):
            for slug in items(table, measurement):
                records = cell.of(measurement, slug)
                if records:
                    grams = token_grams(records, measurement, co2)
                    yield _worked_out(records, TOKENS, "g", grams)
    for arm in arms_of(table):
        records = [record for cell in arm.trainings for record in cell.of("training")]
        if records:
            several = len(arm.trainings) > 1
            yield _worked_out(records, GRAMS, "g", training_grams(arm, co2), pooled=several)


def _worked_out(
    records: Sequence[Record], name: str, unit: str, figure: Figure, *, pooled: bool = False
) -> Derived:
    """A figure as a row; of its interval as of any other figure."""
    reason = (figure.reason or "not known") if figure.value is None else None
    metric = Metric(name=name, unit=unit, better="lower", value=figure.value, reason=reason)
    told = {} if figure.value is None else {"interval_reason": figure.reason}
    return Derived(records[0], pooled, metric, told | _interval(figure))


def _items(cell: CellRecords) -> dict[ItemName, list[Record]]:
    found: dict[ItemName, list[Record]] = {}
    for record in cell.records:
        found.setdefault(ItemName(record.item.measurement, record.item.slug), []).append(record)
    return found


def _metrics(records: Sequence[Record]) -> list[Metric]:
    return list({metric.name: metric for record in records for metric in record.metrics}.values())


def _level(cell: CellRecords, records: Sequence[Record], metric: Metric) -> Found:
    """The figure that is shown, with its interval where the report knows one."""
    sampled = any(variation(one, found) == "sample" for one, found in _measured(records, metric))
    scored = records[0].item.measurement in SCORED
    headline = metric.name in _SHOWN_WITH_INTERVAL or is_quantile(metric.name)
    headline = headline and cell.tuning is None
    shown = not sampled or scored or headline
    figure = with_interval(records, metric.name) if shown else pool(records, metric.name).figure
    if figure.value is None:
        return {}
    return {
        "pooled": figure.value,
        **_interval(figure),
        "interval_reason": figure.reason if shown else None,
    }


def _measured(records: Sequence[Record], metric: Metric) -> list[tuple[Record, Metric]]:
    found = ((one, one.metric(metric.name)) for one in records)
    return [(one, each) for one, each in found if each is not None]


def _interval(figure: Figure) -> Found:
    level = None if figure.low is None else INTERVAL_LEVEL
    return {"low": figure.low, "high": figure.high, "level": level}


def _change(against: str, value: float | None, mark: Mark) -> Found:
    told = {
        "against": against,
        "change": value,
        "change_low": mark.low,
        "change_high": mark.high,
    }
    return told if mark.low is None else {**told, "level": INTERVAL_LEVEL}


def _tuned_change(table: TableRecords, cell: CellRecords, name: ItemName, metric: str) -> Found:
    """The changes of tuned cells that stand in tables without a verdict."""
    if table.reference is None:
        return {}
    if metric == "perplexity" and name.measurement == "quality":
        figure, relative = change_figure(cell, table.reference, name.slug), True
    elif name.measurement in (*TASKS, "needle"):
        base = table.reference.of(*name)
        figure, relative = change_with_interval(cell.of(*name), base, metric), False
    else:
        return {}
    return _unjudged(figure, table.reference.label, relative=relative)


def _window_changes(
    table: TableRecords, reference: CellRecords
) -> Iterator[tuple[Record, str, Found]]:
    """The changes of quantiles over windows, which stand in a table without a verdict."""
    for cell in table.cells:
        for slug in items(table, "quality") if cell is not reference else ():
            records, base = cell.of("quality", slug), reference.of("quality", slug)
            for metric in _metrics(records):
                if metric.name.startswith(OF_WINDOWS):
                    figure = change_with_interval(records, base, metric.name)
                    told = _unjudged(figure, reference.label, relative=True)
                    yield from ((record, metric.name, told) for record in records)


def _unjudged(figure: Figure, against: str, *, relative: bool) -> Found:
    level = {} if figure.low is None else {"level": INTERVAL_LEVEL}
    return level | {
        "against": against,
        "change": figure.value,
        "change_low": figure.low,
        "change_high": figure.high,
        "relative": relative,
        "change_reason": figure.reason,
    }


def _flips(cell: CellRecords, reference: CellRecords) -> Iterator[Derived]:
    for name, records in _items(cell).items():
        base = reference.of(*name)
        good = [record for record in records if record.status == "ok"]
        counted = flip_metrics(good[0]) if good else []
        scores = {one.name.rpartition(".")[0] for one in counted}
        for score in sorted(scores) if base else ():
            for key, figure in flip_figures(records, base, score).items():
                reason = (figure.reason or "not comparable") if figure.value is None else None
                metric = Metric(
                    name=f"{score}.{key}",
                    unit="1",
                    better=_BETTER[key],
                    value=figure.value,
                    reason=reason,
                )
                told = {"pooled": figure.value, **_interval(figure), "against": reference.label}
                yield Derived(good[0], False, metric, told)  # noqa: FBT003 - named by its field
