"""What other tools call a metric: shown beside its own name, and understood in a suite."""

from __future__ import annotations

import csv
import io
import json

import pytest

from qbench.compare.selection import select
from qbench.measures.field_names import definitions, field_names, metric_called
from qbench.report.decision import decision_table
from qbench.report.details import detail_tables
from tests.pages import short_report, whole_report, written_as
from tests.record_factory import latency_record, make_record, quickstart_records

OF_THE_FIELD = {
    "TTFT": "latency.prefill",
    "ttft": "latency.prefill",
    "pp512": "latency.prefill",
    "TPOT": "latency.decode",
    "tg128": "latency.decode",
    "KLD": "kl.mean",
    "mean kld": "kl.mean",
    "99.9% KLD": "kl.p99_9",
    "maximum_kld": "kl.max",
    "same top p": "top1_agreement",
    "same-top-p": "top1_agreement",
    "RMS Δp": "rms_probability_change",
    "PPL": "perplexity",
    "bpw": "bits_per_weight.model",
}


@pytest.mark.parametrize(("name", "metric"), OF_THE_FIELD.items())
def test_a_name_of_the_field_is_understood_however_it_is_written(name: str, metric: str) -> None:
    assert metric_called(name) == metric


def test_no_name_of_the_field_means_two_metrics_or_hides_one() -> None:
    for name, definition in definitions().items():
        assert metric_called(name) is None
        for other in definition.also_called:
            assert metric_called(field_names(name)[definition.also_called.index(other)]) == name
    for unknown in ("", "perplexitty", "tasks.*", "latency.*", "pp", "tg"):
        assert metric_called(unknown) is None


def test_a_name_tells_the_length_that_was_measured() -> None:
    params = {"batch": 1, "prompt_tokens": 512, "new_tokens": 128}
    assert field_names("latency.prefill", params) == ("TTFT", "pp512")
    assert field_names("latency.decode", params) == ("TPOT", "tg128")
    assert field_names("latency.prefill") == ("TTFT", "ppN")
    assert field_names("no.such.metric") == ()


class TestLegends:
    """Of records whose prompt has 128 tokens."""

    def test_the_page_tells_the_names_with_the_definitions(self) -> None:
        page = whole_report(quickstart_records())
        assert "**prefill**: also called TTFT, pp128; time of one forward pass" in page
        assert "**decode/token**: also called TPOT, tg32; time for each new token" in page
        assert "Called elsewhere: latency.prefill is TTFT, pp128;" in page

    def test_each_point_of_the_grid_has_its_own_length(self) -> None:
        long = {"batch": 1, "prompt_tokens": 2048, "new_tokens": 8}
        records = [latency_record("nf4"), latency_record("nf4", slug="long", params=long)]
        tables = detail_tables(select(records).tables[0])
        found = {
            column.also_called
            for table in tables
            for column in table.columns
            if column.key == "latency.prefill"
        }
        assert found == {("TTFT", "pp128"), ("TTFT", "pp2048")}

    def test_divergence_is_told_by_both_names(self) -> None:
        metrics = {"perplexity": 12.0, "kl.mean": 0.01, "top1_agreement": 0.9}
        metrics |= {"rms_probability_change": 0.02}
        params = {"text": {"name": "prose"}}
        records = [make_record(p, "quality", metrics, params=params) for p in ("fp32", "nf4")]
        page = whole_report(records)
        for words in ("also called KLD", "also called same top p", "also called RMS Δp"):
            assert words in page
        assert "KL = KLD" in short_report(records, 80)

    def test_the_terminal_tells_them_in_a_line(self) -> None:
        line = "prefill = TTFT, pp128; decode/token = TPOT, tg32; batch 1"
        assert line in short_report(quickstart_records(), 80)


class TestExports:
    """Names stand beside the metrics' own."""

    def test_csv_has_a_column_of_them(self) -> None:
        rows = csv.DictReader(io.StringIO(written_as("csv", quickstart_records())))
        found = {(row["metric"], row["also_called"]) for row in rows}
        assert ("latency.prefill", "TTFT, pp128") in found
        assert ("perplexity", "PPL") in found
        assert ("memory.static", "") in found

    def test_json_has_them_with_the_columns_and_the_metrics(self) -> None:
        records = quickstart_records()
        document = json.loads(written_as("json", records))
        (table,) = document["decision_tables"]
        assert table["columns"]["latency.prefill"]["also_called"] == ["TTFT", "pp128"]
        assert table["columns"]["memory.static"]["also_called"] == []
        names = {metric.name for record in records for metric in record.metrics}
        assert set(document["metrics"]) <= names
        assert document["metrics"]["perplexity"]["also_called"] == ["PPL"]
        assert document["metrics"]["perplexity"]["formula"] == definitions()["perplexity"].formula

    def test_columns_without_another_name_have_none(self) -> None:
        decision = decision_table(select(quickstart_records()).tables[0])
        (static,) = (one for one in decision.table.columns if one.key == "memory.static")
        assert static.also_called == ()
        assert static.meaning == static.definition
