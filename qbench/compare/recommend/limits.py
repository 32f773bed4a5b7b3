"""From a budget to a bound on each of a table's quantities."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from qbench.compare.items import TASKS
from qbench.compare.recommend.axes import NEEDLE
from qbench.compare.recommend.axis import Axis
from qbench.compare.recommend.budget import MINIMIZED
from qbench.predict.devices import memory_of, parse_memory

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from qbench.compare.recommend.budget import Budget
    from qbench.compare.selection import TableRecords

DEFAULT_INCREASE = 0.01
"""Share of the reference's perplexity that may be lost where nothing is said of quality."""
DEFAULT_KL = 0.01
"""Nats a token that are about one per cent of perplexity; where no change of it is known."""
DEFAULT_DROP = -0.01
"""Change of a task's score; where neither is known."""
BY_DEFAULT = "default"


@dataclass(frozen=True)
class Limit:
    """How far a quantity may go. What lies on the bound itself is within."""

    bound: float
    kind: Literal["max", "min"]
    source: str
    """What set it: a key of the budget, `default`, or the name of the GPU whose memory it is."""


def limits_of(
    records: TableRecords, budget: Budget, axes: Sequence[Axis], measured: Collection[str]
) -> tuple[dict[str, Limit], list[Axis]]:
    """A limit by axis, and the axes that are limited though nothing of the kind was measured."""
    limits = cost_limits(records, budget)
    lacking: list[Axis] = []
    for kind, bound, name, title in (
        ("perplexity", budget.max_perplexity_increase, "max_perplexity_increase", "perplexity"),
        ("kl", budget.max_kl, "max_kl", "KL"),
    ):
        if bound is None:
            continue
        found = [axis.key for axis in axes if axis.key.startswith(f"{kind}:")]
        limits |= {key: Limit(bound, "max", name) for key in found}
        if not found:
            limits[kind] = Limit(bound, "max", name)
            lacking.append(_absent(kind, title))
    for pattern, least in budget.min_task.items():
        tasks = tasks_of(pattern, axes)
        limits |= {axis.key: _least(axis, least, "min_task") for axis in tasks}
        if not tasks:
            key = f"tasks.{pattern}"
            limits[key] = Limit(least, "min", "min_task")
            lacking.append(_absent(key, pattern))
    if not budget.limits_quality:
        limits |= _default(axes, measured)
    return limits, lacking


def cost_limits(records: TableRecords, budget: Budget) -> dict[str, Limit]:
    """Those on bytes, peak, times, energy and the price of generated tokens."""
    limits: dict[str, Limit] = {}
    for key in ("bytes", "peak", "prefill", "decode", "energy", "price"):
        bound = getattr(budget, f"max_{key}")
        if bound is not None:
            limits[key] = Limit(bound, "max", f"max_{key}")
    _limit_by_gpu(limits, records, budget)
    return limits


def minimized_of(budget: Budget, measured: Collection[str]) -> str:
    """What is minimized; where nothing was said of it, the first that was measured."""
    if "minimize" in budget.model_fields_set:
        return budget.minimize
    return next((key for key in MINIMIZED if key in measured), budget.minimize)


def tasks_of(pattern: str, axes: Sequence[Axis]) -> list[Axis]:
    """The scores that a task's name, one with a metric, or a pattern of these means.

    Those of needles by `needle`, or by the name of a length's item.
    """
    return [
        axis for axis in axes if any(fnmatchcase(name, pattern) for name in names_of_task(axis))
    ]


def names_of_task(axis: Axis) -> tuple[str, ...]:
    """What a score is called in a budget; empty for what is no score of a task."""
    if axis.measurement == NEEDLE:
        return (NEEDLE, axis.item or "")
    if axis.measurement in TASKS:
        score = axis.metric.removeprefix(f"{axis.measurement}.")
        return (axis.item or "", score, score.rpartition(".")[0])
    return ()


def _limit_by_gpu(limits: dict[str, Limit], records: TableRecords, budget: Budget) -> None:
    """Of a GPU's memory and a stated peak the smaller one; the records' own GPU for neither."""
    if budget.gpu is not None:
        device = parse_memory(budget.gpu)
        stated = limits.get("peak")
        if stated is None or device.bytes < stated.bound:
            limits["peak"] = Limit(float(device.bytes), "max", device.name)
        return
    on = next((one.environment for cell in records.every for one in cell.records), None)
    if "peak" in limits or on is None or on.device_type != "cuda":
        return
    spread = any(cell.records[0].cell.model.device_map is not None for cell in records.every)
    own = memory_of(on, spread=spread)
    taken = any(cell.of("memory") for cell in records.every)
    if own is not None and taken:
        limits["peak"] = Limit(float(own.bytes), "max", own.name)


def _default(axes: Sequence[Axis], measured: Collection[str]) -> dict[str, Limit]:
    """At most 1 % of perplexity; by divergence, else by tasks, where that is not known."""
    known = [axis for axis in axes if axis.key in measured and axis.kind == "quality"]
    for prefix, bound in (("perplexity:", DEFAULT_INCREASE), ("kl:", DEFAULT_KL)):
        found = [axis.key for axis in known if axis.key.startswith(prefix)]
        if found:
            return {key: Limit(bound, "max", BY_DEFAULT) for key in found}
    return {axis.key: _least(axis, DEFAULT_DROP, BY_DEFAULT) for axis in known}


def _least(axis: Axis, least: float, source: str) -> Limit:
    """The least change of a score, in the direction in which it gets worse."""
    if axis.better == "lower":
        return Limit(-least, "max", source)
    return Limit(least, "min", source)


def _absent(key: str, title: str) -> Axis:
    """Stands for what is limited and was not measured at all."""
    better: Literal["lower", "higher"] = "higher" if key.startswith("tasks.") else "lower"
    return Axis(key, title, title, "number", "1", better, "quality", "", None, "")
