"""One metric of two groups of records: figures, methods, and why there is sometimes none."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from qbench.compare.differences import difference, level
from qbench.compare.estimates.binary import Proportion
from qbench.compare.estimates.blocks import block_length
from qbench.compare.estimates.estimates import Exact, two_sided
from tests.paired_records import (
    SAMPLING,
    TOKENS,
    divergence,
    footprint,
    latency,
    losses,
    quality,
    task,
)
from tests.record_factory import make_environment, make_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.differences import Difference
    from qbench.core.record import Record


def change(
    new: Sequence[Record], old: Sequence[Record], metric: str, *, relative: bool = True
) -> Difference:
    return difference(new, old, metric, relative=relative, sampling=SAMPLING)


def test_perplexity_is_paired_over_windows_and_weighted_by_tokens() -> None:
    own, base = losses(0.01, seed=2), losses(0.0, seed=1)
    found = change([quality("nf4", own)], [quality("nf4", base)], "perplexity")
    expected = (sum(own) - sum(base)) / (TOKENS * len(own))
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(expected, abs=1e-12)
    assert found.shown(found.estimate.value) == pytest.approx(math.expm1(expected))
    pairs = np.array([(a - b) / TOKENS for a, b in zip(own, base, strict=True)])
    length = block_length(pairs)
    runs = [float(np.roll(pairs, -at)[:length].mean()) for at in range(len(pairs))]
    error = math.sqrt(float(np.var(runs)) / (len(pairs) / length - 1))
    assert found.estimate.standard_error == pytest.approx(error, rel=0.05)
    assert (found.unit, found.units) == ("windows", 240)


def test_an_absolute_change_of_perplexity_is_in_its_own_unit() -> None:
    own, base = [quality("nf4", losses(0.01, seed=2))], [quality("nf4", losses(0.0))]
    found = change(own, base, "perplexity", relative=False)
    values = [side[0].value("perplexity") for side in (own, base)]
    assert None not in values
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(values[0] - values[1], rel=1e-9)  # type: ignore[operator]


def test_a_divergence_is_a_level_with_an_interval() -> None:
    nats = [0.003 + 0.0001 * (index % 11) for index in range(240)]
    found = level([divergence("nf4", nats)], "kl.mean", sampling=SAMPLING)
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(sum(nats) / 240)
    assert found.estimate.limit(0.05) < found.estimate.value < found.estimate.limit(0.95)
    assert found.old is None


def test_scores_are_paired_by_item_whatever_their_order() -> None:
    base = [1.0] * 300 + [0.0] * 100
    own = [1.0] * 290 + [0.0] * 10 + [1.0] * 4 + [0.0] * 96
    theirs = task("nf4", base)
    order = list(reversed(range(400)))
    shuffled = theirs.model_copy(
        update={
            "series": {"item_correct": [base[index] for index in order]},
            "details": {"item_ids": [f"item-{index}" for index in order]},
        }
    )
    for old in (theirs, shuffled):
        found = change([task("nf4", own)], [old], "accuracy", relative=False)
        assert found.estimate is not None
        assert found.estimate.value == pytest.approx(-6 / 400)
        assert two_sided(found.estimate) == pytest.approx(stats.binomtest(4, 14).pvalue)


def test_a_few_items_that_flip_do_not_make_a_certain_difference() -> None:
    base = [1.0] * 320 + [0.0] * 80
    own = [*base[:-1], 1.0]
    found = change([task("nf4", own)], [task("nf4", base)], "accuracy", relative=False)
    assert found.estimate is not None
    assert found.estimate.limit(0.05) < 0 < found.estimate.limit(0.95)


def with_scores(name: str, each: Sequence[float]) -> Record:
    """A record of a score that is neither right nor wrong, such as a share of words."""
    record = task("nf4", each)
    (metric,) = (one for one in record.metrics if one.name == "accuracy")
    scored = metric.model_copy(update={"name": name})
    series = {f"item_{name}": list(each)}
    return record.model_copy(update={"metrics": (scored,), "series": series})


@pytest.mark.parametrize("items", [3, 8, 100])
@pytest.mark.parametrize("relative", [False, True])
def test_the_same_answers_to_some_items_are_not_the_same_answers(
    items: int,
    *,
    relative: bool,
) -> None:
    records = [task("nf4", [1.0] * (items - 1) + [0.0])]
    found = change(records, records, "accuracy", relative=relative)
    assert not found.equal
    assert found.estimate is not None
    assert found.estimate.value == 0
    # a drop that would go unseen in so many items with a chance of 5 %
    base = (items - 1) / items if relative else 1.0
    unseen = (1 - 0.05 ** (1 / items)) / base
    assert found.shown(found.estimate.limit(0.05)) == pytest.approx(max(-unseen, -1), abs=1e-6)


@pytest.mark.parametrize(("items", "span"), [(25, 1.0), (25, 100.0)])
def test_the_same_scores_of_some_items_are_not_the_same_scores(items: int, span: float) -> None:
    scores = [span * (index % 5) / 4 for index in range(items)]
    records = [with_scores("overlap", scores)]
    found = change(records, records, "overlap", relative=False)
    assert not found.equal
    assert found.estimate is not None
    unseen = span * (1 - 0.05 ** (1 / items))
    assert found.estimate.limit(0.95) == pytest.approx(unseen, rel=1e-6)
    few = [with_scores("overlap", scores[:8])]
    assert change(few, few, "overlap", relative=False).short_by == 12


def test_a_few_scores_that_differ_do_not_make_a_narrow_interval() -> None:
    # of 50 items, 2 lose half a point: with a chance of 8 % all of 4 times as many go unseen
    base = [0.2 + 0.1 * (index % 7) for index in range(50)]
    own = [*base[:-2], base[-2] - 0.1, base[-1] - 0.5]
    found = change(
        [with_scores("overlap", own)], [with_scores("overlap", base)], "overlap", relative=False
    )
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(-0.6 / 50)
    assert found.estimate.limit(0.05) < -0.04
    assert found.estimate.limit(0.95) > 0


def test_top_tokens_that_always_agree_may_not_always() -> None:
    windows = 240
    record = quality("nf4", losses(0.0)).model_copy(
        update={
            "metrics": (
                task("nf4", [1.0]).metrics[-1].model_copy(update={"name": "top1_agreement"}),
            )
        }
    )
    series = {**record.series, "window_same_top": [float(TOKENS)] * windows}
    record = record.model_copy(update={"series": series})
    unseen = 1 - 0.05 ** (1 / (windows * TOKENS))
    same = change([record], [record], "top1_agreement", relative=False)
    assert not same.equal
    assert same.estimate is not None
    assert same.estimate.limit(0.05) == pytest.approx(-unseen, rel=1e-3)
    found = level([record], "top1_agreement", sampling=SAMPLING)
    assert found.estimate is not None
    assert found.estimate.limit(0.05) == pytest.approx(1 - unseen, abs=1e-8)


def test_a_share_of_right_answers_has_exact_limits_however_few() -> None:
    found = level([task("nf4", [1.0] * 8)], "accuracy", sampling=SAMPLING)
    assert found.estimate == Proportion(8.0, 8)
    assert found.estimate.limit(0.05) == pytest.approx(0.05 ** (1 / 8))


def test_other_items_are_not_paired() -> None:
    scores = [1.0] * 30 + [0.0] * 10
    other = task("nf4", scores).model_copy(
        update={"details": {"item_ids": [f"other-{index}" for index in range(40)]}}
    )
    found = change([task("nf4", scores)], [other], "accuracy", relative=False)
    assert found.estimate is None
    assert "not the same" in str(found.reason)


def test_latency_is_a_ratio_over_processes() -> None:
    old, new = [0.010, 0.011, 0.012, 0.010, 0.011], [0.013, 0.012, 0.014, 0.013, 0.013]
    found = change(latency("nf4", new), latency("nf4", old), "latency.decode")
    theirs = stats.ttest_ind(
        [math.log(value) for value in new], [math.log(value) for value in old], equal_var=False
    ).confidence_interval(0.9)
    assert found.estimate is not None
    assert found.estimate.limit(0.05) == pytest.approx(theirs.low)
    assert found.estimate.limit(0.95) == pytest.approx(theirs.high)
    assert (found.unit, found.units) == ("processes", 5)


def test_too_few_processes_give_no_verdict_and_say_how_many_more() -> None:
    found = change(latency("nf4", [0.1] * 3), latency("nf4", [0.1] * 6), "latency.decode")
    assert found.estimate is None
    assert found.short_by == 2
    assert "2 more" in str(found.reason)


def test_processes_that_do_not_vary_at_all_tell_nothing_of_their_chance() -> None:
    same = latency("nf4", [0.01] * 5)
    found = change(same, same, "latency.decode")
    assert not found.equal
    assert found.estimate is None
    assert "chance in it is unknown" in str(found.reason)
    assert level(same, "latency.decode", sampling=SAMPLING).estimate is None


def test_too_few_windows_give_no_verdict() -> None:
    own, base = losses(0.0, seed=2, windows=7), losses(0.0, windows=7)
    found = change([quality("nf4", own)], [quality("nf4", base)], "perplexity")
    assert found.estimate is None
    assert found.short_by == 13


def test_windows_that_are_all_the_same_are_equal_however_few() -> None:
    record = quality("nf4", losses(0.0, windows=7))
    found = change([record], [record], "perplexity")
    assert found.estimate == Exact(0.0)
    assert found.equal


def test_bytes_are_exact() -> None:
    found = change([footprint("nf4", 1010)], [footprint("nf4", 1000)], "memory.static")
    assert found.estimate == Exact(math.log(1.01))
    nothing = change([footprint("nf4", 8)], [footprint("nf4", 0)], "memory.static")
    assert nothing.estimate == Exact(math.inf)


def test_a_series_that_does_not_give_the_value_is_not_used() -> None:
    record = quality("nf4", losses(0.0))
    other = {**record.series, "window_nll": losses(0.3)}
    found = change([record.model_copy(update={"series": other})], [record], "perplexity")
    assert found.estimate is None
    assert "chance error is unknown" in str(found.reason)


def test_windows_without_a_finite_loss_give_no_verdict() -> None:
    sums = [*losses(0.0)[:-1], math.inf]
    infinite = quality("nf4", losses(0.0)).model_copy(
        update={"series": {"window_nll": sums, "window_tokens": [float(TOKENS)] * 240}}
    )
    found = change([infinite], [quality("nf4", losses(0.0))], "perplexity")
    assert found.estimate is None
    assert "no finite value" in str(found.reason)


def test_a_relative_change_from_0_asks_for_an_absolute_margin() -> None:
    zero, some = divergence("fp32", [0.0] * 240), divergence("nf4", [0.003] * 239 + [0.004])
    found = change([some], [zero], "kl.mean")
    assert found.estimate is None
    assert "without %" in str(found.reason)
    assert change([some], [zero], "kl.mean", relative=False).estimate is not None


def peaks(values: Sequence[float], **changes: Any) -> list[Record]:
    """Peak memory in a process each."""
    return [
        make_record("nf4", "memory", {"memory.peak": value}, repeat=at, **changes)
        for at, value in enumerate(values)
    ]


def test_the_resident_size_of_a_process_is_another_in_each() -> None:
    once = change(peaks([43e6]), peaks([44e6]), "memory.peak")
    assert once.estimate is None
    assert once.short_by == 4
    several = [43.0e6, 44.1e6, 43.6e6, 42.9e6, 44.4e6]
    again = change(peaks(several), peaks(several[::-1]), "memory.peak")
    assert again.estimate is not None
    assert not again.equal
    assert again.estimate.limit(0.05) < 0 < again.estimate.limit(0.95)


def test_what_tensors_take_is_exact_on_a_cpu_as_on_a_gpu() -> None:
    gpu = make_environment(device_type="cuda")
    found = change(peaks([43], environment=gpu), peaks([44], environment=gpu), "memory.peak")
    assert found.estimate == Exact(math.log(43 / 44))
    counted = [make_record("nf4", "memory", {"memory.peak.inference": 7})]
    assert change(counted, counted, "memory.peak.inference").equal


def test_what_a_record_says_of_its_metric_goes_before_what_its_unit_has() -> None:
    record = footprint("nf4", 1000)
    metric = record.metrics[0].model_copy(update={"varies_by": "process"})
    told = [record.model_copy(update={"metrics": (metric,)})]
    assert change(told, told, "memory.static").short_by == 4
    assert change([record], [record], "memory.static").equal


@pytest.mark.parametrize("count", [1, 3, 20, 40])
@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_numbers_there_is_an_interval_or_a_reason(seed: int, count: int) -> None:
    drawn = random.Random(seed)
    extremes = [0.0, 1.0, -1.0, 2.5, 255.0, 5e-324, 1e-300, 1e59, 1e300, -1e300, math.inf]
    some = drawn.sample(extremes, drawn.choice([1, 2, 11]))
    own, base = ([drawn.choice(some) for _ in range(count)] for _ in range(2))
    tokens = [drawn.choice([255.0, 0.0, 1e-300]) for _ in range(count)]
    for metric, series, weights in (
        ("perplexity", "window_nll", "window_tokens"),
        ("top1_agreement", "window_same_top", "window_tokens"),
        ("accuracy", "item_correct", "item_tokens"),
    ):
        sides = []
        for values in (own, base):
            made = make_record("nf4", "quality", {metric: mean_or_1(values, tokens, metric)})
            kept = {series: values, weights: tokens}
            sides.append([made.model_copy(update={"series": kept})])
        found = [change(sides[0], sides[1], metric, relative=way) for way in (True, False)]
        found.append(level(sides[0], metric, sampling=SAMPLING))
        for one in found:
            assert (one.estimate is None) == (one.reason is not None)
            if one.estimate is not None:
                assert one.estimate.limit(0.05) <= one.estimate.limit(0.95)


def mean_or_1(values: Sequence[float], tokens: Sequence[float], metric: str) -> float:
    """What the series give, or 1 where that is no number."""
    try:
        if metric == "accuracy":
            return math.fsum(values) / len(values)
        mean = math.fsum(values) / math.fsum(tokens)
        return math.exp(mean) if metric == "perplexity" else mean
    except (ArithmeticError, ValueError):
        return 1.0


def test_a_change_beyond_the_range_of_numbers_is_known_by_its_logarithm() -> None:
    old, new = (
        [make_record("fp32", "footprint", {"memory.static": size})] for size in (1e-300, 1e300)
    )
    found = difference(new, old, "memory.static", relative=True, sampling=SAMPLING)
    assert isinstance(found.estimate, Exact)
    assert found.estimate.value == pytest.approx(600 * math.log(10))
