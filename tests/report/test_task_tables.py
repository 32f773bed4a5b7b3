"""Tables of tasks: each score with its interval, and the items that went another way."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from qbench.compare.selection import select
from qbench.report.details import detail_tables
from tests.pages import whole_report
from tests.paired_records import task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.page import Table
    from qbench.core.record import Record

ITEMS = 300
_RANDOM = random.Random(11)
RIGHT = [float(_RANDOM.random() < 0.6) for _ in range(ITEMS)]
OTHER = [1 - score if index % 25 == 0 else score for index, score in enumerate(RIGHT)]
PARTS = [min(1.0, max(0.0, _RANDOM.gauss(0.5, 0.2))) for _ in range(ITEMS)]


def of_two(
    new: Sequence[float], old: Sequence[float], *, answers: bool = True, **changes: object
) -> list[Record]:
    found = []
    for precision, scores in (("fp32", old), ("nf4", new)):
        made = task(precision, scores, reference=precision == "fp32", **changes)
        given = [f"{index if index % 10 else precision}" for index in range(len(scores))]
        kept = {"answers": {"accuracy": given}} if answers else {}
        made = made.model_copy(update={"details": {**made.details, **kept, "items": len(scores)}})
        found.append(made)
    return found


def table(records: Sequence[Record]) -> Table:
    (found,) = detail_tables(select(records).tables[0])
    return found


def test_a_share_of_right_answers_has_exact_limits() -> None:
    made = table(of_two(OTHER, RIGHT))
    for figure, scores in zip(made.column("accuracy"), (RIGHT, OTHER), strict=True):
        exact = stats.binomtest(int(sum(scores)), ITEMS).proportion_ci(0.95, method="exact")
        assert figure.value == pytest.approx(sum(scores) / ITEMS)
        assert figure.low == pytest.approx(exact.low, abs=1e-9)
        assert figure.high == pytest.approx(exact.high, abs=1e-9)


def test_a_mean_of_other_scores_has_that_of_a_bootstrap_over_items() -> None:
    figure = table(of_two(PARTS, RIGHT)).column("accuracy")[1]
    values = np.array(PARTS)
    drawn = np.random.default_rng(7).choice(values, (20_000, ITEMS)).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert figure.low == pytest.approx(low, abs=0.002)
    assert figure.high == pytest.approx(high, abs=0.002)


def test_flips_and_other_answers_of_each_cell_against_the_reference() -> None:
    made = table(of_two(OTHER, RIGHT))
    lost = sum(new < old for new, old in zip(OTHER, RIGHT, strict=True))
    gained = sum(new > old for new, old in zip(OTHER, RIGHT, strict=True))
    assert made.column("right_to_wrong")[1].value == lost
    assert made.column("wrong_to_right")[1].value == gained
    assert lost + gained == ITEMS / 25
    change = made.column("change")[1]
    assert change.value == pytest.approx((gained - lost) / ITEMS)
    assert change.low is not None
    assert change.high is not None
    assert change.low < change.value < change.high
    for key, count in (("flips", ITEMS // 25), ("changed", ITEMS // 10)):
        figure = made.column(key)[1]
        exact = stats.binomtest(count, ITEMS).proportion_ci(0.95, method="exact")
        assert figure.value == pytest.approx(count / ITEMS)
        assert (figure.low, figure.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert made.column("flips")[0].word == "ref"


def test_a_reader_gets_every_interval_and_why_there_is_none() -> None:
    page = whole_report(of_two(OTHER, RIGHT, answers=False))
    exact = stats.binomtest(12, ITEMS).proportion_ci(0.95, method="exact")
    assert f"| 4.00 ({100 * exact.low:.2f} to {100 * exact.high:.2f}) |" in page
    assert "other answer of nf4: neither side's record holds what was answered" in page
    few = whole_report(of_two(PARTS[:8], RIGHT[:8]))
    assert "accuracy of nf4; less the reference's of nf4: too few items to decide by: 8" in few
    assert "flips" not in few


def test_no_flips_are_shown_as_none() -> None:
    page = whole_report(of_two(RIGHT, RIGHT))
    assert f"| 0 (0 to {100 * (1 - 0.025 ** (1 / ITEMS)):.2f}) |" in page


def test_how_a_task_was_put_stands_over_its_table() -> None:
    params = {
        "task": {"name": "mmlu"},
        "thinking": True,
        "gen_kwargs": {"temperature": 0.6, "do_sample": True},
        "repeats": 2,
    }
    told = {
        "repeats": [{"seed": 7, "scores": {}}, {"seed": 8, "scores": {}}],
        "thoughts": {"answers": 600, "unended": 3, "stopped": 0},
    }
    records = []
    for one in of_two(OTHER, RIGHT):
        item = one.item.model_copy(update={"params": params})
        details = {**one.details, **told}
        records.append(one.model_copy(update={"item": item, "details": details}))
    made = table(records)
    assert made.title.endswith(
        ", accuracy, thinking, temperature 0.6, do_sample true, mean of 2 times, seeds 7, 8"
    )
    assert [one.value for one in made.column("unended")] == [3.0, 3.0]
    assert "unended" not in [one.key for one in table(of_two(OTHER, RIGHT)).columns]


def test_tasks_at_servers_have_tables_of_their_own() -> None:
    changes = {
        "params": {
            "task": {"name": "cloze"},
            "endpoint": "chat",
            "concurrency": 4,
            "server": {"engine": "transformers"},
        },
        "slug": "transformers-cloze",
    }
    records = []
    for one in of_two(OTHER, RIGHT):
        item = one.item.model_copy(update={**changes, "measurement": "served_tasks"})
        (metric,) = one.metrics
        name = "served_tasks.cloze.accuracy"
        metrics = (metric.model_copy(update={"name": name}),)
        records.append(one.model_copy(update={"item": item, "metrics": metrics}))
    made = table(records)
    assert made.title == "Task at a server: transformers-cloze, accuracy, chat, 4 at once"
    assert made.column("flips")[1].value == pytest.approx(12 / ITEMS)
    assert made.column("changed")[1].value == pytest.approx(0.1)
