"""What the layers of a mix are held in, of a report's records alone."""

from __future__ import annotations

from qbench.compare.selection import select
from qbench.report.details import detail_tables
from qbench.report.mix_table import kinds_of, mix_table
from tests.record_factory import footprint_record

HELD = {
    "held_in": {"a.0.down_proj": "int8", "a.1.down_proj": "int8", "a.0.q_proj": "bf16"},
    "members": {
        "int8": {
            "layers": 2,
            "weights": 200,
            "share": 0.5,
            "bytes": 208,
            "bits_per_weight": 8.32,
            "left_out": [],
        },
        "bf16": {"layers": 1, "weights": 200, "share": 0.5, "bytes": 400, "bits_per_weight": 16.0},
    },
}


def test_a_row_a_format() -> None:
    table = mix_table({"plain": {"dtype": "bf16"}, "mixed": HELD})
    assert [row.label for row in table.rows] == ["mixed", "mixed"]
    words = [[figure.word for figure in row.figures if figure.word] for row in table.rows]
    assert words == [["int8", "2 × down_proj", "-"], ["bf16", "1 × q_proj", "-"]]
    assert [figure.value for figure in table.column("bytes")] == [208, 400]
    assert [figure.value for figure in table.column("bits_per_weight")] == [8.32, 16.0]


def test_it_stands_beside_what_was_loaded_and_not_in_it() -> None:
    record = footprint_record("mixed")
    record = record.model_copy(update={"details": {"loaded": {"dtype": "bf16", **HELD}}})
    (records,) = select([record]).tables
    tables = {table.title: table for table in detail_tables(records)}
    assert len(tables["Layers of the mixes"].rows) == 2
    assert [column.key for column in tables["What was loaded, verified"].columns] == ["dtype"]


def test_details_that_nobody_checked_make_no_row_up() -> None:
    assert mix_table({"odd": {"members": ["int8"], "held_in": 3}}).rows == ()
    (row,) = mix_table({"odd": {"members": {"int8": None}}}).rows
    assert {figure.value for figure in row.figures} == {None}


def test_kinds_are_counted_and_cut_short() -> None:
    assert kinds_of(["a.b", "c.b", "d"]) == "2 × b, 1 × d"
    assert kinds_of(map(str, range(10))).endswith("2 more kinds")
