"""What is recommended of the published records, computed a second time from what they hold.

Costs and scores are taken from the records themselves, their intervals by scipy; the interval of a
change of perplexity is the one that the report's own JSON shows, and is compared with one of plain
pairs. The choice is made by loops.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

from qbench.compare.recommend.budget import Budget
from qbench.compare.recommend.choices import choices
from qbench.compare.recommend.limits import Limit
from qbench.compare.recommend.recommend import recommend
from qbench.compare.selection import select
from qbench.core.store import read_folder
from qbench.report.as_json import render
from qbench.report.markdown import render as as_markdown
from qbench.report.recommendation import recommendation_lines
from qbench.report.report_page import report_page
from tests.record_factory import (
    latency_record,
    make_environment,
    make_failure,
    make_record,
    quickstart_records,
)

if TYPE_CHECKING:
    from qbench.compare.recommend.choices import Choices
    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
SUITES = [folder.name for folder in sorted(PUBLISHED.iterdir())]
MANY_CELLS = {"claims", "formats", "integers"}
"""Suites of which a grid of budgets takes seconds."""
ROUNDING = 1e-9
"""By how much scipy's ends of a latency's interval, relatively, may differ from the program's."""
TEXT = "stdlib-heldout-w256-default"


class Known(NamedTuple):
    """A figure with the ends of its interval."""

    value: float
    low: float | None
    high: float | None


Cells = dict[str, dict[str, Known]]


@cache
def records_of(suite: str) -> tuple[Record, ...]:
    records, unreadable = read_folder(PUBLISHED / suite)
    assert not unreadable
    return tuple(records)


@cache
def document_of(suite: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(render(records_of(suite)))
    return found


@cache
def tables_of(suite: str) -> tuple[tuple[TableRecords, Choices], ...]:
    tables = select(records_of(suite)).tables
    return tuple((table, choices(table)) for table in tables if table.cells)


def values(records: list[Record], name: str) -> list[float]:
    return [value for one in records if (value := one.value(name)) is not None]


def text_of(decision: dict[str, Any]) -> str | None:
    """Slug of the text whose perplexity the decision table compares."""
    found = (key for key in decision["columns"] if key.startswith("change:"))
    return next((key.removeprefix("change:") for key in found), None)


def known_of(table: TableRecords, decision: dict[str, Any]) -> Cells:
    """What the records say of every cell, read without the program's own estimates."""
    shown = {row["precision"]: row["figures"] for row in decision["rows"]}
    found: Cells = {}
    for cell in table.cells:
        mine: dict[str, Known] = {}
        for key, measurement, name in (
            ("bytes", "footprint", "memory.static"),
            ("peak", "memory", "memory.peak.inference"),
        ):
            slug = decision["memory_point"] if key == "peak" else None
            if got := values(cell.of(measurement, slug), name):
                size = packed(cell.of(measurement)[0]) if key == "bytes" else got[0]
                mine[key] = Known(size, size, size)
        for key in ("prefill", "decode"):
            got = values(cell.of("latency", decision["latency_point"]), f"latency.{key}")
            if len(got) >= 5:
                low, high = stats.t.interval(
                    0.95, len(got) - 1, statistics.fmean(got), stats.sem(got)
                )
                middle = statistics.median(got)
                mine[key] = Known(middle, min(low, middle), max(high, middle))
            elif got:
                mine[key] = Known(statistics.median(got), None, None)
        text = text_of(decision)
        change = shown[cell.label].get(f"change:{text}")
        if cell.reference and text is not None:
            mine["loss"] = Known(0.0, 0.0, 0.0)
        elif change is not None and change["value"] is not None:
            mine["loss"] = Known(change["value"], change["low"], change["high"])
        found[cell.label] = mine
    return found


def packed(record: Record) -> float:
    """Static bytes with codes at their own width."""
    loaded = record.details["loaded"]
    static, weights = record.value("memory.static"), record.value("weights")
    bits = record.value("bits_per_weight.nominal")
    if bits is None or loaded["code_bits_nominal"] == loaded["code_bits_stored"]:
        return static or 0.0
    return round(bits * (weights or 0.0) / 8)


def best_of(cells: Cells, limits: dict[str, float], minimize: str) -> set[str]:
    """Those of the lowest value among those whose intervals all lie within."""
    meeting = {}
    for label, known in cells.items():
        inside = all(
            key in known and known[key].high is not None and (known[key].high or 0.0) <= bound
            for key, bound in limits.items()
        )
        if inside and minimize in known:
            meeting[label] = known[minimize].value
    return {label for label, value in meeting.items() if value == min(meeting.values())}


def bounds_of(cells: Cells, key: str) -> list[float | None]:
    """None, and bounds between and upon what there is."""
    ends = sorted(
        {
            end * (1 + ROUNDING if key in {"prefill", "decode"} else 1)
            for known in cells.values()
            if key in known
            for end in known[key]
            if end is not None and math.isfinite(end)
        }
    )
    if not ends:
        return [None]
    chosen = [ends[0], ends[len(ends) // 3], ends[2 * len(ends) // 3], ends[-1]]
    return [None, chosen[0] * 0.99, *chosen, (chosen[1] + chosen[2]) / 2]


@pytest.mark.parametrize(
    "suite",
    [pytest.param(one, marks=[pytest.mark.slow] if one in MANY_CELLS else []) for one in SUITES],
)
def test_of_a_grid_of_budgets_the_same_cell_is_chosen_by_loops(suite: str) -> None:
    decisions = document_of(suite)["decision_tables"]
    tried = 0
    for table, made in tables_of(suite):
        (decision,) = (
            one for one in decisions if (one["device"], one["model"]) == (table.device, table.model)
        )
        cells = known_of(table, decision)
        names = {"loss": f"perplexity:{text_of(decision)}"}
        keys = ("bytes", "decode", "loss")
        measured = {key for known in cells.values() for key in known}
        for bounds in itertools.product(*(bounds_of(cells, key) for key in keys)):
            limits = {
                key: bound for key, bound in zip(keys, bounds, strict=True) if bound is not None
            }
            for minimize in measured & {"bytes", "peak", "prefill", "decode"}:
                tried += 1
                stated = {
                    names.get(key, key): Limit(bound, "max", "grid")
                    for key, bound in limits.items()
                }
                found = recommend(replace(made, limits=stated, minimize=minimize))
                expected = best_of(cells, limits, minimize)
                chosen = found.best.cell.label if found.best else None
                assert chosen in expected if expected else chosen is None, (limits, minimize)
    assert tried > 5


@pytest.mark.parametrize("suite", ["full", "integers", "finetune", "quality"])
def test_the_interval_of_a_change_is_about_that_of_plain_pairs(suite: str) -> None:
    for table, made in tables_of(suite):
        reference = table.reference
        assert reference is not None
        base = reference.of("quality", TEXT)[0].series
        for cell, choice in zip(table.cells, made.cells, strict=True):
            if cell.reference:
                continue
            own = cell.of("quality", TEXT)[0].series
            tokens = np.array(own["window_tokens"])
            changes = (np.array(own["window_nll"]) - np.array(base["window_nll"])) / tokens
            mean = np.average(changes, weights=tokens)
            error = np.sqrt(np.sum((tokens * (changes - mean)) ** 2)) / tokens.sum()
            low, high = np.expm1(mean - 1.96 * error), np.expm1(mean + 1.96 * error)
            known = choice.ranges[f"perplexity:{TEXT}"]
            assert known.value == pytest.approx(math.expm1(mean), rel=1e-6, abs=1e-9)
            assert known.low is not None
            assert known.high is not None
            width = high - low
            assert known.low == pytest.approx(low, abs=width)
            assert known.high == pytest.approx(high, abs=width)


def test_a_task_is_limited_by_its_paired_interval() -> None:
    (table, made), *_ = tables_of("full")
    key = "tasks.stdlib-choice.acc"
    reference = table.reference
    assert reference is not None
    base = np.array(reference.of("tasks", "stdlib-choice")[0].series["item_acc"])
    for cell, choice in zip(table.cells, made.cells, strict=True):
        own = np.array(cell.of("tasks", "stdlib-choice")[0].series["item_acc"])
        known = choice.ranges[key]
        assert known.value == pytest.approx(float(np.mean(own - base)), abs=1e-12)
        if cell.reference:
            continue
        gained, lost = int(np.sum(own > base)), int(np.sum(own < base))
        assert known.low is not None
        assert known.high is not None
        # Of McNemar's exact test: 0 lies outside exactly where it rejects.
        rejected = gained + lost > 0 and stats.binomtest(gained, gained + lost).pvalue <= 0.05
        assert rejected == (not known.low <= 0 <= known.high)


def test_the_default_budget_is_one_per_cent_of_perplexity_and_it_is_said() -> None:
    (_, made), *_ = tables_of("full")
    assert made.minimize == "bytes"
    assert made.limits == {f"perplexity:{TEXT}": Limit(0.01, "max", "default")}
    page = as_markdown(report_page(records_of("full")))
    first = page.index("**Recommended: int8**")
    assert first < page.index("| precision")
    assert "As no limit on quality was given, the default one holds" in page
    assert "qbench recommend --max-perplexity-increase" in page


def test_a_stated_limit_on_quality_replaces_the_default() -> None:
    (table, _), *_ = tables_of("full")
    limits = choices(table, Budget(max_kl=0.03)).limits
    assert limits == {f"kl:{TEXT}": Limit(0.03, "max", "max_kl")}
    limits = choices(table, Budget(max_bytes=2.0)).limits
    assert set(limits) == {"bytes", f"perplexity:{TEXT}"}


def test_a_gpu_limits_the_peak_by_its_memory_and_the_smaller_of_two_holds() -> None:
    (table, _), *_ = tables_of("mistral-shape")
    own = choices(table).limits["peak"]
    assert own.source == "NVIDIA H200"
    assert choices(table, Budget(gpu="24GB")).limits["peak"] == Limit(24e9, "max", "24GB")
    both = choices(table, Budget(gpu="24GB", max_peak=8e9)).limits["peak"]
    assert both == Limit(8e9, "max", "max_peak")


def test_the_price_of_a_million_tokens_is_of_the_whole_batch() -> None:
    (table, _), *_ = tables_of("mistral-shape")
    for batch in (1, 8, 32):
        made = choices(table, Budget(price=2.5, minimize="price", batch=batch))
        for cell, choice in zip(table.cells, made.cells, strict=True):
            seconds = statistics.median(
                values(cell.of("latency", f"b{batch}-p256-n16"), "latency.decode")
            )
            price = seconds / batch * 1e6 / 3600 * 2.5
            assert choice.ranges["price"].value == pytest.approx(price)


def test_times_without_an_interval_are_not_called_the_same() -> None:
    (table,) = select([latency_record(one) for one in ("fp32", "nf4")]).tables
    told = str(recommendation_lines(recommend(choices(table, Budget(minimize="decode")))))
    assert "has the same" not in told
    assert "whether fp32 differs from it by more than chance is not known" in told


def test_the_order_of_records_does_not_matter() -> None:
    records = quickstart_records()
    found = [
        [recommend(choices(table)).best for table in select(each).tables]
        for each in (records, records[::-1])
    ]
    assert [one and one.cell.label for one in found[0]] == [
        one and one.cell.label for one in found[1]
    ]


def test_what_failed_is_undecided_with_its_reason() -> None:
    records = [
        one
        for one in quickstart_records()
        if (one.cell.label, one.item.measurement) != ("nf4", "quality")
    ]
    lost = next(
        one
        for one in quickstart_records()
        if (one.cell.label, one.item.measurement) == ("nf4", "quality")
    )
    failed = make_failure("nf4", "quality", "oom", "no memory left", slug=lost.item.slug)
    (table,) = select([*records, failed]).tables
    found = recommend(choices(table))
    nf4 = next(one for one in found.candidates if one.cell.label == "nf4")
    assert nf4.standing == "undecided"
    assert "no memory left" in as_markdown(report_page([*records, failed]))


def test_json_holds_every_figure_limit_and_verdict() -> None:
    document, _ = document_of("full")["recommendations"]
    (_, made), *_ = tables_of("full")
    assert document["recommended"] == "int8"
    assert document["limits"][f"perplexity:{TEXT}"] == {
        "bound": 0.01,
        "kind": "max",
        "source": "default",
    }
    for choice in made.cells:
        (told,) = (one for one in document["cells"] if one["cell"] == choice.label)
        for key, known in choice.ranges.items():
            assert told["figures"][key]["value"] == known.value
            assert told["figures"][key]["low"] == known.low
            assert told["figures"][key]["high"] == known.high


def test_without_bytes_the_first_cost_that_was_measured_is_minimized() -> None:
    records = [one for one in quickstart_records() if one.item.measurement != "footprint"]
    (table,) = select(records).tables
    found = recommend(choices(table))
    values = [cell.ranges["prefill"].value for cell in found.choices.cells]
    assert found.axis.key == "prefill"
    assert any(value is not None for value in values)


def test_nothing_is_recommended_where_no_cost_was_measured_or_nothing_is_to_choose() -> None:
    quality = [one for one in quickstart_records() if one.item.measurement == "quality"]
    one_cell = [one for one in quickstart_records() if one.cell.label == "fp32"]
    for records in (quality, one_cell):
        page = as_markdown(report_page(records))
        assert "Recommended" not in page
        assert "is shown to meet" not in page
        assert "There is no record of the untuned model" not in page


GPU = make_environment(
    device="NVIDIA H200",
    device_kind="nvidia-h200",
    device_type="cuda",
    device_memory_bytes=140 * 2**30,
    gpus_memory_bytes=(140 * 2**30, 140 * 2**30),
)


def on_gpu(precision: str, peak: float | None, **changes: Any) -> list[Record]:
    """Bytes and the peak of a cell on a GPU; that of one that had no room is None."""
    footprint = make_record(
        precision, "footprint", {"memory.static": 2.0**30}, environment=GPU, **changes
    )
    memory = {"memory.peak": peak, "memory.peak.inference": peak}
    if peak is None:
        more = {"status": "oom", "reason": "no room", "metrics": {}}
        taken = make_record(precision, "memory", slug="b1", environment=GPU, **(changes | more))
    else:
        taken = make_record(precision, "memory", memory, slug="b1", environment=GPU, **changes)
    return [footprint, taken]


def test_what_a_gpu_had_no_room_for_fails_its_memory_and_any_less() -> None:
    records = [*on_gpu("fp32", None, reference=True), *on_gpu("nf4", 2.0**31)]
    (table,) = select(records).tables
    for budget in (None, Budget(gpu="24GB"), Budget(max_peak=2.0**31)):
        found = recommend(choices(table, budget))
        assert {one.cell.label: one.standing for one in found.candidates} == {
            "nf4": "recommended",
            "fp32": "fails",
        }
    larger = recommend(choices(table, Budget(gpu="200GiB")))
    assert {one.cell.label: one.standing for one in larger.candidates}["fp32"] == "undecided"


def test_a_model_over_several_gpus_has_the_memory_of_all() -> None:
    (table,) = select(on_gpu("bf16", 2.0**37)).tables
    assert choices(table).limits["peak"].bound == 140 * 2**30
    spread = [
        one.model_copy(
            update={
                "cell": one.cell.model_copy(
                    update={"model": one.cell.model.model_copy(update={"device_map": "auto"})}
                )
            }
        )
        for one in on_gpu("bf16", 2.0**37)
    ]
    (table,) = select(spread).tables
    assert choices(table).limits["peak"].bound == 280 * 2**30


def with_faults(record: Record) -> Record:
    loaded = {"faults": [{"layer": "model.layers.0", "reason": "wrong"}]}
    return record.model_copy(update={"details": {**record.details, "loaded": loaded}})


def test_a_faulty_cell_is_never_chosen_nor_anything_held_against_a_faulty_reference() -> None:
    records = quickstart_records()
    (table,) = select(records).tables
    best = recommend(choices(table, Budget(max_perplexity_increase=0.5))).best
    assert best is not None
    spoiled = [with_faults(one) if one.cell.label == best.cell.label else one for one in records]
    (table,) = select(spoiled).tables
    found = recommend(choices(table, Budget(max_perplexity_increase=0.5)))
    standings = {one.cell.label: one.standing for one in found.candidates}
    assert standings[best.cell.label] == "faulty"
    assert found.best is not None
    assert found.best.cell.label != best.cell.label
    spoiled = [with_faults(one) if one.reference else one for one in records]
    (table,) = select(spoiled).tables
    found = recommend(choices(table, Budget(max_perplexity_increase=0.5)))
    assert {one.standing for one in found.candidates} == {"faulty", "undecided"}
    assert "do not compute what they hold" in as_markdown(report_page(spoiled))


def test_of_very_many_alike_the_first_are_named() -> None:
    labels = [f"nf4-{at:02}" for at in range(12)]
    records = [
        make_record(label, metrics={"memory.static": 2e6 if label == "fp32" else 1e6})
        for label in ("fp32", *labels)
    ]
    text = as_markdown(report_page(records))
    assert "nf4-01, nf4-02, nf4-03, nf4-04, nf4-05 and 6 more have the same static bytes." in text
