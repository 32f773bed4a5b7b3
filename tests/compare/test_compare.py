"""Two sets of records: what is real, what is the same, what cannot be compared and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.comparable import Gap
from qbench.compare.compare import compare_records
from qbench.compare.marks import Allowance, one_change
from qbench.compare.selection import select
from qbench.report import markdown
from qbench.report.comparison import comparison_page
from qbench.report.differences import difference_table
from tests.paired_records import (
    OTHER_DEVICE,
    SAMPLING,
    divergence,
    footprint,
    latency,
    losses,
    quality,
    task,
    untouched,
)
from tests.record_factory import make_environment, make_failure, make_record

if TYPE_CHECKING:
    from qbench.compare.compare import Comparison, Row
    from qbench.core.record import Record


def compare(new: list[Record], old: list[Record], **options: Any) -> Comparison:
    return compare_records(new, old, sampling=SAMPLING, **options)


def row_of(comparison: Comparison, metric: str) -> Row:
    (found,) = [row for row in comparison.rows if row.metric == metric]
    return found


def test_records_against_themselves_are_equivalent_throughout() -> None:
    comparison = compare(untouched(), untouched())
    findings = {row.metric: row.mark.finding for row in comparison.rows}
    assert findings == dict.fromkeys(
        ("perplexity", "tokens", "accuracy", "latency.decode", "memory.static"), "equivalent"
    )
    assert comparison.conditions == ()


def test_real_differences_have_a_direction() -> None:
    new = [
        quality("nf4", losses(0.05, seed=2)),
        task("nf4", [1.0] * 250 + [0.0] * 150),
        *latency("nf4", [0.0050, 0.0051, 0.0049, 0.0052, 0.0048]),
        footprint("nf4", 1_100_000),
    ]
    comparison = compare(new, untouched())
    directions = {row.metric: row.direction for row in comparison.rows if row.direction}
    assert directions == {
        "perplexity": "worse",
        "accuracy": "worse",
        "latency.decode": "better",
        "memory.static": "worse",
    }
    perplexity = row_of(comparison, "perplexity")
    assert perplexity.mark.low is not None
    assert perplexity.mark.high is not None
    assert perplexity.mark.low < 0.0513 < perplexity.mark.high  # exp(0.05) - 1


def test_neither_shown_to_differ_nor_to_be_the_same_is_undecided() -> None:
    new, old = (quality("nf4", losses(0.0, spread=0.1, seed=seed)) for seed in (2, 3))
    assert row_of(compare([new], [old]), "perplexity").mark.finding == "undecided"


def test_the_margin_of_equivalence_can_be_stated() -> None:
    new, old = quality("nf4", losses(0.004, seed=2)), quality("nf4", losses(0.0))
    wide = {"perplexity": Allowance(0.02, relative=True)}
    narrow = {"perplexity": Allowance(0.001, relative=True)}
    found = [row_of(compare([new], [old], allowances=a), "perplexity") for a in (wide, narrow)]
    assert [row.mark.finding for row in found] == ["equivalent", "real"]


def test_two_cells_pair_whatever_their_names() -> None:
    comparison = compare([footprint("nf4", 500)], [footprint("fp32", 4000)])
    assert row_of(comparison, "memory.static").direction == "better"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"protocol": "another"}, "protocol"),
        ({"params": {"text": {"fingerprint": "bb"}, "window": 256, "batch": 4}}, "text"),
        ({"params": {"text": {"fingerprint": "aa"}, "window": 512, "batch": 4}}, "window"),
        ({"details": {"ids_sha256": "cd" * 32}}, "token ids"),
    ],
)
def test_what_bars_a_comparison_is_named(changes: dict[str, Any], word: str) -> None:
    comparison = compare([quality("nf4", losses(0.0), **changes)], [quality("nf4", losses(0.0))])
    perplexity = row_of(comparison, "perplexity")
    assert perplexity.mark.finding == "incomparable"
    assert word in perplexity.mark.reason


def test_another_window_under_another_name_is_named_once() -> None:
    params = {"text": {"fingerprint": "aa"}, "window": 512, "batch": 4}
    new = quality("nf4", losses(0.0), slug="text-w512-default", params=params)
    (row,) = compare([new], [quality("nf4", losses(0.0))]).rows
    assert row.mark.finding == "incomparable"
    assert "window 512 here, 256 there" in row.mark.reason


def test_divergences_from_different_references_do_not_compare() -> None:
    """As those of a stored checkpoint, which is its own reference: 0 from itself is not better."""

    def held_against(label: str | None, nats: float) -> Record:
        record = divergence("nf4", [nats] * 240)
        item = record.item.model_copy(update={"held_against": label})
        return record.model_copy(update={"item": item})

    comparison = compare([held_against("stored", 0.0)], [held_against("bf16", 0.03)])
    row = row_of(comparison, "kl.mean")
    assert row.mark.finding == "incomparable"
    assert "reference of the divergence: stored here, bf16 there" in row.mark.reason
    assert row_of(comparison, "perplexity").mark.finding == "equivalent"
    for old in ("stored", None):
        same = compare([held_against("stored", 0.0)], [held_against(old, 0.03)])
        assert row_of(same, "kl.mean").direction == "better"


@pytest.mark.parametrize(
    "metric", ["decoded.kl.mean", "decoded.top1_agreement", "decoded.probability_change.mean"]
)
def test_divergences_of_decoded_positions_are_of_their_reference_too(metric: str) -> None:
    def held_against(label: str) -> Record:
        weights = {"window_tokens": [256.0] * 30, "window_kl_sum": [1.0] * 30}
        record = make_record("nf4", "decoded", {metric: 1 / 256}, slug="text", series=weights)
        item = record.item.model_copy(update={"held_against": label})
        return record.model_copy(update={"item": item})

    row = row_of(compare([held_against("stored")], [held_against("bf16")]), metric)
    assert row.mark.finding == "incomparable"


def test_another_batch_does_not_bar_perplexity() -> None:
    params = {"text": {"fingerprint": "aa"}, "window": 256, "batch": 16}
    new = quality("nf4", losses(0.0, seed=2), params=params)
    row = row_of(compare([new], [quality("nf4", losses(0.0, seed=2))]), "perplexity")
    assert row.mark.finding == "equivalent"


def test_times_do_not_compare_across_devices_but_bytes_and_quality_do() -> None:
    new = [
        *latency("nf4", [0.02] * 5, environment=OTHER_DEVICE),
        footprint("nf4", 1_000_000, environment=OTHER_DEVICE),
        quality("nf4", losses(0.0), environment=OTHER_DEVICE),
    ]
    comparison = compare(new, untouched())
    assert row_of(comparison, "latency.decode").mark.finding == "not applicable"
    assert row_of(comparison, "memory.static").mark.finding == "equivalent"
    assert row_of(comparison, "perplexity").mark.finding == "equivalent"
    assert "device" in {one.name for one in comparison.conditions}


def test_another_number_of_threads_bars_times() -> None:
    one_thread = make_environment(threads=1)
    new = latency("nf4", [0.02] * 5, environment=one_thread)
    row = row_of(compare(new, latency("nf4", [0.01] * 5)), "latency.decode")
    assert row.mark.finding == "not applicable"
    assert "threads" in row.mark.reason


def test_how_the_device_computed_is_compared_where_both_say_it() -> None:
    before, after = (
        footprint("nf4", 1).model_copy(
            update={"environment": make_environment(driver=driver, fp32_products="highest")}
        )
        for driver in ("570.1", "580.2")
    )
    changes = {c.name: (c.new, c.old) for c in compare([after], [before]).conditions}
    assert changes == {"driver": ("580.2", "570.1")}
    assert compare([after], [footprint("nf4", 1)]).conditions == ()  # an older record


def test_mixes_of_one_label_that_hold_other_layers_are_told() -> None:
    def held(**layers: str) -> Record:
        record = footprint("mixed-budget=4-bits", 1e6, name="mixed")
        return record.model_copy(update={"details": {"loaded": {"held_in": layers}}})

    first, second = held(a="nf4", b="int8", c="int8"), held(a="int8", b="nf4", c="int8")
    alone = footprint("nf4", 1e6)
    (change,) = compare_records([first, alone], [second, alone]).conditions
    assert change.name == "layers of mixed-budget=4-bits"
    assert change.new.startswith("2 int8, 1 nf4 (")
    assert change.old.startswith("2 int8, 1 nf4 (")
    assert change.new != change.old
    assert compare_records([first, alone], [first, alone]).conditions == ()
    assert compare_records([first, alone], [alone]).conditions == ()


def test_conditions_that_differ_are_listed_with_both_values() -> None:
    environment = make_environment(
        git_revision="4567def", versions={"torch": "2.14.0", "transformers": "5.23.0", "peft": None}
    )
    new = footprint("nf4", 1, suite="other", environment=environment)
    changes = {c.name: (c.new, c.old) for c in compare([new], [footprint("nf4", 1)]).conditions}
    assert changes == {
        "suite": ("other", "quickstart"),
        "git revision": ("4567def", "0123abc"),
        "torch": ("2.14.0", "2.13.0"),
    }


def test_what_one_side_lacks_or_failed_at_is_missing_with_the_reason() -> None:
    new = [make_failure("nf4", "footprint", "oom", "no memory was left", slug="model")]
    comparison = compare(new, [footprint("nf4", 1), quality("nf4", losses(0.0))])
    reasons = {row.item.measurement: row.mark.reason for row in comparison.rows}
    assert {row.mark.finding for row in comparison.rows} == {"missing"}
    assert "oom (no memory was left)" in reasons["footprint"]
    assert "no record" in reasons["quality"]


def test_the_report_marks_each_difference_from_the_reference() -> None:
    records = [
        quality("fp32", losses(0.0)).model_copy(update={"reference": True}),
        quality("bf16", losses(0.0002, spread=0.001, seed=2)),
        quality("fp4", losses(0.03, seed=3)),
        quality("nf4", losses(0.005, spread=0.1, seed=4)),
        make_failure("int8", "quality", "oom", "no memory", slug="text-w256-default"),
    ]
    table = difference_table(select(records).tables[0])
    assert table is not None
    row = next(row for row in table.rows if row.label.startswith("perplexity"))
    words = {
        column.title: str(figure.word).split()[-1]
        for column, figure in zip(table.columns, row.figures, strict=True)
    }
    assert words["bf16"] == "equivalent"
    assert words["fp4"] == "worse"
    assert words["nf4"] == "undecided"
    assert words["int8"] == "-"


def test_a_few_answers_that_are_the_same_are_nowhere_called_equal() -> None:
    few = [1.0] * 7 + [0.0]
    new = [task("nf4", few), footprint("nf4", 10)]
    comparison = compare(new, new)
    assert row_of(comparison, "accuracy").mark.finding == "undecided"
    assert row_of(comparison, "memory.static").mark.finding == "equivalent"
    page = markdown.render(comparison_page(comparison)).partition("\n## ")[0]
    verdicts = [line.split("|")[-2].strip() for line in page.split("\n|")[3:]]
    assert verdicts == ["undecided", "equal"]
    reference = task("fp32", few).model_copy(update={"reference": True})
    table = difference_table(select([reference, task("nf4", few)]).tables[0])
    assert table is not None
    assert [row.figures[0].word for row in table.rows] == ["0 undecided"]


def test_within_a_run_other_weights_are_not_compared() -> None:
    reference = [quality("fp32", losses(0.0))]
    other = quality("nf4", losses(0.0), identity={"model": {"fingerprint": "other"}})
    found = one_change([other], reference, "perplexity", SAMPLING, same_run=True)
    assert isinstance(found, Gap)
    assert found.kind == "incomparable"
    across = compare([other], [quality("nf4", losses(0.0))])
    assert row_of(across, "perplexity").mark.finding == "equivalent"
    assert "weights of tiny-mistral" in {one.name for one in across.conditions}
