"""Several takes of one task with other seeds, as one: means, and what each of them gave.

An item's score is its mean over the takes, so that intervals are about other items: the takes of
one item stand together in it.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.record import Metric
    from qbench.measures.loaded import Outcome
    from qbench.measures.tasks.options import TaskParams


def mean_outcome(outcomes: Sequence[Outcome], params: TaskParams) -> Outcome:
    """The only outcome as it is; of several the means, with each take's seed, scores and errors."""
    first = outcomes[0]
    if len(outcomes) == 1:
        return first
    takes = [
        {
            "seed": params.seeds_of(at)[2],
            "scores": {metric.name: metric.value for metric in outcome.metrics},
            "stderr": outcome.details["stderr"],
        }
        for at, outcome in enumerate(outcomes)
    ]
    details = {**first.details, "stderr": {}, "answers": {}, "repeats": takes}
    if "thoughts" in details:
        details["thoughts"] = _sums([outcome.details["thoughts"] for outcome in outcomes])
    if "members" in details:
        details["members"] = {
            task: {
                name: _mean([one.details["members"][task][name] for one in outcomes])
                for name in scores
            }
            for task, scores in details["members"].items()
        }
    warnings = dict.fromkeys(words for outcome in outcomes for words in outcome.warnings)
    return replace(
        first,
        metrics=tuple(
            _mean_metric(each) for each in zip(*(o.metrics for o in outcomes), strict=True)
        ),
        series={
            name: [fmean(each) for each in zip(*(o.series[name] for o in outcomes), strict=True)]
            for name in first.series
            if all(name in outcome.series for outcome in outcomes)
        },
        details=details,
        warnings=tuple(warnings),
    )


def _mean_metric(each: Sequence[Metric]) -> Metric:
    missing = next((one for one in each if one.value is None), None)
    if missing is not None:
        return missing
    return each[0].model_copy(update={"value": _mean([one.value for one in each])})


def _mean(values: Sequence[Any]) -> float | None:
    return None if None in values else fmean(values)


def _sums(each: Sequence[dict[str, int]]) -> dict[str, int]:
    return {name: sum(one[name] for one in each) for name in each[0]}
