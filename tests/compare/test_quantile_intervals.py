"""Quantiles over tokens and windows: intervals against a bootstrap of the tokens themselves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from qbench.compare.baseline import read_baseline, write_baseline
from qbench.compare.comparable import missing_value
from qbench.compare.differences import Difference, difference, level
from qbench.compare.estimates.bootstrap import Bootstrap, Sampling
from qbench.compare.estimates.quantiles import Binned, Listed, bootstrap_quantile, influence
from qbench.compare.gate.gate import run_gate
from qbench.compare.seeds import difference_over_seeds
from qbench.core.binned_windows import (
    EDGES,
    BinnedWindows,
    binned_windows,
    edges_parted,
    stored,
)
from tests.compare.gate.rule_section import read_rules
from tests.paired_records import quality
from tests.record_factory import make_metric

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.compare.estimates.bootstrap import Floats
    from qbench.core.record import Record

SHARES = {"kl.median": 0.5, "kl.p90": 0.9, "kl.p99": 0.99, "kl.p99_9": 0.999}
SAMPLING = Sampling(resamples=2000)
WINDOWS, TOKENS = 100, 255


def drawn(seed: int, *, windows: int = WINDOWS, phi: float = 0.0, of_window: float = 0.5) -> Floats:
    """KL of tokens, (windows, tokens): some windows are damaged more, as their neighbours are."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=windows + 50) * math.sqrt(1 - phi**2)
    effects = lfilter([1.0], [1.0, -phi], noise)[50:]
    tokens = random.normal(-7, 2, (windows, TOKENS))
    return np.asarray(np.exp(tokens + of_window * effects[:, None]))


def counted(kl: Floats) -> BinnedWindows:
    edges = edges_parted(float(np.quantile(kl, share)) for share in SHARES.values())
    places = np.searchsorted(edges, kl, side="left")
    counts = np.stack([np.bincount(row, minlength=len(edges) + 1) for row in places])
    return BinnedWindows(counts, edges)


def spread_of(kl: Floats) -> Binned:
    found = counted(kl)
    return Binned(found.counts.astype(float), np.array([0.0, *found.edges, 1000.0]))


def record_of(kl: Floats, precision: str = "nf4", **changes: Any) -> Record:
    """A quality record with the quantiles of these tokens."""
    record = quality(precision, [2.0 * TOKENS] * len(kl), **changes)
    found = [make_metric(name, float(np.quantile(kl, share))) for name, share in SHARES.items()]
    metrics = [one.model_copy(update={"better": "lower", "unit": "nat"}) for one in found]
    details = {**record.details, "kl_by_window": stored(counted(kl))}
    return record.model_copy(update={"metrics": (*record.metrics, *metrics), "details": details})


def naive(sides: Sequence[Floats], share: float, blocks: float, resamples: int = 300) -> Floats:
    """The change of a quantile of the tokens themselves over resampled blocks of windows."""
    random = np.random.default_rng(9)
    windows = len(sides[0])
    length = round(windows / blocks)
    found = []
    for _ in range(resamples):
        starts = random.integers(0, windows, math.ceil(windows / length))
        chosen = (starts[:, None] + np.arange(length)).ravel() % windows
        quantiles = [float(np.quantile(one[chosen], share)) for one in sides]
        found.append(quantiles[0] - quantiles[1] if len(quantiles) > 1 else quantiles[0])
    return np.array(found) * math.sqrt(math.ceil(blocks) / (blocks - 1))


def estimate(found: Difference) -> Bootstrap:
    assert isinstance(found.estimate, Bootstrap), found.reason
    return found.estimate


@pytest.mark.parametrize("metric", ["kl.median", "kl.p90", "kl.p99"])
def test_a_quantiles_interval_is_that_of_its_tokens_drawn_by_window(metric: str) -> None:
    errors, reaches = [], []
    for seed in range(5):
        kl = drawn(seed)
        found = estimate(level([record_of(kl)], metric, sampling=SAMPLING))
        wanted = naive([kl], SHARES[metric], found.degrees + 1).std()
        assert found.value == np.quantile(kl, SHARES[metric])
        errors.append(found.standard_error / wanted)
        reach = stats.t.ppf(0.975, found.degrees) * wanted
        reaches.append((found.limit(0.975) - found.limit(0.025)) / (2 * reach))
    assert errors == pytest.approx([1.0] * 5, abs=0.25)
    assert np.mean(errors) == pytest.approx(1, abs=0.1)
    assert np.mean(reaches) == pytest.approx(1, abs=0.15)


def pair(seed: int) -> tuple[Floats, Floats]:
    """Two cells whose divergence rises at the same tokens, in the same windows."""
    base = drawn(seed)
    return base * np.exp(np.random.default_rng(2000 + seed).normal(0.1, 0.3, base.shape)), base


@pytest.mark.parametrize("metric", ["kl.median", "kl.p90", "kl.p99"])
def test_a_difference_is_paired_by_window(metric: str) -> None:
    share = SHARES[metric]
    drawn_pairs = (pair(at) for at in range(300))
    changes = [np.quantile(own, share) - np.quantile(base, share) for own, base in drawn_pairs]
    errors = []
    for seed in range(300, 316):
        own, base = pair(seed)
        sides = [record_of(own)], [record_of(base, "fp32")]
        found = difference(*sides, metric, relative=False, sampling=Sampling(resamples=500))
        errors.append(estimate(found).standard_error)
        assert [found.new, found.old] == [np.quantile(side, share) for side in (own, base)]
    assert np.mean(errors) == pytest.approx(np.std(changes), rel=0.15)
    apart = [estimate(level(side, metric, sampling=SAMPLING)).standard_error for side in sides]
    assert np.mean(errors) < 0.6 * math.hypot(*apart)
    relative = estimate(difference(*sides, metric, relative=True, sampling=SAMPLING))
    assert relative.value == pytest.approx(
        math.log(np.quantile(own, share) / np.quantile(base, share))
    )


@pytest.mark.parametrize(
    ("metric", "windows", "phi", "least"),
    [
        ("kl.median", 60, 0.0, 0.9),
        ("kl.p90", 120, 0.6, 0.88),
        ("kl.p99", 60, 0.3, 0.9),
        ("kl.p99_9", 120, 0.0, 0.88),
    ],
)
def test_intervals_hold_the_truth(metric: str, windows: int, phi: float, least: float) -> None:
    share = SHARES[metric]
    truth = math.exp(stats.norm.ppf(share, -7, math.sqrt(4 + 0.25)))
    held = 0
    for seed in range(100):
        kl = drawn(seed, windows=windows, phi=phi)
        spread = spread_of(kl)
        value = float(np.quantile(kl, share))
        found = bootstrap_quantile(
            lambda times, spread=spread: spread.quantile(times, share),  # type: ignore[misc]
            value,
            influence(spread, share),
            Sampling(resamples=400),
        )
        held += 0.025 <= found.confidence_below(truth) <= 0.975
    assert held / 100 >= least


def test_tokens_taken_for_independent_would_hold_it_far_less_often() -> None:
    """Limits of order statistics, which take each token for a draw of its own."""
    truth = math.exp(stats.norm.ppf(0.9, -7, math.sqrt(5)))
    held = 0
    for seed in range(60):
        values = np.sort(drawn(seed, windows=60, of_window=1.0).ravel())
        low, high = stats.binom.ppf([0.025, 0.975], len(values), 0.9).astype(int)
        held += values[low] <= truth <= values[high]
    assert held / 60 < 0.5


def test_what_a_bin_holds_is_read_off_within_its_width() -> None:
    kl = drawn(4)
    spread = spread_of(kl)
    times = np.random.default_rng(0).multinomial(WINDOWS, [1 / WINDOWS] * WINDOWS, 30).astype(float)
    for share, near in ((0.5, 0.02), (0.9, 0.03), (0.99, 0.05), (0.999, 0.33)):
        found = spread.quantile(times, share)
        wanted = [
            float(np.quantile(np.repeat(kl, row.astype(int), axis=0), share)) for row in times
        ]
        assert found == pytest.approx(wanted, rel=near)


def test_quantiles_of_windows_are_those_of_each_resample() -> None:
    values = np.exp(np.random.default_rng(5).normal(2, 0.3, 60))
    spread = Listed(values, np.arange(60))
    times = np.random.default_rng(0).multinomial(60, [1 / 60] * 60, 30).astype(float)
    for share in (0.1, 0.5, 0.9):
        wanted = [np.quantile(np.repeat(values, row.astype(int)), share) for row in times]
        assert spread.quantile(times, share) == pytest.approx(wanted)


def perplexities(seed: int, change: float = 0.0, windows: int = 240) -> list[float]:
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    losses = shared.normal(2.4, 0.3, windows) + own.normal(change, 0.01, windows)
    return [float(TOKENS * one) for one in losses]


def of_windows(sums: list[float], precision: str = "nf4") -> Record:
    values = np.exp(np.array(sums) / TOKENS)
    metrics = {f"p{int(100 * share)}": float(np.quantile(values, share)) for share in (0.1, 0.9)}
    named = {"p10": metrics["p10"], "median": float(np.median(values)), "p90": metrics["p90"]}
    more = tuple(make_metric(f"window_perplexity.{key}", value) for key, value in named.items())
    record = quality(precision, sums)
    return record.model_copy(update={"metrics": (*record.metrics, *more)})


def test_quantiles_of_the_windows_perplexities_need_no_more_than_their_losses() -> None:
    own, base = of_windows(perplexities(1, 0.03)), of_windows(perplexities(2), "fp32")
    at = difference([own], [base], "window_perplexity.p90", relative=True, sampling=SAMPLING)
    assert (at.unit, at.units) == ("windows", 240)
    assert estimate(at).value == pytest.approx(0.03, abs=0.03)
    assert estimate(at).standard_error < 0.03
    alone = level([own], "window_perplexity.median", sampling=SAMPLING)
    error = math.sqrt(math.pi / 2) * 0.3 / math.sqrt(240)
    assert estimate(alone).standard_error / estimate(alone).value == pytest.approx(error, rel=0.3)


def test_the_same_counts_are_no_difference() -> None:
    kl = drawn(1)
    sides = [record_of(kl)], [record_of(kl, "fp32")]
    for relative in (True, False):
        found = difference(*sides, "kl.p99", relative=relative, sampling=SAMPLING)
        assert found.equal


def test_a_reference_against_itself_has_no_chance_in_it() -> None:
    nothing = record_of(np.zeros((WINDOWS, TOKENS)), "fp32")
    found = level([nothing], "kl.p99", sampling=SAMPLING)
    assert found.ends(0.025) == (0.0, 0.0)
    change = difference(
        [record_of(drawn(1))], [nothing], "kl.p99", relative=False, sampling=SAMPLING
    )
    alone = level([record_of(drawn(1))], "kl.p99", sampling=SAMPLING)
    assert change.ends(0.025) == pytest.approx(alone.ends(0.025), rel=1e-6)
    ratio = difference([record_of(drawn(1))], [nothing], "kl.p99", relative=True, sampling=SAMPLING)
    assert ratio.estimate is None
    assert "without %" in str(ratio.reason)


def test_too_few_windows_beyond_a_quantile_decide_nothing() -> None:
    kl = np.full((WINDOWS, TOKENS), 1e-4)
    kl[:6] = 0.5
    found = level([record_of(kl)], "kl.p99", sampling=SAMPLING)
    assert found.estimate is None
    assert "6 of 100 hold tokens beyond the quantile, and 20 must" in str(found.reason)
    answers = level([by_item(kl)], "chat.kl.p99", sampling=SAMPLING)
    assert "too few items" in str(answers.reason)
    assert str(answers.reason).endswith("take more of them")
    few = level([record_of(drawn(1, windows=12))], "kl.median", sampling=SAMPLING)
    assert "too few windows to decide by: 12, 8 more are needed" in str(few.reason)


def test_a_quantile_between_two_tokens_far_apart_says_that_few_lie_beyond_it() -> None:
    kl = drawn(1, windows=22) / 100
    kl[0, :6] = 50.0
    found = level([by_item(kl)], "chat.kl.p99_9", sampling=SAMPLING)
    assert 10 * np.sort(kl, axis=None)[-7] < found.new < 25
    assert found.estimate is None
    assert "of 22 hold tokens beyond the quantile, and 20 must" in str(found.reason)


def test_records_without_counts_say_why_there_is_no_interval() -> None:
    record = record_of(drawn(1))
    kept = record.details["kl_by_window"]
    damaged: list[Any] = [
        None,
        "counts",
        {**kept, "counts": "?"},
        {**kept, "counts": kept["counts"][:40]},
        {**kept, "a_decade": 4},
        {**kept, "parted_at": ["a"]},
        {**kept, "parted_at": [*kept["parted_at"], 0.25]},
        {**kept, "bytes_a_count": 3},
        stored(counted(drawn(1)[:-1])),
        stored(counted(drawn(1))._replace(counts=counted(drawn(1)).counts + 1)),
        stored(counted(100 * drawn(1))),
    ]
    for one in damaged:
        details = {**record.details, "kl_by_window": one}
        old = record.model_copy(update={"details": details})
        for found in (
            level([old], "kl.p99", sampling=SAMPLING),
            difference([old], [record], "kl.p99", relative=False, sampling=SAMPLING),
        ):
            assert found.estimate is None
            assert "no counts of tokens by window are kept" in str(found.reason)
            assert "is to be taken again, a baseline written anew" in str(found.reason)
            assert found.new == record.value("kl.p99")


def test_a_record_from_before_a_metric_was_measured_is_to_be_taken_again() -> None:
    record = record_of(drawn(1))
    gap = missing_value([record], "kl.of_another_time", "the baseline")
    assert gap is not None
    assert gap.reason.startswith("the baseline: its record does not hold this metric; ")
    assert gap.reason.endswith("is to be taken again, a baseline written anew")


def test_no_more_is_unpacked_than_belongs_to_the_windows() -> None:
    bins = len(EDGES) + 1
    many = stored(BinnedWindows(np.zeros((100_000, bins), np.int64), EDGES))
    assert len(many["counts"]) < 100_000
    assert binned_windows(many, 10) is None


@pytest.mark.parametrize("largest", [3, 300, 70_000])
def test_counts_come_back_as_they_were_kept(largest: int) -> None:
    edges = edges_parted([0.0, 0.1, 0.2, 1e9])
    assert len(edges) == len(EDGES) + 2 - (0.1 in EDGES)
    counts = np.random.default_rng(0).integers(0, largest, (7, len(edges) + 1))
    found = binned_windows(stored(BinnedWindows(counts, edges)), 7)
    assert found is not None
    assert found.edges == edges
    assert found.counts.tolist() == counts.tolist()


def test_a_baseline_keeps_the_counts(tmp_path: Path) -> None:
    record = record_of(drawn(1))
    (read,) = read_baseline(write_baseline(tmp_path / "baseline.json", [record]))
    wanted = level([record], "kl.p99", sampling=SAMPLING)
    assert level([read], "kl.p99", sampling=SAMPLING) == wanted


def test_a_rule_on_a_quantile_is_decided() -> None:
    base = drawn(1)
    new, old = [record_of(1.5 * base)], [record_of(base)]
    rules = {
        "kl.p99": {"max_increase": "10%"},
        "kl.p90": {"max": 0.5},
        "kl.median": {"max_increase": 0.1},
    }
    outcome = run_gate(read_rules(rules), new, old, sampling=SAMPLING)
    verdicts = {check.metric: check.verdict.name for check in outcome.checks}
    assert verdicts == {"kl.p99": "broken", "kl.p90": "holds", "kl.median": "holds"}


def test_over_seeds_the_windows_chance_and_the_seeds_are_added() -> None:
    base = drawn(1)
    own = [base * math.exp(0.2 + change) for change in (0.0, 0.1, -0.05)]
    pairs = [([record_of(one)], [record_of(base, "fp32")]) for one in own]
    found = difference_over_seeds(pairs, "kl.p90", relative=True, sampling=SAMPLING)
    assert isinstance(found, Difference)
    assert found.estimate is not None
    changes = [0.2, 0.3, 0.15]
    assert found.estimate.value == pytest.approx(np.mean(changes))
    seeds = np.var(changes, ddof=1) / 3
    # The same factor in all tokens changes nothing by window: all of the chance is in the seeds.
    assert found.estimate.standard_error == pytest.approx(math.sqrt(seeds), rel=0.05)
    assert found.method.endswith("mean of 3 seeds")
    old = record_of(base, "fp32", details={"ids_sha256": "ab" * 32})
    bare = old.model_copy(update={"details": {"ids_sha256": "ab" * 32}})
    unlike = difference_over_seeds(
        [pairs[0], (pairs[1][0], [bare])], "kl.p90", relative=False, sampling=SAMPLING
    )
    assert isinstance(unlike, Difference)
    assert unlike.estimate is None


def by_item(kl: Floats, ids: list[str] | None = None) -> Record:
    """The same of items that do not follow each other, such as answers."""
    record = record_of(kl)
    more = {} if ids is None else {"item_ids": ids}
    metrics = [
        one.model_copy(update={"name": f"chat.{one.name}"})
        for one in record.metrics
        if one.name.startswith("kl.")
    ]
    return record.model_copy(
        update={
            "metrics": tuple(metrics),
            "series": {"item_tokens": [float(TOKENS)] * len(kl)},
            "details": {"kl_by_window": record.details["kl_by_window"], **more},
        }
    )


def test_items_are_drawn_one_by_one() -> None:
    errors = []
    for seed in range(4):
        kl = drawn(seed, phi=0.8)  # as if neighbours were alike: their order says nothing
        found = level([by_item(kl)], "chat.kl.p90", sampling=SAMPLING)
        assert (found.unit, found.units) == ("items", WINDOWS)
        assert found.method == "bootstrap over items"
        random = np.random.default_rng(0)
        chosen = (random.integers(0, WINDOWS, WINDOWS) for _ in range(300))
        wanted = np.std([np.quantile(kl[one], 0.9) for one in chosen])
        errors.append(estimate(found).standard_error / (wanted * math.sqrt(100 / 99)))
    assert np.mean(errors) == pytest.approx(1, abs=0.1)


def test_items_of_other_names_are_not_compared() -> None:
    kl, names = drawn(1), [str(at) for at in range(WINDOWS)]
    own, base = by_item(1.1 * kl, names), by_item(kl, names)
    found = difference([own], [base], "chat.kl.p90", relative=True, sampling=SAMPLING)
    assert estimate(found).value == pytest.approx(math.log(1.1))
    other = by_item(kl, names[::-1])
    found = difference([own], [other], "chat.kl.p90", relative=True, sampling=SAMPLING)
    assert found.estimate is None
    assert "items of the two sides are not the same ones" in str(found.reason)
