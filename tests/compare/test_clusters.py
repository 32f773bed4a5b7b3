"""Items that share a passage: intervals against cluster-robust errors worked out in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from qbench.compare.baseline import read_baseline, write_baseline
from qbench.compare.differences import difference, level
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.flips import Flips, find_flips
from qbench.compare.seeds import difference_over_seeds
from tests.paired_records import SAMPLING, task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.core.record import Record

PASSAGES, QUESTIONS = 80, 6
ITEMS = PASSAGES * QUESTIONS
CLUSTERS = [index // QUESTIONS for index in range(ITEMS)]
_RANDOM = np.random.default_rng(4)
_HARD = np.repeat(_RANDOM.beta(0.6, 0.4, PASSAGES), QUESTIONS)
RIGHT = (_RANDOM.random(ITEMS) < _HARD).astype(float)
_LOST = np.repeat(_RANDOM.random(PASSAGES) < 0.5, QUESTIONS) & (_RANDOM.random(ITEMS) < 0.8)
OTHER = np.where(_LOST, 0.0, RIGHT)


def clustered(precision: str, scores: Sequence[float], **changes: Any) -> Record:
    record = task(precision, [float(score) for score in scores], **changes)
    kept = {"clusters": CLUSTERS[: len(scores)], "clustered_by": "passage"}
    return record.model_copy(update={"details": {**record.details, **kept}})


def robust_error(values: np.ndarray[Any, Any]) -> float:
    """Liang and Zeger's error of a mean, with the correction for the number of clusters."""
    sums = np.zeros(PASSAGES)
    np.add.at(sums, CLUSTERS, values - values.mean())
    return float(np.sqrt(PASSAGES / (PASSAGES - 1) * (sums**2).sum()) / len(values))


def naive_error(values: np.ndarray[Any, Any]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def test_a_scores_error_is_the_cluster_robust_one() -> None:
    found = level([clustered("nf4", RIGHT)], "accuracy", sampling=Sampling())
    estimate = found.estimate
    assert estimate is not None
    assert (found.unit, found.units) == ("groups", PASSAGES)
    assert estimate.value == pytest.approx(RIGHT.mean())
    assert estimate.standard_error == pytest.approx(robust_error(RIGHT), rel=0.03)
    assert estimate.standard_error > 1.5 * naive_error(RIGHT)
    reach = stats.t.ppf(0.975, PASSAGES - 1) * robust_error(RIGHT)
    assert estimate.limit(0.025) == pytest.approx(RIGHT.mean() - reach, abs=0.2 * reach)
    assert estimate.limit(0.975) == pytest.approx(RIGHT.mean() + reach, abs=0.2 * reach)


def test_a_paired_difference_is_too() -> None:
    sides = [clustered("nf4", OTHER)], [clustered("fp32", RIGHT)]
    found = difference(*sides, "accuracy", relative=False, sampling=Sampling())
    assert found.estimate is not None
    changes = OTHER - RIGHT
    assert found.estimate.value == pytest.approx(changes.mean())
    assert found.estimate.standard_error == pytest.approx(robust_error(changes), rel=0.03)
    assert found.estimate.standard_error > 1.5 * naive_error(changes)


def test_flips_are_drawn_by_cluster() -> None:
    sides = [clustered("nf4", OTHER)], [clustered("fp32", RIGHT)]
    found = find_flips(*sides, "accuracy", sampling=Sampling())
    assert isinstance(found, Flips)
    assert found.lost == int((OTHER < RIGHT).sum())
    assert found.flips.estimate is not None
    flipped = (OTHER != RIGHT).astype(float)
    assert found.flips.estimate.standard_error == pytest.approx(robust_error(flipped), rel=0.03)


def test_clusters_that_one_side_alone_knows_hold_for_both() -> None:
    plain = task("fp32", [float(score) for score in RIGHT])
    order = list(_RANDOM.permutation(ITEMS))
    ids = [plain.details["item_ids"][at] for at in order]
    moved = task("fp32", [float(RIGHT[at]) for at in order])
    moved = moved.model_copy(update={"details": {"item_ids": ids}})
    sides = [clustered("nf4", OTHER)], [clustered("fp32", RIGHT)]
    wanted = difference(*sides, "accuracy", relative=False, sampling=SAMPLING).estimate
    for old in (plain, moved):
        found = difference(sides[0], [old], "accuracy", relative=False, sampling=SAMPLING)
        assert wanted is not None
        assert found.estimate is not None
        assert found.estimate.standard_error == pytest.approx(wanted.standard_error, rel=0.05)
    back = difference([plain], sides[0], "accuracy", relative=False, sampling=SAMPLING)
    assert (back.unit, back.units) == ("groups", PASSAGES)


def test_over_seeds_the_errors_of_the_items_are_by_cluster() -> None:
    pairs = [([clustered("nf4", OTHER)], [clustered("fp32", RIGHT)])] * 2
    found = difference_over_seeds(pairs, "accuracy", relative=False, sampling=Sampling())
    assert not hasattr(found, "kind")
    estimate = found.estimate  # type: ignore[union-attr]  # no gap, as was seen
    assert estimate is not None
    assert estimate.standard_error == pytest.approx(robust_error(OTHER - RIGHT), rel=0.03)


def test_what_is_alike_in_every_cluster_is_bounded_by_their_number() -> None:
    ones = [1.0] * ITEMS
    found = level([clustered("nf4", ones)], "accuracy", sampling=SAMPLING).estimate
    assert found is not None
    assert found.limit(0.025) == pytest.approx(0.025 ** (1 / PASSAGES))
    sides = [clustered("nf4", RIGHT)], [clustered("fp32", RIGHT)]
    same = difference(*sides, "accuracy", relative=False, sampling=SAMPLING).estimate
    assert same is not None
    assert same.limit(0.975) == pytest.approx(1 - 0.025 ** (1 / PASSAGES))


def test_few_clusters_do_not_decide_however_many_items_they_have() -> None:
    record = clustered("nf4", RIGHT)
    wide = record.model_copy(
        update={"details": {**record.details, "clusters": [at % 7 for at in range(ITEMS)]}}
    )
    found = level([wide], "accuracy", sampling=SAMPLING)
    assert found.estimate is None
    assert found.reason is not None
    assert "too few groups to decide by: 7, 13 more are needed" in found.reason


def test_flips_over_few_clusters_say_why_they_have_no_interval() -> None:
    few = [at % 7 for at in range(ITEMS)]
    sides = [
        one.model_copy(update={"details": {**one.details, "clusters": few}})
        for one in (clustered("nf4", OTHER), clustered("fp32", RIGHT))
    ]
    found = find_flips([sides[0]], [sides[1]], "accuracy", sampling=SAMPLING)
    assert isinstance(found, Flips)
    assert (found.flips.estimate, found.flips.short_by) == (None, 13)
    assert "too few groups to decide by: 7, 13 more are needed" in str(found.flips.reason)


def test_without_clusters_nothing_changes() -> None:
    plain = task("nf4", [float(score) for score in RIGHT])
    found = level([plain], "accuracy", sampling=SAMPLING)
    exact = stats.binomtest(int(RIGHT.sum()), ITEMS).proportion_ci(0.95, method="exact")
    assert found.estimate is not None
    assert found.estimate.limit(0.025) == pytest.approx(exact.low)
    damaged = clustered("nf4", RIGHT)
    for wrong in (CLUSTERS[1:], [["a"]] * ITEMS, "clusters", None):
        details = {**damaged.details, "clusters": wrong}
        again = damaged.model_copy(update={"details": details})
        assert level([again], "accuracy", sampling=SAMPLING) == found


def test_a_baseline_keeps_the_clusters(tmp_path: Path) -> None:
    record = clustered("nf4", RIGHT)
    (read,) = read_baseline(write_baseline(tmp_path / "baseline.json", [record]))
    sides = [level([one], "accuracy", sampling=SAMPLING).estimate for one in (read, record)]
    assert sides[0] is not None
    assert sides[1] is not None
    assert sides[0].standard_error == sides[1].standard_error
