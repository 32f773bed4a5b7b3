"""What it costs: shown only where a price was stated, by the arithmetic of the measured times."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.cli.price_options import price_given, price_over
from qbench.compare.price import Price, devices_of
from qbench.compare.recommend.joint import join
from qbench.compare.selection import select
from qbench.compare.stated import Stated
from qbench.compare.tuned.arms import arms_of
from qbench.core.errors import UsageError
from qbench.core.record import Metric
from qbench.core.store import read_folder
from qbench.report.costs import TITLE, cheapest_table, cost_tables, training_cost_table
from qbench.report.decision import decision_table
from qbench.report.formats import formats, report_subject
from qbench.report.overview import overview_page
from qbench.report.terminal import as_text
from tests.command import call
from tests.pages import REPORT_FORMATS, on_terminal
from tests.record_factory import latency_record, make_environment, make_record

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
SERVED = ("price.served", "price.served.point")
HOUR = Price(machine_hour=0.36, currency="EUR")
"""0.0001 a second."""


def taken(suite: str = "quickstart") -> list[Record]:
    return [
        latency_record(precision, repeat, batch, suite=suite)
        for precision in ("fp32", "nf4")
        for batch in (1, 4)
        for repeat in range(5)
    ]


def table_of(records: list[Record]) -> TableRecords:
    return next(iter(select(records).tables))


def shown(name: str, records: list[Record], price: Price | None) -> str:
    stated = {record.suite: Stated(price=price) for record in records}
    found = formats()[name].render(report_subject(records, stated))
    return found if isinstance(found, str) else found.decode()


def test_the_cheapest_batch_stands_there_and_each_in_the_details() -> None:
    table = cheapest_table(table_of(taken()), HOUR)
    assert [column.title for column in table.columns] == [
        "1M prompt tokens (EUR)",
        "cheapest at",
        "1M generated tokens (EUR)",
        "cheapest at",
    ]
    each = {one.title: one for one in cost_tables(table_of(taken()), HOUR)}
    at_four = each[f"{TITLE}: batch 4, 128 prompt tokens, 32 new tokens"]
    assert len(each) == 2
    for row, detail in zip(table.rows, at_four.rows, strict=True):
        assert row.figures[3].word == "batch 4, 128 + 32 tokens"  # it makes 2.5 times the tokens
        assert row.figures[2] == detail.figures[2]
        rate = detail.figures[3].value
        assert rate is not None
        assert detail.figures[2].value == pytest.approx(1e6 * 1e-4 / rate)
        low, value, high = (getattr(row.figures[2], end) for end in ("low", "value", "high"))
        assert low < value < high


def behind_a_server(slug: str, rate: float, **server: Any) -> list[Record]:
    return [
        make_record(
            "fp32",
            "serving",
            slug=slug,
            params={"server": server},
            repeat=repeat,
            more_metrics=(
                Metric(
                    name="serving.output_throughput",
                    unit="tokens/s",
                    better="higher",
                    value=rate * (1 + 0.01 * repeat),
                    varies_by="process",
                ),
            ),
        )
        for repeat in range(5)
    ]


def test_behind_a_server_it_is_what_was_generated_under_the_load() -> None:
    few = behind_a_server("transformers-c1", 100.0, engine="transformers")
    many = behind_a_server("transformers-c8", 400.0, engine="transformers")
    records = [*taken(), *few, *many]
    table = cheapest_table(table_of(records), HOUR)
    (figure, other), (place, nothing) = (table.column(key) for key in SERVED)
    assert figure.value == pytest.approx(1e6 * 1e-4 / (400 * 1.02))
    assert figure.low is not None
    assert figure.high is not None
    # the interval is that of the rate, whose ends change places
    assert 1e6 * 1e-4 / (400 * 1.04) < figure.low < figure.value < figure.high < 1e2 / 400
    assert place.word == "transformers-c8"
    assert (other.value, nothing.word) == (None, "")
    text = shown("markdown", records, HOUR)
    assert "1M tokens behind a server (EUR)" in text
    assert "prompts and all" in text
    rows = csv.DictReader(io.StringIO(shown("csv", records, HOUR)))
    assert [row["item"] for row in rows if row["metric"] == "price.served"] == [
        "transformers-c1",
        "transformers-c8",
    ]


def test_of_a_server_whose_devices_are_not_known_there_is_no_price() -> None:
    there = behind_a_server("there", 100.0, address="http://127.0.0.1:8000")
    assert devices_of(there) == (None, "what the server at this address runs on is not known")
    gpus = make_environment(device_type="cuda", gpus_memory_bytes=(1, 1))
    command = [
        one.model_copy(update={"environment": gpus})
        for one in behind_a_server("vllm", 100.0, command=["vllm", "serve"])
    ]
    assert devices_of(command)[0] == 1  # it sees the cell's own alone
    model = command[0].cell.model.model_copy(update={"device_map": "auto"})
    cell = command[0].cell.model_copy(update={"model": model})
    count, reason = devices_of([command[0].model_copy(update={"cell": cell})])
    assert count is None
    assert "over how many GPUs" in reason
    table = cheapest_table(table_of([*taken(), *there]), HOUR)
    figure, _ = table.column(SERVED[0])
    assert figure.value is None
    assert figure.reason == devices_of(there)[1]


def test_a_training_is_the_mean_over_its_seeds() -> None:
    table = table_of(read_folder(PUBLISHED / "finetune")[0])
    made = training_cost_table(arms_of(table), HOUR)
    assert made.rows
    for row in made.rows:
        cost, time = row.figures
        assert cost.value == pytest.approx(1e-4 * (time.value or 0.0))
        assert cost.spread == pytest.approx(1e-4 * (time.spread or 0.0))


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e308])
def test_of_a_time_that_is_none_there_is_no_price(seconds: float) -> None:
    record = make_record(
        "fp32",
        "latency",
        {"latency.decode": seconds, "throughput.decode": -1.0},
        params={"batch": 1},
    )
    (made,) = cost_tables(table_of([record]), Price(machine_hour=1e12))
    (figure,) = made.column("price.generated")
    assert figure.value is None
    assert "no amount" in str(figure.reason)


def test_a_terminal_tells_what_its_price_rests_on() -> None:
    stated = Stated(price=Price(machine_hour=0.2, currency="USD"))
    said = as_text(overview_page(taken(), {record.suite: stated for record in taken()}))
    assert re.search(r"An hour of one machine \(cpu-.*\) costs 0.2 USD", " ".join(said.split()))
    assert "An hour of" not in as_text(overview_page(taken()))


def test_without_a_price_nothing_is_said_of_one() -> None:
    assert {key for key in shown("csv", taken(), None).split() if "price" in key} == set()
    assert json.loads(shown("json", taken(), None))["costs"] == []
    for name in REPORT_FORMATS:
        assert TITLE not in shown(name, taken(), None)


def test_a_device_without_a_price_has_no_figure_and_the_reason() -> None:
    prices = Price(gpu_hour=1.0)
    assert "machine_hour states it" in shown("markdown", taken(), prices)
    rows = csv.DictReader(io.StringIO(shown("csv", taken(), prices)))
    found = [row for row in rows if row["metric"].startswith("price.")]
    assert found
    assert {row["value"] for row in found} == {""}
    assert all("no price of an hour of cpu-" in row["reason"] for row in found)
    assert decision_table(table_of(taken()), prices) == decision_table(table_of(taken()))


def test_every_form_of_the_report_tells_it() -> None:
    text = shown("markdown", taken(), HOUR)
    assert f"### {TITLE}" in text
    assert "costs 0.36 EUR, as it was stated" in text
    assert "price/1M at batch 1 (EUR)" in text
    assert TITLE in shown("html", taken(), HOUR)
    stated = {"quickstart": Stated(price=HOUR)}
    words = on_terminal(overview_page(taken(), stated), 100).split()
    assert "(EUR)" in words


def test_exports_have_it_for_each_cell_and_point() -> None:
    rows = list(csv.DictReader(io.StringIO(shown("csv", taken(), HOUR))))
    prices = [row for row in rows if row["metric"].startswith("price.")]
    assert len(prices) == 2 * 2 * 2  # precisions, batches, prompt and generated
    for row in prices:
        assert row["unit"] == "EUR per 1M tokens"
        assert (row["derived"], row["better"]) == ("true", "lower")
        assert float(row["low"]) < float(row["value"]) < float(row["high"])
    document = json.loads(shown("json", taken(), HOUR))
    first = document["costs"][0]
    assert first["title"] == f"{TITLE}: batch 1, 128 prompt tokens, 32 new tokens"
    found = {
        float(row["value"])
        for row in prices
        if row["metric"] == "price.generated" and '"batch": 1' in row["params"]
    }
    figures = [row["figures"]["price.generated"]["value"] for row in first["rows"]]
    assert found == set(figures)
    (decision,) = document["decision_tables"]
    assert [row["figures"]["price.generated"]["value"] for row in decision["rows"]] == figures
    assert json.loads(shown("json", taken(), None))["costs"] == []


def test_the_column_of_the_decision_table_is_the_price_at_its_batch() -> None:
    table = table_of(taken())
    plain, priced = decision_table(table).table, decision_table(table, HOUR).table
    keys = [column.key for column in priced.columns]
    assert [key for key in keys if key != "price.generated"] == [one.key for one in plain.columns]
    for price, decode in zip(
        priced.column("price.generated"), priced.column("latency.decode"), strict=True
    ):
        assert price.value == pytest.approx(100 * (decode.value or 0.0))
        assert price.best == decode.best


def test_devices_of_other_prices_stand_in_one_table() -> None:
    other = make_environment(device="Other CPU (8 cores)", device_kind="cpu-other-8c")
    cheap = [one.model_copy(update={"reference": one.cell.label == "fp32"}) for one in taken()]
    dear = [one.model_copy(update={"environment": other}) for one in cheap]
    price = Price(machine_hour={"cpu": 0.36, "cpu-other-8c": 3.6})
    (joint,) = join(select([*cheap, *dear]).tables, {"quickstart": Stated(price=price)})
    figures = {one.label: one.ranges["price"].value for one in joint.choices.cells}
    assert figures["nf4 (Other CPU (8 cores))"] == pytest.approx(
        10 * (figures["nf4 (Intel Xeon (2 cores))"] or 0.0)
    )


def test_the_command_prices_a_folder_and_tells_what_is_wrong(tmp_path: Path) -> None:
    folder = str(PUBLISHED / "quickstart")
    output = tmp_path / "page.md"
    finished = call(
        tmp_path, "report", folder, "--machine-hour", "0.2", "--currency", "USD", "-o", str(output)
    )
    assert finished.code == 0, finished
    assert "costs 0.2 USD" in output.read_text(encoding="utf-8")
    finished = call(tmp_path, "report", folder, "--machine-hour", "cheap")
    assert finished.code == 2
    assert "--machine-hour: found 'cheap'" in " ".join(finished.errors.split())


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("-1", "found '-1'; expected a positive number"),
        ("1e13", "found '1e13'; expected a positive number"),
        ("h100=1e400", "found 'h100=1e400'; expected a positive number"),
        ("=2", "found '=2'; expected one amount"),
        ("!=2", "found the kind '!'; expected one for each kind of device"),
        ("h100=2 H100=3", "found h100 and H100, which name the same devices; expected each kind"),
    ],
)
def test_an_amount_that_is_none_is_told_as_it_was_typed(typed: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        price_over(price_given(None, typed.split(), None), None)
    assert str(caught.value).startswith(f"--machine-hour: {told}")


def test_the_price_of_a_suite_holds_for_its_records(tmp_path: Path) -> None:
    text = "name: quickstart\nmodels: bundled:tiny-mistral\nprice: {machine_hour: 0.2}\n"
    (tmp_path / "suite.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "results").symlink_to(PUBLISHED)
    for more, hour in (((), "0.2"), (("--machine-hour", "0.5"), "0.5")):
        finished = call(tmp_path, "report", "suite.yaml", *more, "-o", "page.md")
        assert finished.code == 0, finished
        page = (tmp_path / "page.md").read_text(encoding="utf-8")
        assert f"costs {hour}, as it was stated" in page
