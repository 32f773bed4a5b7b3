"""What was measured at several lengths, as tables and pictures over them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qbench.compare.items import first_point
from qbench.compare.selection import select
from qbench.core.page import Charts, Table
from qbench.core.record import Metric, Record
from qbench.report.charts.over_length import length_charts
from qbench.report.decision import decision_table
from qbench.report.details import detail_tables
from qbench.report.over_length import over_length
from qbench.report.pictures import picture_parts
from tests.record_factory import make_record


def point(cell: str, batch: int, prompt: int, decode: float, **more: Any) -> Record:
    return make_record(
        cell,
        "latency",
        {"latency.prefill": prompt / 1000, "latency.decode": decode},
        slug=f"b{batch}-p{prompt}-n8",
        params={"batch": batch, "prompt_tokens": prompt, "new_tokens": 8, **more},
    )


def window(cell: str, tokens: int, nll: float) -> Record:
    ranges = [start for start in (0, 16, 32, 64) if start < tokens]
    return make_record(
        cell,
        "quality",
        slug=f"text-w{tokens}-default",
        params={"text": {"name": "text"}, "window": tokens, "protocol": "default"},
        more_metrics=(Metric(name="perplexity", unit="1", better="lower", value=math.exp(nll)),),
        details={
            "by_position": {
                "from": ranges,
                "tokens": [16] * len(ranges),
                "nll": [16 * (nll + 1 / (start + 1)) for start in ranges],
                "kl": None if cell == "fp32" else [16 * (start + 1) / 1000 for start in ranges],
            }
        },
    )


def tables(records: list[Record]) -> dict[str, Table]:
    (found,) = select(records).tables
    return {table.title: table for table in detail_tables(found)}


def shown(table: Table) -> dict[str, list[float | None]]:
    return {row.label: [figure.value for figure in row.figures] for row in table.rows}


def test_a_column_a_length_of_the_smallest_batch() -> None:
    records = [
        *(point(cell, batch, prompt, 0.01 * batch) for cell in ("fp32", "nf4")
          for batch in (8, 1) for prompt in (512, 64, 128)),
    ]  # fmt: skip
    table = tables(records)["Prefill, by prompt tokens: batch 1, 8 new tokens"]
    assert [column.title for column in table.columns] == ["64", "128", "512"]
    assert shown(table) == {label: [0.064, 0.128, 0.512] for label in ("fp32", "nf4")}
    (found,) = select(records).tables
    first = first_point(found.cells, "latency")
    assert first is not None
    assert first.item.slug == "b1-p64-n8"


def test_a_length_that_one_cell_lacks_and_one_that_all_lack() -> None:
    records = [point("fp32", 1, prompt, 0.01) for prompt in (64, 128)]
    records += [point("nf4", 1, 64, 0.02)]
    skipped = make_record(
        "fp32",
        "latency",
        slug="b1-p4096-n8",
        params={"batch": 1, "prompt_tokens": 4096, "new_tokens": 8},
        status="skipped",
        reason="a prompt that is longer than the context",
    )
    table = tables([*records, skipped])[
        "Decode of a token, by prompt tokens: batch 1, 8 new tokens"
    ]
    assert [column.title for column in table.columns] == ["64", "128"]
    assert shown(table) == {"fp32": [0.01, 0.01], "nf4": [0.02, None]}


def test_a_prompt_in_chunks_is_one_of_the_lengths() -> None:
    records = [point("fp32", 1, 64, 0.01), point("fp32", 1, 256, 0.01, prefill_chunk=128)]
    (found,) = select(records).tables
    assert [one.lengths for one in over_length(found)] == [(64, 256), (64, 256)]


@pytest.mark.parametrize("other", [{"forward": "static"}, {"attention": "eager"}])
def test_what_ran_otherwise_is_no_other_length(other: dict[str, str]) -> None:
    (found,) = select([point("fp32", 1, 64, 0.01), point("fp32", 1, 256, 0.01, **other)]).tables
    assert over_length(found) == []


def test_one_length_is_nothing_to_see_over() -> None:
    (found,) = select([point("fp32", 1, 64, 0.01), point("nf4", 1, 64, 0.01)]).tables
    assert over_length(found) == []


def test_windows_and_the_places_in_the_longest_of_them() -> None:
    records = [window(cell, tokens, nll) for cell, nll in (("fp32", 2.0), ("nf4", 2.5))
               for tokens in (32, 128)]  # fmt: skip
    found = tables(records)
    assert shown(found["Perplexity, by tokens a window: text"]) == {
        "fp32": [math.exp(2.0)] * 2,
        "nf4": [math.exp(2.5)] * 2,
    }
    places = found["Perplexity, by tokens before it, at least: text, windows of 128"]
    assert [column.title for column in places.columns] == ["0", "16", "32", "64"]
    assert shown(places)["nf4"] == pytest.approx(
        [math.exp(2.5 + 1 / (start + 1)) for start in (0, 16, 32, 64)]
    )
    divergence = found["KL mean, by tokens before it, at least: text, windows of 128"]
    assert shown(divergence) == {"nf4": pytest.approx([0.001, 0.017, 0.033, 0.065])}
    (table,) = select(records).tables
    columns = [column.key for column in decision_table(table).table.columns]
    assert [key for key in columns if key.startswith("perplexity:")] == [
        "perplexity:text-w32-default"
    ]


def test_each_figure_has_a_picture_with_a_line_a_cell() -> None:
    records = [point(cell, 1, prompt, 0.01) for cell in ("fp32", "nf4") for prompt in (64, 128)]
    (found,) = select(records).tables
    (group,) = [
        part
        for part in picture_parts(found)
        if isinstance(part, Charts) and part.title == "Over the length of the context"
    ]
    assert [chart.title for chart in group.charts] == [one.title for one in over_length(found)]
    values = group.charts[0].spec["data"]["values"]
    assert values[0] == {"cell": "fp32", "tokens": 64, "value": 64}
    assert {row["cell"] for row in values} == {"fp32", "nf4"}


def test_an_axis_is_asked_for_nothing_that_it_does_not_take() -> None:
    """Vega warns of a logarithm that is to leave 0 out."""
    records = [window(cell, tokens, 2.0) for cell in ("fp32", "nf4") for tokens in (64, 128)]
    (found,) = select(records).tables
    scales = [chart.spec["encoding"]["x"]["scale"] for chart in length_charts(over_length(found))]
    assert {scale["type"] for scale in scales} == {"log", "symlog"}
    assert all(("zero" in scale) == (scale["type"] == "symlog") for scale in scales)


def test_a_cell_has_one_colour_in_all_of_them() -> None:
    """The reference has no divergence: a picture without it would give its colour to another."""
    records = [window(cell, tokens, 2.0) for cell in ("fp32", "nf4") for tokens in (64, 128)]
    (found,) = select(records).tables
    colours = [chart.spec["encoding"]["color"] for chart in length_charts(over_length(found))]
    assert [colour["scale"]["domain"] for colour in colours] == [["fp32", "nf4"]] * len(colours)
    assert ["nf4"] in [colour["legend"]["values"] for colour in colours]
