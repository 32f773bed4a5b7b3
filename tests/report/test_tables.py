"""The decision table against figures computed from the records directly."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.compare import compare_records
from qbench.compare.selection import select
from qbench.core.spec import PrecisionRef
from qbench.report.as_json import render as as_json
from qbench.report.cell_row import called_in_words
from qbench.report.conditions import conditions
from qbench.report.decision import decision_table
from qbench.report.details import detail_tables
from qbench.report.differences import difference_table
from qbench.report.failures import failures, valueless, warnings
from qbench.report.html.sections import sections_of
from qbench.report.markdown import render as as_markdown
from qbench.report.report_page import report_page
from qbench.report.summary import passed_over, summarise
from tests.paired_records import latency, losses, quality
from tests.record_factory import (
    DECODE_S,
    PRECISIONS,
    WEIGHTS,
    cell_records,
    footprint_record,
    latency_record,
    make_environment,
    make_failure,
    make_metric,
    make_record,
    memory_record,
    quality_record,
    quickstart_records,
    static_bytes,
)

if TYPE_CHECKING:
    from qbench.core.page import Figure, Table
    from qbench.core.record import Record
    from qbench.report.decision import Decision

LATER = "2026-07-02T12:00:00+00:00"
PERPLEXITY = "perplexity:stdlib-heldout-w256-default"
CHANGE = "change:stdlib-heldout-w256-default"


def decide(records: list[Record]) -> Decision:
    """The only decision table of the records."""
    (table,) = select(records).tables
    return decision_table(table)


def figures(records: list[Record], key: str) -> dict[str, Figure]:
    """The figures of one column of the only decision table, by row label."""
    table = decide(records).table
    return dict(zip([row.label for row in table.rows], table.column(key), strict=True))


def values(records: list[Record], key: str) -> dict[str, Any]:
    return {label: figure.value for label, figure in figures(records, key).items()}


def best(records: list[Record], key: str) -> set[str]:
    return {label for label, figure in figures(records, key).items() if figure.best}


class TestDecisionTable:
    def test_numbers_are_those_of_the_records(self) -> None:
        records = quickstart_records()
        static = values(records, "memory.static")
        bits = values(records, "bits_per_weight.model")
        decode = values(records, "latency.decode")
        for precision in set(PRECISIONS) - {"int8"}:
            total = sum(static_bytes(precision).values())
            assert static[precision] == total
            assert bits[precision] == pytest.approx(8 * total / WEIGHTS)
            processes = [DECODE_S[precision] * (1 + 0.04 * repeat) for repeat in range(3)]
            assert decode[precision] == pytest.approx(statistics.median(processes))

    def test_change_is_relative_to_the_reference(self) -> None:
        records = quickstart_records()
        perplexity, change = values(records, PERPLEXITY), values(records, CHANGE)
        assert change["nf4"] == pytest.approx(perplexity["nf4"] / perplexity["fp32"] - 1)
        assert change["fp32"] is None
        assert figures(records, CHANGE)["fp32"].word == "ref"

    def test_change_within_its_interval_is_marked(self) -> None:
        marked = figures(quickstart_records(), CHANGE)
        assert marked["bf16"].uncertain
        assert not marked["fp4"].uncertain

    def test_rows_start_with_the_reference_whatever_the_order_of_records(self) -> None:
        rows = decide(list(reversed(quickstart_records()))).table.rows
        assert tuple(row.label for row in rows) == PRECISIONS
        assert [row.reference for row in rows] == [True] + [False] * 6

    def test_variants_stand_beside_their_precision(self) -> None:
        labels = ["nf4-mine", "x", "fp4", "nf4", "fp32"]
        names = {"nf4-mine": "nf4", "x": "future"}
        records = [make_record(label, metrics={"a": 1}, name=names.get(label)) for label in labels]
        rows = decide(records).table.rows
        assert [row.label for row in rows] == ["fp32", "fp4", "nf4-mine", "nf4", "x"]

    def test_the_smallest_point_that_most_cells_have_stands_for_latency(self) -> None:
        records = [latency_record(p, batch=batch) for p in ("fp32", "nf4") for batch in (8, 2)]
        stray = latency_record("nf4", batch=1)
        decision = decide([*records, stray])
        assert decision.latency_point is not None
        assert decision.latency_point.item.slug == "b2-p128-n32"

    def test_several_texts_get_a_pair_of_columns_each(self) -> None:
        records = [quality_record(p, text) for p in ("fp32", "nf4") for text in ("prose", "code")]
        titles = [column.title for column in decide(records).table.columns[6:]]
        assert titles == ["perplexity prose", "change prose", "perplexity code", "change code"]

    def test_without_the_reference_there_is_no_change_column(self) -> None:
        decision = decide(cell_records("nf4") + cell_records("fp4"))
        assert decision.reference is None
        assert CHANGE not in [column.key for column in decision.table.columns]

    def test_a_reference_measured_on_other_tokens_is_not_compared(self) -> None:
        other = quality_record("fp32")
        tokens = tuple(
            make_metric("tokens", 5.0) if metric.name == "tokens" else metric
            for metric in other.metrics
        )
        records = [other.model_copy(update={"metrics": tokens}), quality_record("nf4")]
        figure = figures(records, CHANGE)["nf4"]
        assert figure.value is None
        assert "other number of tokens" in str(figure.reason)
        table = difference_table(select(records).tables[0])
        assert table is not None
        (found,) = [row.figures[0] for row in table.rows if row.label.startswith("perplexity")]
        assert (found.value, found.reason) == (None, figure.reason)

    def test_the_change_is_the_one_of_the_table_of_differences(self) -> None:
        records = quickstart_records()
        table = difference_table(select(records).tables[0])
        assert table is not None
        (row,) = [row for row in table.rows if row.label.startswith("perplexity")]
        known = 0
        for column, below in zip(table.columns, row.figures, strict=True):
            above = figures(records, CHANGE).get(column.key)
            if above is None or above.value is None:
                continue
            known += 1
            assert (above.value, above.low, above.high) == (below.value, below.low, below.high)
            assert above.uncertain == (above.low <= 0 <= above.high)
        assert known > 3

    def test_a_reference_of_other_weights_is_not_compared(self) -> None:
        reference = quality_record("fp32")
        identity = {**reference.identity, "model": {"fingerprint": "other"}}
        records = [reference.model_copy(update={"identity": identity}), quality_record("nf4")]
        assert "other weights" in str(figures(records, CHANGE)["nf4"].reason)

    def test_the_same_text_in_another_folder_is_compared(self) -> None:
        def at(location: str, precision: str) -> Record:
            text = {"name": "stdlib-heldout", "location": location, "fingerprint": "f"}
            params = {"text": text, "window": 256, "protocol": "default", "batch": 4}
            return quality_record(precision, params=params)

        assert values([at("here", "fp32"), at("there", "nf4")], CHANGE)["nf4"] is not None


class TestBest:
    def test_lowest_is_marked_with_all_shown_alike(self) -> None:
        records = quickstart_records()
        assert best(records, "memory.static") == {"nf4-dq"}
        without_dq = [r for r in records if r.cell.precision.label != "nf4-dq"]
        assert best(without_dq, "memory.static") == {"fp4", "nf4"}

    def test_a_difference_that_is_not_shown_is_a_tie(self) -> None:
        records = [
            make_record(label, metrics={"memory.static": size})
            for label, size in (("fp32", 9 * 2**20), ("nf4", 2**20), ("fp4", 2**20 + 1))
        ]
        assert best(records, "memory.static") == {"nf4", "fp4"}

    def test_a_column_of_equal_figures_marks_none(self) -> None:
        records = [make_record(label, metrics={"memory.static": 5}) for label in ("fp32", "nf4")]
        assert best(records, "memory.static") == set()

    def test_a_single_cell_is_not_best(self) -> None:
        table = decide(cell_records("fp32")).table
        assert not any(figure.best for row in table.rows for figure in row.figures)

    def test_a_record_that_is_not_ok_is_never_best(self) -> None:
        good = [make_record(p, metrics={"memory.static": s}) for p, s in (("fp32", 9), ("nf4", 8))]
        bad = make_record("fp4", metrics={"memory.static": 1}, status="error", reason="wrong")
        assert best([*good, bad], "memory.static") == {"nf4"}
        assert figures([*good, bad], "memory.static")["fp4"].word == "error"

    def test_a_perplexity_below_the_references_by_noise_leaves_it_to_the_reference(
        self,
    ) -> None:
        records = quickstart_records()
        found = figures(records, PERPLEXITY)
        assert (found["bf16"].value or 0) < (found["fp32"].value or 0)
        assert figures(records, CHANGE)["bf16"].uncertain
        marked = best(records, PERPLEXITY)
        assert "fp32" in marked
        assert "bf16" not in marked

    def test_a_perplexity_that_is_really_below_the_references_is_best(self) -> None:
        lower = [quality("nf4", losses(-0.02, seed=3))]
        reference = quality("fp32", losses(0.0)).model_copy(update={"reference": True})
        (key,) = (c.key for c in decide([reference, *lower]).table.columns if "perplexity" in c.key)
        assert best([reference, *lower], key) == {"nf4"}
        # of two that are, which one is lower is chance: their windows differ by 1 % each
        other = [quality("fp4", losses(-0.0201, seed=10))]
        worse = [quality("int8", losses(0.05, seed=5))]
        assert best([reference, *lower, *other, *worse], key) == {"nf4", "fp4"}

    def test_where_nothing_is_told_from_the_reference_none_is_best(self) -> None:
        near = [quality("nf4", losses(0.0, seed=7))]
        reference = quality("fp32", losses(0.0)).model_copy(update={"reference": True})
        (key,) = (c.key for c in decide([reference, *near]).table.columns if "perplexity" in c.key)
        assert best([reference, *near], key) == set()

    def test_times_are_best_as_far_as_their_processes_tell(self) -> None:
        slow, quick = [0.0200, 0.0201, 0.0199, 0.0202, 0.0198], [0.010, 0.012, 0.011, 0.013, 0.010]
        records = [*latency("fp32", slow), *latency("nf4", quick)]
        records += latency("fp4", [one * 1.01 for one in quick])
        assert best(records, "latency.decode") == {"nf4", "fp4"}
        one_each = [*latency("fp32", slow[:1]), *latency("nf4", quick[:1])]
        assert best(one_each, "latency.decode") == set()

    def test_a_resident_size_is_shown_beside_the_counted_peak_and_never_best(self) -> None:
        def peaks(precision: str, counted: float, resident: float, **changes: Any) -> Record:
            metrics = {"memory.peak.inference": counted, "memory.peak": resident}
            made = memory_record(precision, **changes)
            more = tuple(make_metric(name, value) for name, value in metrics.items())
            kept = tuple(one for one in made.metrics if one.name not in metrics)
            return made.model_copy(update={"metrics": (*kept, *more)})

        records = [peaks("fp32", 2e7, 4.3e7), peaks("nf4", 1e7, 4.1e7)]
        titles = [column.title for column in decide(records).table.columns]
        assert titles[3:5] == ["peak", "peak RSS"]
        assert best(records, "memory.peak.inference") == {"nf4"}
        assert best(records, "memory.peak") == set()
        gpu = make_environment(device="NVIDIA H200", device_kind="nvidia-h200", device_type="cuda")
        records = [peaks(p, 1e7, 1e7 * at, environment=gpu) for at, p in ((2, "fp32"), (1, "nf4"))]
        assert [column.title for column in decide(records).table.columns][3:5] == [
            "peak",
            "prefill",
        ]
        assert best(records, "memory.peak") == {"nf4"}


class TestMissing:
    def test_status_stands_where_the_number_would(self) -> None:
        int8 = decide(quickstart_records()).table.rows[3]
        assert int8.label == "int8"
        assert [figure.word for figure in int8.figures] == ["oom"] * 7 + ["-"]
        assert all(figure.value is None for figure in int8.figures)

    def test_some_processes_failing_leaves_the_others_with_a_mark(self) -> None:
        taken = latency_record("nf4")
        where = {"slug": taken.item.slug, "params": taken.item.params}
        records = [taken, make_failure("nf4", "latency", "timeout", "slow", repeat=1, **where)]
        figure = figures(records, "latency.decode")["nf4"]
        assert figure.value == pytest.approx(DECODE_S["nf4"])
        assert figure.warned
        (failure,) = failures(select(records))
        assert failure.what == "latency b1-p128-n32 (1 of 2 processes)"

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_what_is_not_finite_is_no_value(self, value: float) -> None:
        metric = make_metric("memory.static", 1.0).model_copy(update={"value": value})
        figure = figures([make_record("nf4", more_metrics=(metric,))], "memory.static")["nf4"]
        assert figure.value is None
        assert figure.word == "n/a"
        assert "not a finite number" in str(figure.reason)

    def test_a_value_that_could_not_be_taken_keeps_its_reason(self) -> None:
        metric = make_metric("memory.static", None, reason="no storages")
        records = [make_record("nf4", more_metrics=(metric,))]
        assert figures(records, "memory.static")["nf4"].reason == "no storages"
        (missing,) = valueless(select(records))
        assert missing.text == "no storages"
        assert missing.places == (("nf4", ("memory.static",)),)

    def test_failures_with_one_reason_are_one_line(self) -> None:
        found = failures(select(quickstart_records()))
        assert [(one.cell, one.what, one.status) for one in found] == [
            ("fp16", "latency b4-p128-n32", "error"),
            ("int8", "all measurements", "oom"),
        ]

    def test_what_other_cells_have_and_one_has_not_is_named(self) -> None:
        records = [*cell_records("fp32"), footprint_record("nf4"), memory_record("nf4")]
        (missing,) = failures(select(records))
        assert missing.status == "missing"
        assert missing.what == (
            "latency b1-p128-n32, latency b4-p128-n32, quality stdlib-heldout-w256-default"
        )


class TestSelection:
    def test_the_newest_record_counts(self) -> None:
        old = footprint_record("nf4")
        new = make_record("nf4", metrics={"memory.static": 7}, started_at=LATER)
        for records in ([old, new], [new, old]):
            assert values(records, "memory.static") == {"nf4": 7}
            assert select(records).older == 1

    def test_repeats_of_other_conditions_are_not_pooled(self) -> None:
        newer = make_environment(versions={"torch": "3.0"})
        records = [latency_record("nf4", 0, environment=newer, started_at=LATER)]
        records += [latency_record("nf4", repeat) for repeat in (1, 2)]
        assert values(records, "latency.decode")["nf4"] == pytest.approx(DECODE_S["nf4"])
        assert select(records).older == 2

    @pytest.mark.parametrize(("old", "new"), [("1", "2"), ("9", "10"), ("2", "2.1")])
    def test_only_the_newest_protocol_is_tabled(self, old: str, new: str) -> None:
        records = [footprint_record("fp32", protocol=old, started_at=LATER)]
        records += [footprint_record("nf4", protocol=new), memory_record("fp4", protocol=old)]
        selection = select(records)
        assert selection.protocol == new
        assert [record.cell.precision.label for record in selection.records] == ["nf4"]
        assert selection.other_protocols == ((old, 2),)
        assert any(f"2 records of protocol {old}" in note for note in passed_over(selection))

    def test_other_weights_under_the_same_name_share_no_row(self) -> None:
        def of(weights: str, record: Record) -> Record:
            model = {**record.identity.get("model", {}), "fingerprint": weights}
            return record.model_copy(update={"identity": {**record.identity, "model": model}})

        old = [of("a", footprint_record("nf4")), of("a", latency_record("nf4", 0))]
        new = of("b", make_record("nf4", "memory", {"memory.peak": 7}, started_at=LATER))
        for records in ([*old, new], [new, *old]):
            selection = select(records)
            assert [record.item.measurement for record in selection.records] == ["memory"]
            assert (selection.older, selection.other_weights) == (0, 2)
            assert any("2 records of a model of the same name" in x for x in passed_over(selection))

    def test_models_devices_and_suites_have_tables_of_their_own(self) -> None:
        gpu = make_environment(device="NVIDIA H200", device_kind="nvidia-h200", device_type="cuda")
        records = [
            footprint_record("nf4"),
            footprint_record("nf4", model="other"),
            footprint_record("nf4", environment=gpu),
            footprint_record("nf4", suite="second"),
        ]
        selection = select(records)
        assert len(selection.tables) == 4
        assert len({cell.place for cell in selection.cells}) == 4

    def test_no_records(self) -> None:
        selection = select([])
        assert selection.tables == ()
        assert conditions(selection) == []
        assert failures(selection) == []

    def test_of_two_references_the_newer_one_counts(self) -> None:
        newer = footprint_record("bf16", reference=True, started_at=LATER)
        records = [footprint_record("fp32"), newer]
        assert decide(records).reference == "bf16"


class TestConditions:
    def test_one_value_names_no_cells(self) -> None:
        found = {one.name: one for one in conditions(select(quickstart_records()))}
        assert found["torch"].values == (("2.13.0", ()),)
        assert found["not installed"].values == (("peft", ()),)
        assert not any(one.mixed for one in found.values())

    def test_differing_values_name_their_cells(self) -> None:
        newer = make_environment(versions={"torch": "3.0"})
        records = [footprint_record("fp32"), footprint_record("nf4", environment=newer)]
        torch = next(one for one in conditions(select(records)) if one.name == "torch")
        assert torch.values == (("2.13.0", ("fp32",)), ("3.0", ("nf4",)))
        assert torch.mixed

    def test_how_the_device_computed_is_told_where_records_say_it(self) -> None:
        records = quickstart_records()
        names = {one.name for one in conditions(select(records))}
        assert not names & {"fp32 products", "driver", "CUDA", "cuDNN", "variables"}
        gpu = make_environment(
            device_type="cuda", fp32_products="highest", driver="580.1", cuda="13.0", cudnn="91002"
        )
        noted = [record.model_copy(update={"environment": gpu}) for record in records]
        found = {one.name: one.values[0][0] for one in conditions(select(noted))}
        assert found["fp32 products"] == "highest"
        assert (found["driver"], found["CUDA"], found["cuDNN"]) == ("580.1", "13.0", "91002")
        assert found["variables"] == "none set"
        told = make_environment(variables={"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": "2"})
        noted = [record.model_copy(update={"environment": told}) for record in records]
        found = {one.name: one.values[0][0] for one in conditions(select(noted))}
        assert found["variables"] == "GOMP_SPINCOUNT=1000, OMP_NUM_THREADS=2"

    def test_two_models_are_not_mixed_conditions(self) -> None:
        records = [footprint_record("fp32"), footprint_record("fp32", model="other")]
        assert not any(one.mixed for one in conditions(select(records)))

    def test_the_dates_span_all_records(self) -> None:
        records = [footprint_record("fp32"), footprint_record("nf4", started_at=LATER)]
        assert conditions(select(records))[-1].values == (
            ("2026-07-01 12:00 to 2026-07-02 12:00 UTC", ()),
        )


class TestDetails:
    def details(self, records: list[Record]) -> dict[str, Table]:
        (table,) = select(records).tables
        return {detail.title: detail for detail in detail_tables(table)}

    def test_completions_of_each_data_have_their_own_numbers(self) -> None:
        records = [
            make_record("fp32", "completion", {"completion.loss": loss}, slug=slug)
            for slug, loss in (("first", 2.0), ("second", 4.0))
        ]
        tables = self.details(records)
        shown = {
            slug: tables[f"Completions of the tuning data: {slug}"].column("completion.loss")
            for slug in ("first", "second")
        }
        assert {slug: one.value for slug, (one,) in shown.items()} == {"first": 2.0, "second": 4.0}

    def test_bytes_by_kind_add_up(self) -> None:
        table = self.details(quickstart_records())["Bytes by kind"]
        kinds = [c.key for c in table.columns if c.key.startswith("memory.static.")]
        kinds.remove("memory.static.predicted")
        assert "memory.static.biases" not in kinds
        totals = table.column("memory.static")
        for row, total in enumerate(totals):
            parts = [table.column(kind)[row].value for kind in kinds]
            known = [part for part in parts if part is not None]
            assert total.value is None or sum(known) == total.value

    def test_spread_is_that_of_the_processes(self) -> None:
        table = self.details(quickstart_records())[
            "Latency of decode, time a new token: batch 1, 128 prompt tokens, 32 new tokens"
        ]
        assert table.rows[0].figures[0].word == "3 of 3"
        assert table.column("latency.decode.lowest")[0].value == pytest.approx(DECODE_S["fp32"])
        highest = table.column("latency.decode.highest")[0].value
        assert highest == pytest.approx(DECODE_S["fp32"] * 1.08)

    def test_what_other_programs_used_stands_beside_a_latency_where_it_is_told(self) -> None:
        title = "Latency of decode, time a new token: batch 1, 128 prompt tokens, 32 new tokens"
        plain = self.details(quickstart_records())[title]
        assert "other_programs" not in [column.key for column in plain.columns]
        told = [{"used_cpus": 0.2}, {"used_cpus": 0.5}, {"used_cpus": None, "reason": "no /proc"}]
        records = [
            latency_record("fp32", repeat, details={"other_programs": one})
            for repeat, one in enumerate(told)
        ]
        unknown = latency_record("nf4", details={"other_programs": told[2]})
        table = self.details([*records, unknown, latency_record("int8")])[title]
        labels = [row.label for row in table.rows]
        found = dict(zip(labels, table.column("other_programs"), strict=True))
        assert found["fp32"].value == pytest.approx(0.35)
        assert (found["nf4"].value, found["nf4"].reason) == (None, "no /proc")
        assert (found["int8"].value, found["int8"].reason) == (None, None)

    def test_one_process_has_no_spread(self) -> None:
        tables = self.details([latency_record("nf4")])
        keys = [column.key for table in tables.values() for column in table.columns]
        assert "latency.decode" in keys
        assert "latency.decode.lowest" not in keys

    def test_interval_of_the_change_is_the_one_that_is_compared_by(self) -> None:
        records = [quality_record("fp32"), quality_record("nf4")]
        table = self.details(records)["Quality: stdlib-heldout"]
        base, own = (record.series["window_nll"] for record in records)
        counts = records[0].series["window_tokens"]
        # windows of equal length: the plain standard error of the mean of the differences, as far
        # as some ten blocks of windows tell it
        means = [(b - a) / n for a, b, n in zip(base, own, counts, strict=True)]
        error = statistics.stdev(means) / math.sqrt(len(means))
        ends = [table.column(f"change.{end}")[1].value for end in ("low", "high")]
        for end, sign in zip(ends, (-1, 1), strict=True):
            closed = math.expm1(statistics.mean(means) + sign * 1.959964 * error)
            assert end == pytest.approx(closed, rel=0.5)
        compared = compare_records([records[1]], [records[0]])
        (mark,) = [row.mark for row in compared.rows if row.metric == "perplexity"]
        assert ends == [mark.low, mark.high]

    def test_the_batch_stands_beside_figures_that_depend_on_it(self) -> None:
        records = [quality_record("fp32"), quality_record("nf4")]
        told = ", batches of 4 (figures of int8 depend on them)"
        assert "Quality: stdlib-heldout" in self.details(records)
        assert f"Quality: stdlib-heldout{told}" in self.details([*records, quality_record("int8")])
        for with_int8, expected in ((False, ""), (True, told)):
            shown = [*records, *([quality_record("int8")] if with_int8 else [])]
            (table,) = select(shown).tables
            columns = {one.key: one for one in decision_table(table).table.columns}
            definition = columns["perplexity:stdlib-heldout-w256-default"].definition
            assert definition.endswith(f"protocol default{expected}")

    def test_what_was_loaded_is_shown(self) -> None:
        table = self.details(quickstart_records())["What was loaded, verified"]
        nf4 = next(row for row in table.rows if row.label == "nf4")
        words = dict(zip([c.key for c in table.columns], nf4.figures, strict=True))
        assert words["left_out"].word == "lm_head"
        assert words["quantized_share"].word == "81.7 %"

    def test_a_task_stands_beside_its_chance_and_the_references_score(self) -> None:
        records = [
            make_record(
                name,
                "tasks",
                {"tasks.colour.acc": score},
                slug="colour",
                details={"chance": {"acc": 0.25}, "items": 400},
            )
            for name, score in (("fp32", 0.5), ("nf4", 0.4))
        ]
        table = self.details(records)["Task: colour, acc"]
        assert [figure.value for figure in table.column("tasks.colour.acc")] == [0.5, 0.4]
        assert table.column("change")[1].value == pytest.approx(-0.1)
        assert [figure.value for figure in table.column("chance")] == [0.25, 0.25]

    def test_other_measurements_are_listed(self) -> None:
        record = make_record("nf4", "another", {"accuracy": 0.4321}, slug="hellaswag")
        failed = make_failure("nf4", "another", "crash", "died", slug="arc")
        table = self.details([record, failed])["Other measurements"]
        assert [[figure.word for figure in row.figures] for row in table.rows] == [
            ["another hellaswag", "accuracy", "0.4321"],
            ["another arc", "", "crash"],
        ]

    def test_only_failures_leave_no_empty_tables(self) -> None:
        records = [make_failure("nf4", name, "oom", "full") for name in ("footprint", "latency")]
        assert self.details(records) == {}


class TestWarnings:
    def test_timings_that_differ_in_numbers_are_one_warning(self) -> None:
        (warning,) = warnings(select(quickstart_records()))
        assert warning.text == "decode is unstable: IQR 13-14% of the median; run again"
        assert warning.places == (("nf4", ("latency b1-p128-n32", "latency b4-p128-n32")),)

    def test_numbers_of_other_measurements_are_kept(self) -> None:
        records = [
            footprint_record(precision, warnings=(f"{count} bytes",))
            for precision, count in (("fp4", 1), ("nf4", 2))
        ]
        assert [one.text for one in warnings(select(records))] == ["1 bytes", "2 bytes"]


class TestSummary:
    def summary(self, records: list[Record]) -> str:
        (table,) = select(records).tables
        return summarise(table, decision_table(table))

    def test_says_what_was_measured_and_what_not(self) -> None:
        text = self.summary(quickstart_records())
        assert "7 cells of tiny-mistral on Intel Xeon (2 cores)" in text
        assert "5 measured in full, fp16 in part, int8 not at all" in text

    def test_the_smallest_with_its_price(self) -> None:
        records = quickstart_records()
        sizes = [sum(static_bytes(precision).values()) for precision in ("nf4-dq", "fp32")]
        text = self.summary(records)
        assert "Smallest: nf4-dq" in text
        assert f"{100 * sizes[0] / sizes[1]:.1f} % of fp32's" in text

    def test_overlapping_processes_are_not_told_apart(self) -> None:
        # nf4 and fp4 are 2 % apart, their processes spread by 8 %; bf16 is 9 % away
        text = self.summary(quickstart_records())
        assert "Lowest decode time: nf4" in text
        assert "not told apart from fp4: their processes overlap" in text

    def test_one_process_claims_no_spread(self) -> None:
        text = self.summary([latency_record("fp32"), latency_record("nf4")])
        assert "the spread between processes is unknown" in text

    def test_only_failures(self) -> None:
        records = [make_failure(p, "footprint", "oom", "full") for p in ("fp32", "nf4")]
        text = self.summary(records)
        assert "0 measured in full" in text
        assert "Smallest" not in text
        assert "Lowest" not in text


def test_a_format_whose_name_others_have_is_called_by_its_title() -> None:
    """In tables and pictures of whole pages; the name that commands take stays in data."""
    records = quickstart_records()
    page = report_page(records)
    lines = [line for line in as_markdown(page).splitlines() if line.startswith("|")]
    assert any(line.startswith("| FP4 (bitsandbytes) ") for line in lines)
    assert any(line.startswith("| nf4 ") for line in lines)
    assert "FP4 (bitsandbytes)" in str(sections_of(page).charts)
    assert "FP4" not in as_json(records)


@pytest.mark.parametrize(
    ("label", "name", "called"),
    [
        ("fp4", "fp4", "FP4 (bitsandbytes)"),
        ("fp4-compute_dtype=fp16", "fp4", "FP4 (bitsandbytes), compute_dtype=fp16"),
        ("mine", "fp4", None),
        ("fp4", "nf4", None),  # a label of one's own
        ("fp4", "no-longer-there", None),
    ],
)
def test_it_is_the_precision_that_is_called_so_and_not_the_label(
    label: str, name: str, called: str | None
) -> None:
    cell = footprint_record("fp32").cell
    held = PrecisionRef(label=label, name=name)
    assert called_in_words(cell.model_copy(update={"precision": held})) == called
