"""What single layers cost, in words, tables and heat maps, of records whose figures are known."""

from __future__ import annotations

import math
from statistics import stdev
from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.selection import select
from qbench.core.page import Bullets, Fold, Table
from qbench.report.charts.sensitivity import MOST_ROWS
from qbench.report.report_page import report_page
from qbench.report.sensitivity import sensitivity_overview, sensitivity_parts
from tests.pages import REPORT_FORMATS, written_as
from tests.record_factory import footprint_record, make_failure
from tests.report.charts.specs import charts_of, values
from tests.sensitivity_records import (
    BYTES,
    KL,
    PLAIN,
    TOKENS,
    UNITS,
    WINDOWS,
    of_reference,
    spread,
    table_of,
)

if TYPE_CHECKING:
    from qbench.core.page import Part
    from qbench.core.record import Record


def parts_of(*records: Record) -> list[Part]:
    return sensitivity_parts(select(records).tables[0])


def table(parts: list[Part], title: str) -> Table:
    return next(one for one in parts if isinstance(one, Table) and one.title.startswith(title))


def lines(parts: list[Part]) -> list[str]:
    return [str(one.line) for part in parts if isinstance(part, Bullets) for one in part.items]


def many(blocks: int, kinds: int, formats: int) -> dict[str, dict[str, float | None]]:
    return {
        f"f{at}": {
            f"model.layers.{block}.mlp.k{kind}": 10.0**-at * (1 + block + kind)
            for block in range(blocks)
            for kind in range(kinds)
        }
        for at in range(1, formats + 1)
    }


def test_the_most_sensitive_come_first_with_intervals_and_bytes() -> None:
    first = table(parts_of(of_reference()), "The most sensitive")
    kls = [row.label for row in first.rows]
    assert kls == [
        f"{label}: {unit}"
        for label in KL
        for unit in sorted(UNITS, key=lambda one, label=label: -KL[label][one])[:3]  # type: ignore[misc]
    ]
    top = first.column("sensitivity.kl")[3]
    assert top.value == KL["nf4"][UNITS[1]]
    assert top.low is not None
    assert top.high is not None
    means = [one / TOKENS for one in spread(9e-3, ("nf4", UNITS[1]))]
    error = stdev(means) / math.sqrt(WINDOWS)
    assert 1.9 * error < top.value - top.low < 5 * error  # blocks of neighbours widen it
    assert 1.9 * error < top.high - top.value < 7 * error
    assert first.column("sensitivity.saved")[3].value == PLAIN - BYTES["nf4"]
    share = first.column("sensitivity.share")[3].value
    assert share == pytest.approx(9e-3 / sum(KL["nf4"].values()))


def test_what_hurts_most_is_said_and_whether_chance_could_have_it_so() -> None:
    told = lines(parts_of(of_reference()))
    assert told == [
        f"{UNITS[1]} costs most in int8, nf4: 50 to 60 % of the sum over all units.",
    ]
    close: dict[str, dict[str, float | None]] = {"nf4": {**KL["nf4"], UNITS[3]: 9e-3 * 0.9999}}
    told = lines(parts_of(of_reference(close)))
    assert told[-1] == f"Not told apart from the next by its windows: nf4 ({UNITS[3]})."


def test_pairs_that_were_not_measured_are_named_with_the_reason() -> None:
    pruned: dict[str, dict[str, float | None]] = {**KL, "hqq4": {**KL["nf4"], UNITS[0]: None}}
    parts = parts_of(of_reference(pruned))
    reason = "int8 has no more bytes and errs no more on the layers' outputs"
    assert f"not measured in hqq4: {UNITS[0]}: {reason}" in lines(parts)
    (fold,) = (part for part in parts if isinstance(part, Fold))
    whole = [one for one in fold.parts if isinstance(one, Table)][-1]
    assert whole.rows[-1].label == UNITS[0]
    assert whole.rows[-1].figures[-1].word == reason
    (chart,) = charts_of(parts)
    unmeasured = [row for row in values(chart) if "kl" not in row]
    assert [(row["name"], row["format"]) for row in unmeasured] == [(UNITS[0], "hqq4")]


def test_the_map_has_a_tile_a_pair_and_shades_by_the_logarithm() -> None:
    (chart,) = charts_of(parts_of(of_reference()))
    assert {(row["name"], row["format"]): row["kl"] for row in values(chart)} == {
        (unit, label): KL[label][unit] for unit in UNITS for label in KL
    }
    shade = chart.spec["layer"][0]["encoding"]["fillOpacity"]["scale"]
    assert shade["type"] == "log"
    assert shade["domain"] == [1e-4, 1e-2]
    short = table(parts_of(of_reference()), "KL of each unit alone")
    assert [row.label for row in short.rows] == [
        "0 down_proj",
        "1 down_proj",
        "1 q_proj",
        "0 q_proj",
    ]
    assert [figure.value for figure in short.column("sensitivity.kl.nf4")] == [9, 3, 2, 1]


def test_many_layers_are_laid_out_by_block_and_kind() -> None:
    parts = parts_of(of_reference(many(32, 7, 8), windows=8))
    charts = list(charts_of(parts))
    assert len(charts) == 8
    for chart in charts:
        assert len(values(chart)) == 32 * 7 > MOST_ROWS
    assert len({str(one.spec["layer"][0]["encoding"]["fillOpacity"]) for one in charts}) == 1
    assert len(table(parts, "KL of each unit alone").rows) <= 12
    assert len(table(parts, "The most sensitive").rows) == 3 * 8
    reasons = {figure.reason for figure in table(parts, "The most").column("sensitivity.kl")}
    assert len(reasons) == 1  # 8 windows are too few for an interval, and it is said
    assert "too few windows" in str(reasons)


def test_a_terminal_has_the_first_of_them() -> None:
    parts = sensitivity_overview(select([of_reference(many(32, 7, 8), windows=8)]).tables[0])
    (short,) = (part for part in parts if isinstance(part, Table))
    assert len(short.rows) == 6
    assert "224 linear layers, each held alone in 8 formats" in lines(parts)[-1]


@pytest.mark.parametrize(
    "sensitivities",
    [
        None,
        [],
        {"units": 3},
        {**table_of(KL), "units": []},
        {**table_of(KL), "window_kl_sums": {}},
        {**table_of(KL), "window_tokens": [0] * 30},
        {**table_of(KL), "window_tokens": [3]},
        table_of({"nf4": {"lm": 0.0, "x.0.y": -1e-9}}),
        table_of({"nf4": {"a.0.y": math.nan}}),
        table_of({"nf4": {"a.0.y": None, "b.0.y": None}}),
        table_of({"nf4": {"a.0.y": 1e-300, "b.0.y": 1e300}}),
    ],
)
def test_tables_that_nobody_checked_break_no_page(sensitivities: Any) -> None:
    record = of_reference().model_copy(update={"details": {"sensitivities": sensitivities}})
    records = [record, footprint_record("fp32"), footprint_record("nf4")]
    for name in REPORT_FORMATS:
        written_as(name, records)
    assert list(charts_of(report_page(records).parts)) is not None


def test_a_measurement_that_failed_has_no_section() -> None:
    failed = make_failure("fp32", "sensitivity", "error", "it broke")
    assert parts_of(failed, footprint_record("nf4")) == []
    assert parts_of(footprint_record("nf4")) == []
