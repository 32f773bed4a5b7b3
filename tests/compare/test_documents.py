"""Windows of one document are drawn together: how often intervals hold, and what stays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from qbench.compare.baseline import read_baseline, write_baseline
from qbench.compare.differences import Difference, difference, level
from qbench.compare.estimates.bootstrap import Sampling, bootstrap
from qbench.compare.seeds import difference_over_seeds
from qbench.compare.series import find_series, grouped
from tests.compare.test_quantile_intervals import drawn, record_of
from tests.paired_records import TOKENS, losses, quality

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.compare.estimates.bootstrap import Floats
    from qbench.core.record import Record

SAMPLING = Sampling(resamples=400)
DOCUMENTS = 40


def of_documents(record: Record, documents: Sequence[int]) -> Record:
    series = {**record.series, "window_document": [float(one) for one in documents]}
    return record.model_copy(update={"series": series})


def drawn_text(seed: int) -> tuple[Floats, list[int]]:
    """The mean loss of each window, 0 in truth; some documents are hard, some are long."""
    random = np.random.default_rng(seed)
    sizes = random.geometric(1 / 6, DOCUMENTS)
    documents = np.repeat(np.arange(DOCUMENTS), sizes)
    effects = random.normal(0, 0.3, DOCUMENTS)[documents]
    return effects + random.normal(0, 0.3, len(documents)), documents.tolist()


def test_documents_hold_the_truth_where_windows_alone_do_not() -> None:
    held = {"documents": 0, "independent": 0}
    for seed in range(150):
        values, documents = drawn_text(seed)
        sums = [float(TOKENS * (2 + one)) for one in values]
        record = of_documents(quality("nf4", sums), documents)
        found = level([record], "perplexity", sampling=SAMPLING)
        assert (found.unit, found.units) == ("documents", DOCUMENTS)
        low, high = found.ends(0.025)
        assert low is not None
        assert high is not None
        held["documents"] += low <= math.exp(2) <= high
        ones = [1.0] * len(values)
        alone = bootstrap([values.tolist(), ones], lambda sums: sums[0] / sums[1], resamples=400)
        held["independent"] += 0.025 <= alone.confidence_below(0) <= 0.975
    assert held["documents"] / 150 >= 0.92
    assert held["independent"] / 150 <= 0.7


def test_the_spread_is_that_of_documents_drawn_whole() -> None:
    values, documents = drawn_text(1)
    record = of_documents(quality("nf4", [float(TOKENS * (2 + one)) for one in values]), documents)
    estimate = level([record], "perplexity", sampling=Sampling()).estimate
    assert estimate is not None
    blocks = estimate.degrees + 1  # type: ignore[attr-defined]  # of a bootstrap
    length = round(DOCUMENTS / blocks)
    random, means = np.random.default_rng(0), []
    of = [np.flatnonzero(np.array(documents) == one) for one in range(DOCUMENTS)]
    for _ in range(1500):
        starts = random.integers(0, DOCUMENTS, math.ceil(blocks))
        chosen = (starts[:, None] + np.arange(length)).ravel() % DOCUMENTS
        means.append(values[np.concatenate([of[one] for one in chosen])].mean())
    wanted = np.std(means) * math.sqrt(math.ceil(blocks) / (blocks - 1))
    assert estimate.standard_error / estimate.value == pytest.approx(wanted, rel=0.06)


@pytest.mark.parametrize("metric", ["perplexity", "kl.p90"])
def test_where_each_window_is_a_document_nothing_changes(metric: str) -> None:
    record = record_of(drawn(1))
    single = of_documents(record, range(100))
    assert level([single], metric, sampling=SAMPLING) == level([record], metric, sampling=SAMPLING)


@pytest.mark.parametrize("metric", ["perplexity", "kl.p90"])
@pytest.mark.parametrize(
    "documents",
    [
        [at // 10 for at in range(100)],  # too few of them
        [at // 2 for at in range(98)],  # of another number of windows
        [at / 3 for at in range(100)],
    ],
)
def test_without_enough_documents_windows_are_drawn(metric: str, documents: list[int]) -> None:
    record = record_of(drawn(1))
    found = level([of_documents(record, documents)], metric, sampling=SAMPLING)
    assert found == level([record], metric, sampling=SAMPLING)


def test_quantiles_are_drawn_by_document_too() -> None:
    documents = [at // 4 for at in range(100)]
    kl = drawn(1) * np.repeat(np.exp(np.random.default_rng(0).normal(0, 1, 25)), 4)[:, None]
    found = level([of_documents(record_of(kl), documents)], "kl.p90", sampling=Sampling())
    assert (found.unit, found.units, found.new) == ("documents", 25, float(np.quantile(kl, 0.9)))
    assert found.estimate is not None
    length = round(25 / (found.estimate.degrees + 1))  # type: ignore[attr-defined]
    random, drawn_ones = np.random.default_rng(0), []
    for _ in range(400):
        starts = random.integers(0, 25, math.ceil(25 / length))
        chosen = (starts[:, None] + np.arange(length)).ravel() % 25
        drawn_ones.append(np.quantile(kl.reshape(25, -1)[chosen], 0.9))
    blocks = 25 / length
    wanted = np.std(drawn_ones) * math.sqrt(math.ceil(blocks) / (blocks - 1))
    assert found.estimate.standard_error == pytest.approx(wanted, rel=0.12)


@pytest.mark.parametrize("metric", ["perplexity", "kl.p90"])
def test_documents_that_one_side_alone_knows_hold_for_both(metric: str) -> None:
    documents = [at // 4 for at in range(100)]
    old, new = record_of(drawn(1), "fp32"), of_documents(record_of(drawn(2)), documents)
    if metric == "perplexity":
        sides = [quality(name, losses(0.01 * at, seed=at + 1, windows=100)) for at, name in
                 enumerate(("fp32", "nf4"))]  # fmt: skip
        old, new = sides[0], of_documents(sides[1], documents)
    both = difference(
        [new], [of_documents(old, documents)], metric, relative=True, sampling=SAMPLING
    )
    assert (both.unit, both.units) == ("documents", 25)
    for mine, theirs in ((new, old), (of_documents(old, documents), new)):
        found = difference([mine], [theirs], metric, relative=True, sampling=SAMPLING)
        assert (found.unit, found.units) == ("documents", 25)
    found = difference([new], [old], metric, relative=True, sampling=SAMPLING)
    assert found.ends(0.025) == both.ends(0.025)


def test_documents_keep_the_order_of_the_text_and_all_of_its_tokens() -> None:
    values, documents = drawn_text(2)
    record = of_documents(quality("nf4", [float(TOKENS * (2 + one)) for one in values]), documents)
    series = find_series(record, "perplexity", record.value("perplexity") or 0.0)
    assert series is not None
    found = grouped(series)
    assert found.of_text
    counts = np.bincount(documents)
    assert list(found.weights) == pytest.approx((TOKENS * counts).tolist())
    assert list(found.sums) == pytest.approx(
        np.bincount(documents, weights=TOKENS * (2 + values)).tolist()
    )


def test_seeds_are_pooled_over_documents() -> None:
    documents = [at // 4 for at in range(240)]
    base = of_documents(quality("fp32", losses(0.0)), documents)
    pairs = [
        ([of_documents(quality("nf4", losses(0.01, seed=seed)), documents)], [base])
        for seed in (2, 3)
    ]
    found = difference_over_seeds(pairs, "perplexity", relative=True, sampling=SAMPLING)
    assert isinstance(found, Difference)
    assert found.unit == "documents"


def test_a_baseline_keeps_the_documents(tmp_path: Path) -> None:
    record = of_documents(quality("nf4", losses(0.0)), [at // 4 for at in range(240)])
    (read,) = read_baseline(write_baseline(tmp_path / "baseline.json", [record]))
    wanted = level([record], "perplexity", sampling=SAMPLING)
    assert wanted.unit == "documents"
    assert level([read], "perplexity", sampling=SAMPLING) == wanted
