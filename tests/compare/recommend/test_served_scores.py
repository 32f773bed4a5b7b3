"""Scores of tasks at servers, chosen by as those of tasks in this process are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.compare.recommend.axes import quality_axes
from qbench.compare.recommend.budget import Budget
from qbench.compare.recommend.choices import choices
from qbench.compare.recommend.limits import tasks_of
from qbench.compare.recommend.recommend import recommend
from qbench.compare.selection import select
from tests.paired_records import footprint, task

if TYPE_CHECKING:
    from qbench.core.record import Record

ITEMS = 400
SCORES = {
    "fp32": [1.0] * 320 + [0.0] * 80,
    "int8": [1.0] * 320 + [0.0] * 80,
    "nf4": [1.0] * 200 + [0.0] * 200,
}
SIZES = {"fp32": 4e6, "int8": 2e6, "nf4": 1e6}


def here(precision: str) -> Record:
    scores = [1.0] * ITEMS
    return _named("tasks", task(precision, scores, reference=precision == "fp32"))


def served(precision: str, server: str) -> Record:
    """A task that a server answers worse in nf4."""
    params = {"task": {"name": "cloze"}, "server": {"engine": "transformers", "name": server}}
    made = task(precision, SCORES[precision], reference=precision == "fp32")
    update = {"measurement": "served_tasks", "slug": f"{server}-cloze", "params": params}
    item = made.item.model_copy(update=update)
    return _named("served_tasks", made.model_copy(update={"item": item}))


def _named(measurement: str, made: Record) -> Record:
    (metric,) = made.metrics
    name = f"{measurement}.cloze.correct"
    return made.model_copy(update={"metrics": (metric.model_copy(update={"name": name}),)})


def records(*servers: str) -> list[Record]:
    sizes = [footprint(one, SIZES[one], reference=one == "fp32") for one in SCORES]
    own = [here(one) for one in SCORES]
    return [*sizes, *own, *(served(one, server) for server in servers for one in SCORES)]


def test_a_task_alone_means_its_scores_here_and_at_each_server() -> None:
    axes = quality_axes(select(records("a", "b")).tables[0])
    assert [(one.measurement, one.item) for one in tasks_of("cloze", axes)] == [
        ("tasks", "cloze"),
        ("served_tasks", "a-cloze"),
        ("served_tasks", "b-cloze"),
    ]
    assert tasks_of("cloze.correct", axes) == tasks_of("cloze", axes)
    (one,) = tasks_of("b-cloze", axes)
    assert (one.metric, one.better, one.of_change) == ("served_tasks.cloze.correct", "higher", True)


@pytest.mark.parametrize(
    ("servers", "budget", "cell"),
    [
        ((), Budget(min_task={"cloze": -0.02}), "nf4"),
        (("a",), Budget(min_task={"cloze": -0.02}), "int8"),
        (("a",), Budget(min_task={"a-cloze": -0.02}), "int8"),
        (("a",), None, "int8"),
    ],
)
def test_what_a_server_answers_worse_is_not_recommended(
    servers: tuple[str, ...], budget: Budget | None, cell: str
) -> None:
    told = recommend(choices(select(records(*servers)).tables[0], budget))
    assert told.best is not None, told
    assert told.best.cell.label == cell
