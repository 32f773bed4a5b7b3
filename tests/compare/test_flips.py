"""Flips of a task's items: counted and bounded as a naive count and scipy do."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from scipy import stats

from qbench.compare.baseline import read_baseline, write_baseline
from qbench.compare.comparable import Gap
from qbench.compare.flips import Flips, find_flips
from tests.paired_records import SAMPLING, quality, task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.core.record import Record

ITEMS = 200
_RANDOM = random.Random(3)
RIGHT = [_RANDOM.choice([0.0, 1.0]) for _ in range(ITEMS)]
OTHER = [1 - score if index % 9 == 0 else score for index, score in enumerate(RIGHT)]
ANSWERS = [index % 4 for index in range(ITEMS)]
OTHERS = [(given + (index % 5 == 0)) % 4 for index, given in enumerate(ANSWERS)]


def answered(precision: str, scores: Sequence[float], answers: Sequence[object]) -> Record:
    record = task(precision, scores)
    details = {**record.details, "answers": {"accuracy": list(answers)}}
    return record.model_copy(update={"details": details})


def flips(new: Record, old: Record) -> Flips:
    found = find_flips([new], [old], "accuracy", sampling=SAMPLING)
    assert isinstance(found, Flips)
    return found


def test_what_was_lost_gained_and_changed_with_exact_limits() -> None:
    found = flips(answered("nf4", OTHER, OTHERS), answered("fp32", RIGHT, ANSWERS))
    pairs = list(zip(OTHER, RIGHT, strict=True))
    assert found.items == ITEMS
    assert found.lost == sum(new < old for new, old in pairs) > 0
    assert found.gained == sum(new > old for new, old in pairs) > 0
    for share, count in (
        (found.flips, found.lost + found.gained),
        (found.changed, sum(a != b for a, b in zip(OTHERS, ANSWERS, strict=True))),
    ):
        assert share.new == pytest.approx(count / ITEMS)
        assert share.estimate is not None
        exact = stats.binomtest(count, ITEMS).proportion_ci(0.95, method="exact")
        assert share.estimate.limit(0.025) == pytest.approx(exact.low, abs=1e-9)
        assert share.estimate.limit(0.975) == pytest.approx(exact.high, abs=1e-9)


def test_items_in_another_order_are_the_same_items() -> None:
    new, old = answered("nf4", OTHER, OTHERS), answered("fp32", RIGHT, ANSWERS)
    order = list(range(ITEMS))
    _RANDOM.shuffle(order)
    moved = answered("fp32", [RIGHT[at] for at in order], [ANSWERS[at] for at in order])
    ids = [old.details["item_ids"][at] for at in order]
    moved = moved.model_copy(update={"details": {**moved.details, "item_ids": ids}})
    assert flips(new, moved) == flips(new, old)


def test_no_flip_is_not_shown_to_be_none() -> None:
    found = flips(task("nf4", RIGHT), task("fp32", RIGHT))
    assert (found.lost, found.gained, found.flips.new) == (0, 0, 0.0)
    assert found.flips.estimate is not None
    assert found.flips.estimate.limit(0.975) == pytest.approx(1 - 0.025 ** (1 / ITEMS))


def test_answers_that_were_not_kept_leave_the_flips_known() -> None:
    found = flips(answered("nf4", OTHER, OTHERS), task("fp32", RIGHT))
    assert found.flips.new == pytest.approx(sum(index % 9 == 0 for index in range(ITEMS)) / ITEMS)
    assert found.changed.new is None
    assert found.changed.reason == "the other side's record does not hold what was answered"
    neither = flips(task("nf4", OTHER), task("fp32", RIGHT)).changed
    assert neither.reason == "neither side's record holds what was answered"


def test_scores_that_are_not_right_or_wrong_have_no_flips() -> None:
    halves = [score / 2 for score in RIGHT]
    found = find_flips([task("nf4", halves)], [task("fp32", RIGHT)], "accuracy", sampling=SAMPLING)
    assert found == Gap("not applicable", "it does not count items as right or wrong")
    texts = [[quality(name, [100.0] * 30)] for name in ("nf4", "fp32")]
    found = find_flips(texts[0], texts[1], "perplexity", sampling=SAMPLING)
    assert isinstance(found, Gap)


def test_a_baseline_keeps_what_was_answered(tmp_path: Path) -> None:
    new, old = answered("nf4", OTHER, OTHERS), answered("nf4", RIGHT, ANSWERS)
    (read,) = read_baseline(write_baseline(tmp_path / "baseline.json", [old]))
    assert flips(new, read) == flips(new, old)
