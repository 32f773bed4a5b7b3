"""The change of a metric over several seeds, against arithmetic done here."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from qbench.compare.comparable import Gap
from qbench.compare.differences import Difference, difference
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.estimates.estimates import Exact
from qbench.compare.seeds import difference_over_seeds
from tests.paired_records import losses, quality, task
from tests.record_factory import make_failure, make_metric, make_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.record import Record

SAMPLING = Sampling(resamples=3000)
LOSS = "completion.loss"


def completion(nll: Sequence[float], tokens: Sequence[float], **changes: Any) -> Record:
    """Completions of items with these summed losses and tokens."""
    values: dict[str, Any] = {
        "slug": "test",
        "more_metrics": (make_metric(LOSS, math.fsum(nll) / math.fsum(tokens)),),
        "series": {"item_nll": list(nll), "item_tokens": list(tokens)},
        "details": {"item_ids": [f"i{at}" for at in range(len(nll))]},
    }
    return make_record("nf4", "completion", **(values | changes))


def pooled(
    pairs: Sequence[tuple[Sequence[Record], Sequence[Record]]],
    metric: str = LOSS,
    *,
    relative: bool = False,
) -> Difference:
    found = difference_over_seeds(pairs, metric, relative=relative, sampling=SAMPLING)
    assert isinstance(found, Difference)
    return found


def drawn(seed: int, change: float, items: int = 80) -> tuple[list[float], list[float]]:
    """Summed losses and tokens: the same items whatever the seed, each with noise of its own."""
    shared, own = np.random.default_rng(5), np.random.default_rng(seed)
    tokens = shared.integers(5, 40, items).astype(float)
    nll = tokens * (3 + change + shared.normal(0, 0.4, items) + own.normal(0, 0.05, items))
    return nll.tolist(), tokens.tolist()


def test_completions_are_paired_over_items_and_weighted_by_tokens() -> None:
    (own, tokens), (base, _) = drawn(1, -0.2), drawn(2, 0.0)
    found = difference(
        [completion(own, tokens)],
        [completion(base, tokens)],
        LOSS,
        relative=False,
        sampling=SAMPLING,
    )
    expected = (sum(own) - sum(base)) / sum(tokens)
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(expected, abs=1e-12)
    # Cochran's standard error of a ratio of sums
    residuals = [a - b - expected * n for a, b, n in zip(own, base, tokens, strict=True)]
    error = math.sqrt(sum(r**2 for r in residuals)) / sum(tokens)
    assert found.estimate.standard_error == pytest.approx(error, rel=0.08)
    assert (found.unit, found.units) == ("items", 80)


def test_completions_pair_by_their_ids_whatever_their_order() -> None:
    (own, tokens), (base, _) = drawn(1, -0.2), drawn(2, 0.0)
    turned = completion(
        base[::-1],
        tokens[::-1],
        details={"item_ids": [f"i{at}" for at in reversed(range(len(base)))]},
    )
    plain = pooled([([completion(own, tokens)], [completion(base, tokens)])])
    other = pooled([([completion(own, tokens)], [turned])])
    assert plain.estimate is not None
    assert other.estimate is not None
    assert other.estimate.value == pytest.approx(plain.estimate.value)
    assert other.estimate.standard_error == pytest.approx(plain.estimate.standard_error)


def test_one_seed_is_an_ordinary_difference() -> None:
    (own, tokens), (base, _) = drawn(1, -0.2), drawn(2, 0.0)
    sides = [completion(own, tokens)], [completion(base, tokens)]
    alone = difference(*sides, LOSS, relative=False, sampling=SAMPLING)
    found = pooled([sides])
    assert found.estimate is not None
    assert alone.estimate is not None
    assert found.estimate.value == alone.estimate.value
    assert found.estimate.limit(0.05) == alone.estimate.limit(0.05)


def test_variance_is_that_of_items_and_of_seeds() -> None:
    changes = (-0.20, -0.23, -0.19)
    base, tokens = drawn(99, 0.0)
    sides = [drawn(seed, change)[0] for seed, change in enumerate(changes)]
    found = pooled([([completion(own, tokens)], [completion(base, tokens)]) for own in sides])
    each = [(sum(own) - sum(base)) / sum(tokens) for own in sides]
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(statistics.fmean(each))
    mean_own = [statistics.fmean(row) for row in zip(*sides, strict=True)]
    residuals = [
        a - b - found.estimate.value * n for a, b, n in zip(mean_own, base, tokens, strict=True)
    ]
    items = sum(r**2 for r in residuals) / sum(tokens) ** 2
    seeds = statistics.variance(each) / 3
    assert found.estimate.standard_error == pytest.approx(math.sqrt(items + seeds), rel=0.03)
    degrees = (items + seeds) ** 2 / (items**2 / 79 + seeds**2 / 2)
    width = found.estimate.limit(0.975) - found.estimate.value
    expected = stats.t.ppf(0.975, degrees) * math.sqrt(items + seeds)
    assert width == pytest.approx(expected, rel=0.06)
    assert found.new is not None
    assert found.old is not None
    assert found.new - found.old == pytest.approx(found.estimate.value)
    assert "3 seeds" in found.method


def test_a_relative_change_is_the_mean_of_logarithms() -> None:
    base = losses(0.0, seed=9)
    sides = [losses(change, seed=seed) for seed, change in enumerate((0.02, 0.03))]
    found = pooled(
        [([quality("nf4", own)], [quality("fp32", base)]) for own in sides],
        "perplexity",
        relative=True,
    )
    perplexities = [quality("nf4", own).value("perplexity") for own in (*sides, base)]
    assert found.estimate is not None
    first, second, reference = (value or 0.0 for value in perplexities)
    ratio = math.sqrt(first * second) / reference - 1
    assert found.shown(found.estimate.value) == pytest.approx(ratio)
    assert found.new == pytest.approx(math.sqrt(first * second))
    assert found.old == pytest.approx(reference)


def test_intervals_hold_what_they_promise() -> None:
    """Items and seeds both vary: of 95 % intervals about 95 % hold the true change."""
    random = np.random.default_rng(11)
    tokens = [10.0] * 40
    held, runs = 0, 150
    for _ in range(runs):
        items = random.normal(0.1, 0.05, 40)
        base = [30.0] * 40
        pairs = []
        for _seed in range(3):
            change = items + random.normal(0, 0.01) + random.normal(0, 0.02, 40)
            own = [30.0 + 10 * one for one in change]
            pairs.append(([completion(own, tokens)], [completion(base, tokens)]))
        found = difference_over_seeds(pairs, LOSS, relative=False, sampling=Sampling(resamples=400))
        assert isinstance(found, Difference)
        assert found.estimate is not None
        held += found.estimate.limit(0.025) <= 0.1 <= found.estimate.limit(0.975)
    assert held / runs > 0.9


def test_no_difference_anywhere_is_exact() -> None:
    nll, tokens = drawn(1, 0.0)
    same = [completion(nll, tokens)]
    assert pooled([(same, same), (same, same)]).estimate == Exact(0.0)


def test_a_failed_seed_is_left_out() -> None:
    (own, tokens), (base, _) = drawn(1, -0.2), drawn(2, 0.0)
    failed = make_failure("nf4", "completion", "oom", "full", slug="test")
    sides = [completion(own, tokens)], [completion(base, tokens)]
    assert pooled([sides, ([failed], sides[1])]).estimate is not None
    nothing = difference_over_seeds([([failed], sides[1])], LOSS, relative=False, sampling=SAMPLING)
    assert nothing == Gap("missing", "this side: oom (full)")


def test_other_items_in_one_seed_are_not_pooled() -> None:
    (own, tokens), (base, _) = drawn(1, -0.2), drawn(2, 0.0)
    whole = [completion(own, tokens)], [completion(base, tokens)]
    part = [completion(own[:50], tokens[:50])], [completion(base[:50], tokens[:50])]
    found = pooled([whole, part])
    assert found.estimate is None
    assert "the same items" in str(found.reason)


def test_too_few_items_say_so() -> None:
    (own, tokens), (base, _) = drawn(1, -0.2, items=5), drawn(2, 0.0, items=5)
    sides = [completion(own, tokens)], [completion(base, tokens)]
    found = pooled([sides, sides])
    assert found.estimate is None
    assert "too few items" in str(found.reason)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        difference_over_seeds([], LOSS, relative=False, sampling=SAMPLING)


@pytest.mark.parametrize("items", [20, 100])
def test_seeds_that_answer_all_alike_have_an_interval_as_open_as_one_seed(items: int) -> None:
    record = task("nf4", [1.0] * (items // 2) + [0.0] * (items // 2))
    found = pooled([([record], [record])] * 3, "accuracy")
    assert found.estimate is not None
    assert not found.equal
    assert found.estimate.value == 0
    unseen = 1 - 0.05 ** (1 / items)
    assert unseen <= found.estimate.limit(0.95) <= 1.3 * unseen


def test_seeds_whose_losses_are_the_same_to_the_last_bit_are_equal() -> None:
    own, tokens = drawn(1, 0.0)
    records = [completion(own, tokens)]
    assert pooled([(records, records)] * 2).equal
