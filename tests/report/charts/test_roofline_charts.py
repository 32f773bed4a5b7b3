"""The roofline: its points and its roofs are those of the records, by arithmetic of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors import safe_open

from qbench.compare.selection import select
from qbench.core.page import Words
from qbench.core.store import read_folder
from qbench.report.charts.roofline import roofline_chart
from qbench.report.pictures import picture_parts
from qbench.report.reached import roofline
from tests.record_factory import latency_record, make_record
from tests.report.charts.specs import charts_of, values, without_data

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record

NAME = "</script>'+alert(1)+'"
PUBLISHED = Path(__file__).parents[3] / "results" / "published"
WEIGHTS, CACHE = 4e6, 16e3
COPIES = "latency.copy_bandwidth"


def measured(precision: str, *, decode_s: float = 0.01, **more: Any) -> Record:
    """Of a batch of 1, 96 prompt tokens and 32 new ones: the cache is 7/8 full on average."""
    metrics: dict[str, float | None] = {
        "latency.prefill": 0.02,
        "latency.decode": decode_s,
        "latency.read_bandwidth": 2e9,
        "latency.matrix_rate": 1e11,
        "latency.decode.read_bytes": WEIGHTS + CACHE * 112 / 128,
        "latency.decode.read_floor": 0.002,
        "latency.prefill.operations": 8e8,
        "latency.decode.operations": 8e6,
    }
    for name in more.pop("without", ()):
        del metrics[name]
    details = {"multiplied_in": "fp32", "decode_multiplied_in": "fp32", "cache_bytes": CACHE}
    point = {"batch": 1, "prompt_tokens": 96, "new_tokens": 32}
    return make_record(
        precision,
        "latency",
        metrics | more.pop("metrics", {}),
        slug="b1-p96-n32",
        params=point | more.pop("params", {}),
        details=details | more.pop("details", {}),
        **more,
    )


def table_of(*records: Record) -> TableRecords:
    return next(iter(select(records).tables))


def rows(*records: Record) -> dict[tuple[str, str], dict[str, Any]]:
    chart = roofline_chart(roofline(table_of(*records)))
    assert chart is not None
    return {(row["cell"], row["step"]): row for row in values(chart)}


def test_each_cell_has_a_point_for_each_step_by_hand() -> None:
    found = rows(measured("fp32"), measured(NAME))
    assert set(found) == {(cell, step) for cell in ("fp32", NAME) for step in ("prefill", "decode")}
    prefill, decode = found["fp32", "prefill"], found["fp32", "decode"]
    assert prefill["x"] == pytest.approx(8e8 / WEIGHTS)
    assert prefill["y"] == pytest.approx(8e8 / 0.02)
    assert prefill["share"] == pytest.approx(100 * 4e10 / 1e11)  # below the level
    assert decode["x"] == pytest.approx(8e6 / (WEIGHTS + 14e3), rel=1e-4)
    assert decode["y"] == pytest.approx(8e6 / 0.01)
    # below the slope: what is read in a second of what can be read in one
    assert decode["share"] == pytest.approx(100 * (WEIGHTS + 14e3) / 0.01 / 2e9, rel=1e-4)


def test_a_prompt_in_chunks_reads_the_weights_for_each() -> None:
    chunked = rows(measured("fp32", params={"prefill_chunk": 32}))
    assert chunked["fp32", "prefill"]["x"] == pytest.approx(8e8 / (3 * WEIGHTS), rel=1e-4)


def test_a_line_joins_what_differs_by_the_batch_alone() -> None:
    def taken(**params: Any) -> Record:
        slug = "-".join(f"{name}{value}" for name, value in params.items()) or "plain"
        record = measured("fp32", params=params)
        item = record.item.model_copy(update={"slug": slug})
        return record.model_copy(update={"item": item, "key": slug})

    def lines(*records: Record) -> list[set[str]]:
        chart = roofline_chart(roofline(table_of(*records)))
        assert chart is not None
        found: dict[str, set[str]] = {}
        for row in values(chart):
            if row["step"] == "decode":
                found.setdefault(row["line"], set()).add(row["at"])
        return sorted(found.values(), key=lambda ats: (len(ats), sorted(ats)))

    ways = [taken(), taken(batch=4), taken(forward="compile"), taken(batch=4, forward="compile")]
    longer = taken(prompt_tokens=192)
    alone, compiled, eager = lines(*ways, longer)
    assert len(alone) == 1
    assert len(compiled) == len(eager) == 2
    assert all("compiled" in at for at in compiled) != all("compiled" in at for at in eager)
    # of one batch the lengths are joined
    assert [len(ats) for ats in lines(taken(), longer)] == [2]


def test_names_stand_in_the_data_alone() -> None:
    chart = roofline_chart(roofline(table_of(measured("fp32"), measured(NAME))))
    assert chart is not None
    assert "alert" not in without_data(chart.spec)


def test_each_type_and_each_block_has_a_roof() -> None:
    int8 = measured(
        "int8",
        metrics={
            "latency.matrix_rate": 4e11,
            "latency.read_bandwidth": 8e9,
            "latency.decode.read_bytes": 1.5e6,
        },
        details={"multiplied_in": "int8", "decode_multiplied_in": "fp32"},
    )
    found = roofline(table_of(measured("fp32"), int8))
    assert found.rates == {"fp32": 1e11, "int8": 4e11}
    assert found.bandwidths == {2**20: 8e9, 2**21: 2e9}
    limits = {(one.cell, one.step): one.limit for one in found.reached}
    assert limits["int8", "prefill"] == 4e11
    assert limits["int8", "decode"] == 1e11  # in the type that it multiplies in
    chart = roofline_chart(found)
    assert chart is not None
    roofs = chart.spec["layer"][0]["data"]["values"]
    names = {row["label"] for row in roofs}
    assert names == {
        "8 GB/s (1 MiB)",
        "2 GB/s (2 MiB)",
        "fp32: 100 GFLOP/s",
        "int8: 400 GFLOP/s",
    }
    offsets = {
        (name["label"], layer["mark"]["dy"])
        for layer in chart.spec["layer"]
        if layer["mark"]["type"] == "text"
        for name in layer["data"]["values"]
    }
    at = dict(offsets)
    for slope in ("8 GB/s (1 MiB)", "2 GB/s (2 MiB)"):  # they end where the highest level begins
        assert at[slope] < at["int8: 400 GFLOP/s"]
    for row in roofs:
        assert row["y"] <= 4e11
        if row["kind"] == "slope":
            assert row["y"] == pytest.approx(row["x"] * row["limit"], rel=1e-4)


def test_what_passes_its_roof_is_drawn_there_and_told() -> None:
    fast = measured("nf4", decode_s=0.0005)
    found = roofline(table_of(measured("fp32"), fast))
    chart = roofline_chart(found)
    assert chart is not None
    assert "Above the roof: decode of nf4." in chart.caption
    (row,) = [one for one in values(chart) if (one["cell"], one["step"]) == ("nf4", "decode")]
    assert row["share"] > 100
    plain = roofline_chart(roofline(table_of(measured("fp32"))))
    assert plain is not None
    assert "Above" not in plain.caption


def test_records_of_before_have_their_operations_by_the_shape_that_ships() -> None:
    old = measured("fp32", without=["latency.decode.operations"])
    (row,) = [one for one in roofline(table_of(old)).reached if one.step == "decode"]
    # each weight of a matrix is multiplied once a token; attention takes 4 operations a pair and a
    # unit of its width
    assert row.rate * 0.01 == pytest.approx(_of_tiny_mistral(96, 32))


def _of_tiny_mistral(prompt: int, new: int) -> float:
    folder = PUBLISHED.parents[1] / "qbench" / "bundled" / "tiny-mistral"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    looked_up = 0 if config["tie_word_embeddings"] else 1
    matrices = [
        shape[0] * shape[1]
        for name, shape in shapes.items()
        if len(shape) == 2 and not (looked_up and "embed_tokens" in name)
    ]
    width = config["num_attention_heads"] * config.get(
        "head_dim", config["hidden_size"] // config["num_attention_heads"]
    )
    seen = sum(prompt + step for step in range(1, new + 1)) / new
    return 2 * sum(matrices) + 4 * width * config["num_hidden_layers"] * seen


def test_what_is_not_known_has_no_point_and_its_reason() -> None:
    other = measured("fp32", model="other", without=["latency.decode.operations"])
    found = roofline(table_of(other))
    assert [one.step for one in found.reached] == ["prefill"]
    (reason,) = found.lacking
    assert reason.startswith("fp32: no point of decode: the record does not hold its operations")
    chart = roofline_chart(found)
    assert chart is not None
    assert reason in chart.caption


def test_where_nothing_can_be_drawn_the_page_says_why() -> None:
    record = measured(
        "fp32",
        model="other",
        without=["latency.decode.operations", "latency.prefill.operations"],
    )
    parts = picture_parts(table_of(record))
    (told,) = [part for part in parts if isinstance(part, Words)]
    assert "There is no picture: fp32: no point of prefill" in str(told.line)
    assert roofline_chart(roofline(table_of(latency_record("fp32")))) is None
    copies = measured("fp32", without=["latency.read_bandwidth"], metrics={COPIES: 1e9})
    (told,) = [part for part in picture_parts(table_of(copies)) if isinstance(part, Words)]
    assert "holds the bandwidth of copies alone" in str(told.line)


@pytest.mark.parametrize(
    "params",
    [{"prompt_tokens": 0}, {"batch": "many"}, {"new_tokens": -1}, {"prefill_chunk": -4}],
)
def test_parameters_that_are_no_point_have_no_point(params: dict[str, Any]) -> None:
    record = measured("fp32", params=params, without=["latency.decode.operations"])
    steps = [one.step for one in roofline(table_of(record)).reached]
    assert "prefill" not in steps


@pytest.mark.parametrize(
    "metrics",
    [
        {"latency.read_bandwidth": 5e-324},
        {"latency.read_bandwidth": 1e308, "latency.matrix_rate": 1e308},
        {"latency.decode": 5e-324, "latency.prefill": 1e308},
        {"latency.decode.operations": 1e308, "latency.prefill.operations": 5e-324},
    ],
)
def test_numbers_that_cannot_be_drawn_are_told_instead(metrics: dict[str, float]) -> None:
    found = roofline(table_of(measured("fp32", metrics=metrics)))
    assert (found.reached, roofline_chart(found)) == ((), None)
    assert all("no amount" in text for text in found.lacking)
    assert found.lacking


def test_the_published_7b_lies_below_its_roofs() -> None:
    (table,) = select(read_folder(PUBLISHED / "mistral-shape")[0]).tables
    found = roofline(table)
    assert set(found.rates) == {"bf16", "int8"}
    assert found.lacking == ()
    assert len(found.reached) == 5 * 3 * 2
    assert all(0 < one.rate < one.roof for one in found.reached)
    (chart,) = [one for one in charts_of(picture_parts(table)) if one.title == "Roofline"]
    batches = [row["x"] for row in values(chart) if (row["cell"], row["step"]) == ("nf4", "decode")]
    assert batches == sorted(batches)
