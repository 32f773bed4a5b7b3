"""Bytes and bits of a format as it is served, from records that say what is held here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qbench.compare.recommend.choices import choices
from qbench.compare.selection import TableRecords, select
from qbench.compare.served import LINEAR_BITS, MODEL_BITS, SERVED, STATIC, headline, with_served
from qbench.core.store import read_folder
from qbench.report.decision import decision_table
from qbench.report.summary import summarise

INTEGERS = Path(__file__).parents[2] / "results/published/integers"
OTHERS = Path(__file__).parents[2] / "results/published/quickstart"


def table_of(folder: Path) -> TableRecords:
    records, _ = read_folder(folder)
    (table,) = select(records).tables
    return table


def by_hand(values: dict[str, float], bits: int, mapping: str) -> float:
    """From the codes and scales that lie in memory: a byte a code; bf16 scales, each with a byte.

    A symmetric format has no zero points, one of an asymmetric format takes as much as a code.
    """
    codes, state = values["memory.static.linear"], values["memory.static.quantization_state"]
    zero_points = state / 3
    kept = bits / 8 if mapping == "asymmetric" else 0.0
    return values["memory.static"] - codes * (1 - bits / 8) - zero_points * (1 - kept)


def test_of_published_records_it_is_what_packed_codes_take() -> None:
    seen = 0
    for file in INTEGERS.rglob("footprint-*.json"):
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        options = record["cell"]["precision"]["options"]
        if options.get("bits", 8) == 8 or record["cell"].get("tuning"):
            continue
        values = {one["name"]: one["value"] for one in record["metrics"]}
        (found,) = (
            with_served(one) for one in read_folder(file.parent)[0] if one.key == record["key"]
        )
        packed = by_hand(values, options["bits"], options["mapping"])
        weights = values["weights"]
        assert found.value(SERVED[STATIC]) == pytest.approx(packed, abs=1)
        assert found.value(SERVED[MODEL_BITS]) == pytest.approx(8 * packed / weights)
        saved = values["memory.static"] - packed
        linear = values["memory.static.linear"] + values["memory.static.quantization_state"] - saved
        in_linear = values["memory.static.linear"]
        assert found.value(SERVED[LINEAR_BITS]) == pytest.approx(8 * linear / in_linear)
        assert found.value(STATIC) == values["memory.static"]  # what is held keeps its name
        seen += 1
    assert seen > 8


def test_it_stands_first_and_what_is_held_beside() -> None:
    table = table_of(INTEGERS)
    decision = decision_table(table)
    keys = [column.key for column in decision.table.columns[:5]]
    assert keys == [
        SERVED[MODEL_BITS], MODEL_BITS, SERVED[LINEAR_BITS], SERVED[STATIC], STATIC,
    ]  # fmt: skip
    titles = {column.key: column.title for column in decision.table.columns}
    assert (titles[SERVED[STATIC]], titles[STATIC]) == ("static", "held here")
    rows = {row.label: row.figures for row in decision.table.rows}
    served, held = (keys.index(key) for key in (SERVED[STATIC], STATIC))
    assert (rows["int4-g32"][served].value or 0) < 0.7 * (rows["int4-g32"][held].value or 0)
    # Nothing is said of what is held as it is served, codes of 8 bits too.
    assert all(rows[name][held].value is None for name in ("fp32", "bf16", "int8-wo", "w8a8"))
    assert {name for name, figures in rows.items() if figures[served].best} == {"sym-g32-bits=2"}
    assert not any(figures[held].best for figures in rows.values())
    assert "Smallest: sym-g32-bits=2 with 1.73 MiB" in summarise(table, decision)


def test_a_choice_is_made_by_it() -> None:
    found = {one.label: one.ranges["bytes"] for one in choices(table_of(INTEGERS)).cells}
    assert found["int4-g32"].value == pytest.approx(2.31 * 2**20, rel=0.01)
    assert found["int4-g32"].low == found["int4-g32"].high == found["int4-g32"].value
    assert (found["int8-wo"].value or 0) > (found["int4-g32"].value or 0)


def test_without_simulated_codes_nothing_changes() -> None:
    table = table_of(OTHERS)
    decision = decision_table(table)
    assert [column.key for column in decision.table.columns[:3]] == [
        MODEL_BITS,
        LINEAR_BITS,
        STATIC,
    ]
    assert headline(STATIC, table.cells) == STATIC
    for cell in table.cells:
        for record in cell.of("footprint"):
            assert record.value(SERVED[STATIC]) == record.value(STATIC)
    assert all(name not in str(one.metrics) for cell in table.cells for one in cell.records
               for name in SERVED.values())  # fmt: skip


def test_a_peak_of_simulated_codes_is_marked() -> None:
    from qbench.compare.speed import why_not_served
    from tests.record_factory import memory_record

    record = memory_record("int8")
    assert why_not_served([record], "memory.peak") is None
    for bits, told in ((4, True), (8, False)):
        loaded = {"code_bits_nominal": bits, "code_bits_stored": 8}
        found = record.model_copy(update={"details": {**record.details, "loaded": loaded}})
        assert ("held in more bits" in str(why_not_served([found], "memory.peak"))) is told
