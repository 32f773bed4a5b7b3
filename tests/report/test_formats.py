"""Every report format, and what programs read from csv and json."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from qbench.core.record import SCHEMA_VERSION, Record
from qbench.core.units import choose_scale
from qbench.report.formats import formats
from tests.pages import REPORT_FORMATS, written_as
from tests.record_factory import (
    footprint_record,
    make_failure,
    make_metric,
    make_record,
    quickstart_records,
)

if TYPE_CHECKING:
    from qbench.core.units import Display

LATER = "2026-07-02T12:00:00+00:00"


@pytest.mark.parametrize("name", REPORT_FORMATS)
@pytest.mark.parametrize(
    "records",
    [
        [],
        quickstart_records(),
        [make_failure("nf4", "footprint", "crash", "died")],
        [make_record("nf4", "invented", {"new": 1.0, "other": None})],
    ],
    ids=["none", "quickstart", "failure", "unknown"],
)
def test_every_format_takes_any_records(name: str, records: list[Record]) -> None:
    assert formats()[name].suffix.startswith(".")
    assert written_as(name, records).endswith("\n")


def rows(records: list[Record]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(written_as("csv", records))))


def test_csv_has_one_row_a_metric() -> None:
    records = quickstart_records()
    found = rows(records)
    assert len(found) == sum(max(1, len(record.metrics)) for record in records)
    nf4 = next(
        row for row in found if row["label"] == "nf4" and row["metric"] == "memory.static.linear"
    )
    assert float(nf4["value"]) == 4_718_592 / 2
    assert (nf4["unit"], nf4["better"], nf4["status"]) == ("B", "lower", "ok")
    assert json.loads(nf4["versions"])["torch"] == "2.13.0"


def test_csv_leaves_what_is_missing_empty() -> None:
    nan = make_metric("perplexity", 1.0).model_copy(update={"value": math.nan})
    none = make_metric("disk_bytes", None, reason="no file")
    failed = make_failure("int8", "footprint", "oom", 'full, "really"\nfull')
    found = rows([make_record("nf4", more_metrics=(nan, none)), failed])
    assert [row["value"] for row in found] == ["", "", ""]
    assert [row["reason"] for row in found] == [
        "the value is not a finite number",
        "no file",
        'full, "really"\nfull',
    ]
    assert found[2]["metric"] == ""


def test_csv_keeps_older_records_and_tells_them_apart() -> None:
    records = [footprint_record("nf4"), footprint_record("nf4", started_at=LATER)]
    tabled = {row["started_at"]: row["tabled"] for row in rows(records)}
    assert tabled == {records[0].started_at: "false", LATER: "true"}


def test_json_holds_the_records_whole() -> None:
    records = quickstart_records()
    document = json.loads(written_as("json", records))
    assert document["schema_version"] == SCHEMA_VERSION
    assert [Record.model_validate(one) for one in document["records"]] == records


def test_json_holds_the_decision_table() -> None:
    document = json.loads(written_as("json", quickstart_records()))
    (decision,) = document["decision_tables"]
    assert decision["reference"] == "fp32"
    by_label = {row["precision"]: row["figures"] for row in decision["rows"]}
    assert by_label["nf4"]["memory.static"]["value"] == 4_762_368
    assert by_label["int8"]["memory.static"]["value"] is None
    assert by_label["int8"]["memory.static"]["word"] == "oom"
    assert by_label["nf4-dq"]["memory.static"]["best"]
    assert decision["columns"]["memory.static"]["unit"] == "B"
    change = by_label["nf4"]["change:stdlib-heldout-w256-default"]
    assert change["low"] < change["value"] < change["high"]
    (row,) = [
        row for row in decision["differences"]["rows"] if row["metric"].startswith("perplexity")
    ]
    assert {key: row["figures"]["nf4"][key] for key in ("value", "low", "high")} == {
        key: change[key] for key in ("value", "low", "high")
    }


def test_json_writes_no_nan() -> None:
    nan = make_metric("perplexity", 1.0).model_copy(update={"value": math.nan})
    record = make_record("nf4", more_metrics=(nan,), series={"window_nll": [math.inf]})
    text = written_as("json", [record])
    assert "NaN" not in text
    assert "Infinity" not in text


def test_a_difference_from_nothing_is_no_number_in_json() -> None:
    records = [
        make_record(label, metrics={"memory.static": size})
        for label, size in (("fp32", 0.0), ("nf4", 5.0))
    ]
    document = json.loads(written_as("json", records))
    (row,) = document["decision_tables"][0]["differences"]["rows"]
    found = row["figures"]["nf4"]
    assert (found["value"], found["high"]) == (None, None)
    assert found["word"] == "from 0 worse"


def test_no_format_loads_torch_or_pandas() -> None:
    code = (
        "import sys; from tests.pages import REPORT_FORMATS, written_as;"
        "[written_as(name, []) for name in REPORT_FORMATS];"
        "print([name for name in ('torch', 'transformers', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("numbers", "display", "texts"),
    [
        ([2**30, 3 * 2**30], "bytes", ["1.00 GiB", "3.00 GiB"]),
        ([512, 100], "bytes", ["512 B", "100 B"]),
        ([5 * 2**20, 100], "bytes", ["5.000 MiB", "<0.001 MiB"]),
        ([0.0123, 0.9], "seconds", ["12.3 ms", "900.0 ms"]),
        ([12.5, 20.0], "seconds", ["12.5 s", "20.0 s"]),
        ([3e-5], "seconds", ["30.0 µs"]),
        ([0.0, 4.5], "number", ["0", "4.500"]),
        ([3.0, 12345.0], "number", ["3", "12,345"]),
        ([0.873], "percent", ["87.3 %"]),
        ([0.0059, -0.11], "change", ["+0.59 %", "-11.00 %"]),
        ([0.0], "change", ["0 %"]),
        ([1e300, 2.0], "number", ["1e+300", "2"]),
        ([1e300], "change", ["+1e+302 %"]),
        ([5e-324, 2.5], "bytes", ["<1 B", "2 B"]),
        ([5e-324, 2**20], "bytes", ["<0.01 MiB", "1.00 MiB"]),
    ],
)
def test_scales_keep_the_digits_of_the_smallest(
    numbers: list[float], display: Display, texts: list[str]
) -> None:
    scale = choose_scale(numbers, display)
    assert [scale.with_unit(number) for number in numbers] == texts
