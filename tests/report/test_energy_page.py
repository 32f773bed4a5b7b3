"""Energy and CO₂ on pages: from records alone, by the factor that a user states."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

from qbench.compare.co2 import Co2
from qbench.compare.selection import select
from qbench.compare.stated import Stated
from qbench.core.page import Heading, Table, Words
from qbench.core.record import Metric
from qbench.report import markdown
from qbench.report.decision import decision_table
from qbench.report.energy import energy_parts
from qbench.report.formats import formats, report_subject
from qbench.report.overview import overview_page
from qbench.report.report_page import report_page
from tests.pages import on_terminal, short_report, whole_report
from tests.record_factory import footprint_record, latency_record, make_record
from tests.tuned_records import finetune_records, make_tuning, training_record

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords
    from qbench.core.page import Part
    from qbench.core.record import Record

FACTOR = Co2(grams_per_kwh=380, source="a grid, 2025")
REASON = "there is no counter"


def joules(name: str, value: float | None) -> Metric:
    reason = None if value is not None else REASON
    return Metric(name=name, unit="J", better="lower", value=value, reason=reason)


def drawing(precision: str, energy_j: float | None, repeat: int = 0, batch: int = 1) -> Record:
    record = latency_record(precision, repeat=repeat, batch=batch)
    decode_j = None if energy_j is None else 0.8 * energy_j
    more = joules("latency.energy", energy_j), joules("latency.energy.decode", decode_j)
    details = {**record.details, "energy_method": "RAPL's counters of package-0"}
    return record.model_copy(update={"metrics": (*record.metrics, *more), "details": details})


def table_of(records: list[Record]) -> TableRecords:
    (found,) = select(records).tables
    return found


def tables(parts: list[Part]) -> list[Table]:
    return [part for part in parts if isinstance(part, Table)]


def words(parts: list[Part]) -> str:
    return " ".join(str(part.line) for part in parts if isinstance(part, Words))


def test_grams_are_joules_in_kilowatt_hours_times_the_factor() -> None:
    """By hand: 0.5 J a token are 0.5 MJ a million, 0.13889 kWh, 52.78 g at 380 g a kWh."""
    records = table_of([drawing("fp32", 0.5), drawing("nf4", 0.25), drawing("nf4", 0.3, batch=8)])
    parts = energy_parts(records, FACTOR)
    assert parts[0] == Heading("Energy and CO₂", 3)
    small, large = tables(parts)
    assert [figure.value for figure in small.column("latency.energy")] == [0.5, 0.25]
    assert [figure.value for figure in small.column("latency.energy.decode")] == [0.4, 0.2]
    grams = [figure.value for figure in small.column("co2.tokens")]
    assert grams == [pytest.approx(52.7778, rel=1e-5), pytest.approx(26.3889, rel=1e-5)]
    assert [row.label for row in large.rows] == ["nf4"]
    assert large.column("co2.tokens")[0].value == pytest.approx(0.3 / 3.6 * 380)
    assert "380 g a kWh, which the user states (a grid, 2025)" in words(parts)


def test_a_terminal_has_the_grams_and_what_they_rest_on() -> None:
    records = [footprint_record("fp32"), drawing("fp32", 0.5)]
    stated = {records[0].suite: Stated(co2=FACTOR)}
    page = on_terminal(overview_page(records, stated), 100)
    assert "52.78" in page
    assert "380 g a kWh, which the user states (a grid, 2025)" in " ".join(page.split())
    assert "CO₂" not in on_terminal(overview_page(records), 100)
    silent = on_terminal(overview_page([drawing("fp32", None)], stated), 100)
    assert REASON in silent
    assert "Energy and CO₂" in markdown.render(report_page(records, stated))


def test_without_a_factor_there_are_joules_and_no_gram() -> None:
    parts = energy_parts(table_of([drawing("fp32", 0.5)]), None)
    assert parts[0] == Heading("Energy", 3)
    (table,) = tables(parts)
    assert [column.key for column in table.columns] == ["latency.energy", "latency.energy.decode"]
    assert "CO₂" not in words(parts)
    assert words(parts).startswith("batch 1, 128 prompt tokens, 32 new tokens: Told by RAPL's")


def test_without_energy_there_is_nothing_but_the_reason_where_a_factor_asks() -> None:
    records = table_of([drawing("fp32", None)])
    assert energy_parts(records, None) == []
    parts = energy_parts(records, FACTOR)
    assert tables(parts) == []
    assert REASON in words(parts)
    assert "was measured" in words(energy_parts(table_of([footprint_record("fp32")]), FACTOR))


def test_the_grams_have_the_interval_of_the_joules() -> None:
    taken = [drawing("fp32", 0.5 + 0.01 * at, at) for at in range(6)]
    (table,) = tables(energy_parts(table_of(taken), FACTOR))
    energy, grams = table.column("latency.energy")[0], table.column("co2.tokens")[0]
    assert energy.low is not None
    assert energy.low < 0.525 < (energy.high or 0)
    assert grams.low == pytest.approx(energy.low / 3.6 * 380)
    assert grams.high == pytest.approx((energy.high or 0) / 3.6 * 380)


def test_tokens_under_load_have_a_table_of_their_own() -> None:
    served = make_record(
        "fp32",
        "serving",
        slug="transformers-c8-p128-n32",
        more_metrics=(joules("serving.energy", 0.9),),
    )
    latency, load = tables(energy_parts(table_of([drawing("fp32", 0.5), served]), FACTOR))
    assert latency.column("latency.energy")[0].value == 0.5
    assert load.column("serving.energy")[0].value == 0.9
    assert load.column("co2.tokens")[0].value == pytest.approx(0.9 / 3.6 * 380)


def test_a_training_has_joules_an_example_and_in_all() -> None:
    record = training_record(make_tuning("qlora-nf4"))
    values = {"": 0.002, ".example": 0.4, ".total": 7200.0}
    more = (joules(f"training.energy{key}", value) for key, value in values.items())
    others = [one for one in finetune_records() if one.item.measurement != "training"]
    drawn = record.model_copy(update={"metrics": (*record.metrics, *more)})
    records = table_of([*others, drawn])
    (table,) = tables(energy_parts(records, FACTOR))
    (row,) = table.rows
    assert row.label == "qlora-nf4"
    assert [figure.value for figure in row.figures] == [0.002, 0.4, 7200.0, pytest.approx(0.76)]


def test_exports_have_the_grams_of_each_cell_and_training() -> None:
    training = training_record(make_tuning("qlora-nf4"))
    total = joules("training.energy.total", 7200.0)
    tuned = training.model_copy(update={"metrics": (*training.metrics, total)})
    records = [drawing("fp32", 0.5), drawing("nf4", None), tuned]
    stated = {tuned.suite: Stated(co2=FACTOR)}
    rows = csv.DictReader(io.StringIO(written("csv", records, stated)))
    grams = [row for row in rows if row["metric"].startswith("co2.")]
    assert [(row["metric"], row["label"], row["unit"]) for row in grams] == [
        ("co2.tokens", "fp32", "g"),
        ("co2.tokens", "nf4", "g"),
        ("co2.training", "qlora-nf4", "g"),
    ]
    assert float(grams[0]["value"]) == pytest.approx(0.5 / 3.6 * 380)
    assert (grams[1]["value"], grams[1]["reason"]) == ("", REASON)
    assert float(grams[2]["value"]) == pytest.approx(0.76)
    document = json.loads(written("json", records, stated))
    first, second = document["energy"]
    assert first["rows"][0]["figures"]["co2.tokens"]["value"] == float(grams[0]["value"])
    assert second["rows"][0]["figures"]["co2.training"]["value"] == float(grams[2]["value"])
    assert "co2" not in written("csv", records, {})


def written(name: str, records: list[Record], stated: dict[str, Stated]) -> str:
    found = formats()[name].render(report_subject(records, stated))
    return found if isinstance(found, str) else found.decode()


def test_a_reader_finds_it_in_the_table_that_is_decided_by() -> None:
    told = [footprint_record("fp32"), drawing("fp32", 0.5)]
    table = decision_table(table_of(told)).table
    assert table.column("latency.energy")[0].value == 0.5
    assert "0.5000" in short_report(told, 120)
    page = whole_report(told)
    assert "### Energy" in page
    untold = decision_table(table_of([drawing("fp32", None)])).table
    assert "latency.energy" not in {column.key for column in untold.columns}
