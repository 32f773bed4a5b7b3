"""The arms of a fine-tuning as choices: which to train, and how to serve what comes of it.

A choice is an arm in one of the ways in which it was served, all its seeds together. What it loses
is its test loss over that of the best of them, paired over items and seeds.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.comparable import Gap
from qbench.compare.differences import level
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.items import items_of
from qbench.compare.recommend.axes import cost_axes_of
from qbench.compare.recommend.axis import Axis, cost_axis
from qbench.compare.recommend.budget import Budget
from qbench.compare.recommend.choices import Choice, Choices, price_of, warnings_of
from qbench.compare.recommend.limits import BY_DEFAULT, Limit, cost_limits, minimized_of
from qbench.compare.recommend.prices import training_price
from qbench.compare.recommend.ranges import Range, estimated, factor_of, why_not
from qbench.compare.tuned.arms import arms_of, deployment_words
from qbench.compare.tuned.changes import LOSS_MARGIN, loss_change
from qbench.compare.variation import variation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.price import Price
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.compare.tuned.arms import Arm
    from qbench.core.record import Record

LOSS = "loss"
_NOT_SERVED = "fake-quantized"
"""What QAT computes with before the conversion: nobody serves it."""


@dataclass(frozen=True)
class _Served:
    """An arm in one of the ways in which it was served."""

    arm: Arm
    deployment: str

    @property
    def label(self) -> str:
        return f"{self.arm.name}--{self.deployment}"

    @property
    def words(self) -> str:
        return f"{self.arm.words}, {deployment_words(self.arm, self.deployment)}"

    @property
    def cells(self) -> tuple[CellRecords, ...]:
        return self.arm.of_deployment(self.deployment)


def arm_choices(
    records: TableRecords, budget: Budget | None = None, price: Price | None = None
) -> Choices | None:
    """The tuned models of a table with their ranges; None where none was served.

    Limits on costs of serving hold for them as far as these were measured of any.
    """
    budget = budget or Budget()
    served = [
        _Served(arm, deployment)
        for arm in arms_of(records)
        for deployment in arm.deployments
        if deployment != _NOT_SERVED
    ]
    if not served:
        return None
    cells = [cell for one in served for cell in one.cells]
    slug = next(iter(items_of(cells, "completion")), "test")
    best = _best(served, slug)
    hour = price_of(budget, price)
    trained = [cell for one in served for cell in one.arm.trainings]
    costs = [
        *cost_axes_of(cells, price=hour, batch=budget.batch),
        *_TRAINING,
        training_price(hour, trained),
    ]
    loss = _loss_axis(slug, best)
    ranges = {
        one.label: {
            **{axis.key: _cost(axis, one.arm, one.cells) for axis in costs},
            LOSS: _loss(one, best, slug),
        }
        for one in served
    }
    measured = {
        key for known in ranges.values() for key, one in known.items() if one.value is not None
    }
    axes = tuple(axis for axis in (*costs, loss) if axis.key in measured or axis is loss)
    limits = {key: limit for key, limit in cost_limits(records, budget).items() if key in measured}
    for key, bound in (("training_peak", budget.max_training_peak), ("step", budget.max_step)):
        if bound is not None:
            limits[key] = Limit(bound, "max", f"max_{key}")
            axes = axes if key in measured else (*axes, _axis_of(costs, key))
    if budget.max_loss_increase is not None:
        limits[LOSS] = Limit(budget.max_loss_increase, "max", "max_loss_increase")
    elif LOSS in measured:
        limits[LOSS] = Limit(LOSS_MARGIN.amount, "max", BY_DEFAULT)
    minimize = minimized_of(budget, measured)
    if minimize not in measured:  # of the untuned cells alone
        minimize = minimized_of(Budget(), measured)
    if minimize not in measured:
        axes = (_axis_of(costs, minimize), *axes)
    return Choices(
        title=f"{records.title}: tuned models",
        axes=axes,
        cells=tuple(
            Choice(
                label=one.label,
                place=one.label,
                reference=False,
                faulty=any(cell.faulty for cell in (*one.arm.trainings, *one.cells)),
                ranges={axis.key: ranges[one.label][axis.key] for axis in axes},
                warnings=warnings_of(*one.arm.trainings, *one.cells),
                words=one.words,
            )
            for one in served
        ),
        limits=limits,
        minimize=minimize,
        kind="tuned",
    )


_TRAINING = (
    cost_axis(
        "training_peak",
        "peak of a training step",
        "training peak",
        "bytes",
        "B",
        "training",
        None,
        "training.memory.peak",
    ),
    cost_axis(
        "step",
        "time of a training step",
        "training step",
        "seconds",
        "s",
        "training",
        None,
        "training.step_time",
    ),
)


def _loss_axis(slug: str, best: _Served | None) -> Axis:
    over = f" over {best.label}'s (the best)" if best else ""
    return Axis(
        LOSS,
        f"test loss{over}",
        "test loss over the best's",
        "number",
        "nat",
        "lower",
        "quality",
        "completion",
        slug,
        "completion.loss",
        of_change=True,
    )


def _axis_of(axes: Sequence[Axis], key: str) -> Axis:
    return next(axis for axis in axes if axis.key == key)


def _best(served: Sequence[_Served], slug: str) -> _Served | None:
    """The one of the lowest mean loss, of those without faulty layers."""
    means = {}
    for one in served:
        values = [
            value
            for cell in one.cells
            for record in cell.of("completion", slug)
            if record.status == "ok" and (value := record.value("completion.loss")) is not None
        ]
        if values and not any(cell.faulty for cell in one.cells):
            means[one.label] = statistics.fmean(values)
    least = min(means, key=lambda label: means[label], default=None)
    return next((one for one in served if one.label == least), None)


def _loss(one: _Served, best: _Served | None, slug: str) -> Range:
    if best is None:
        return Range(None, None, None, "not measured")
    if one.label == best.label:
        return Range(0.0, 0.0, 0.0)
    found, _ = loss_change(one.cells, best.cells, slug)
    if isinstance(found, Gap):
        return Range(None, None, None, found.reason)
    return estimated(found, None)


def _cost(axis: Axis, arm: Arm, cells: Sequence[CellRecords]) -> Range:
    """The mean over the seeds; what varies by nothing else lies between their extremes."""
    cells = arm.trainings if axis.measurement == "training" else cells
    return over_seeds(axis, cells)


def over_seeds(axis: Axis, cells: Sequence[CellRecords]) -> Range:
    """A cost of cells that are one but for the seed: its mean.

    What varies by nothing else lies between their extremes.
    """
    groups = [cell.of(axis.measurement, axis.item) for cell in cells]
    lacking = [why for group in groups if (why := why_not(group, axis.metric))]
    good = [
        record
        for group in groups
        for record in group
        if record.status == "ok" and record.value(axis.metric) is not None
    ]
    if not good:
        return Range(None, None, None, next(iter(lacking), "not measured"))
    values = [value for record in good if (value := record.value(axis.metric)) is not None]
    factor, unknown = factor_of(axis, good)
    if unknown:
        return Range(None, None, None, unknown)
    mean = factor * statistics.fmean(values)
    if lacking:
        return Range(mean, None, None, f"not of every seed: {lacking[0]}")
    if _is_exact(good[0], axis.metric):
        return Range(mean, factor * min(values), factor * max(values))
    found = level(good, axis.metric, sampling=Sampling())
    if found.estimate is None and axis.measurement == "training" and found.short_by:
        reason = f"one process a seed: {found.short_by} more seeds are needed for an interval"
        return Range(mean, None, None, reason)
    return estimated(found, statistics.median(values), factor)


def _is_exact(record: Record, name: str) -> bool:
    metric = record.metric(name)
    return metric is not None and variation(record, metric) == "nothing"
