"""Mixes beside formats that hold all layers alike, of records whose divergences are known."""

from __future__ import annotations

import csv
import io
import json
import random
from typing import TYPE_CHECKING

import pytest

from qbench.compare.selection import select
from qbench.core.page import Bullets, Table
from qbench.report.frontier import frontier_parts
from tests.pages import REPORT_FORMATS, written_as
from tests.paired_records import divergence, footprint
from tests.record_factory import make_failure
from tests.report.charts.specs import by_cell, charts_of
from tests.report.test_interactions import mix as summed
from tests.report.test_interactions import reference

if TYPE_CHECKING:
    from qbench.core.page import Part
    from qbench.core.record import Record

WINDOWS = 60


def cell(label: str, size: float, kl: float, *, mixed: bool = False) -> list[Record]:
    """A cell of these bytes, and windows some 10 % around a divergence."""
    own = random.Random(label)
    name = "mixed" if mixed else label
    windows = [kl * own.uniform(0.9, 1.1) for _ in range(WINDOWS)]
    return [footprint(label, size, name=name), divergence(label, windows, name=name)]


REFERENCE = [footprint("fp32", 400.0), divergence("fp32", [0.0] * WINDOWS)]
NF4, INT8, FP4 = cell("nf4", 100, 0.02), cell("int8", 200, 0.001), cell("fp4", 110, 0.05)


def parts(*records: Record) -> list[Part]:
    return frontier_parts(select([*REFERENCE, *records]).tables[0])


def told(*records: Record) -> list[str]:
    found = [part for part in parts(*records) if isinstance(part, Bullets)]
    return [str(one.line) for one in found[0].items]


def mix(size: float, kl: float, label: str = "mix") -> list[Record]:
    return cell(label, size, kl, mixed=True)


@pytest.mark.parametrize(
    ("size", "kl", "words"),
    [
        (120, 0.01, "mix beats every uniform format that takes no more bytes: nf4 (-0.0"),
        (100, 0.01, "mix beats every uniform format that takes no more bytes: nf4 (-0.0"),
        (99, 0.01, "mix: every uniform format takes more bytes; of those that take more it beats"),
        (250, 0.01, "mix does not beat every uniform format that takes no more bytes: int8 (+0.0"),
        (120, 0.0201, "mix: undecided whether it beats every uniform format that takes no more"),
    ],
)
def test_a_mix_is_held_against_the_formats_of_its_bytes(size: float, kl: float, words: str) -> None:
    (line,) = told(*mix(size, kl), *NF4, *INT8, *FP4)
    assert line.startswith(words)


def test_the_formats_beaten_beyond_its_bytes_are_named() -> None:
    (line,) = told(*mix(105, 0.01), *NF4, *INT8, *FP4)
    assert "nf4 (-0.0" in line
    assert "; of those that take more it beats fp4 (-0.0" in line
    assert "int8" not in line


def test_a_mix_of_one_format_alone_is_that_format() -> None:
    same = [record.model_copy(update={"cell": mix(100, 0.02)[0].cell}) for record in NF4]
    (line,) = told(*same, *NF4)
    assert line == (
        "mix does not beat every uniform format that takes no more bytes: nf4 (the same to the last"
        " bit)."
    )


def test_the_frontier_is_of_what_none_dominates() -> None:
    records = [*mix(105, 0.01), *mix(210, 0.005, "mix-6"), *NF4, *INT8, *FP4]
    found = parts(*records)
    (table,) = (part for part in found if isinstance(part, Table))
    words = dict(
        zip(
            (row.label for row in table.rows),
            (figure.word for figure in table.column("dominated")),
            strict=True,
        )
    )
    assert words == {"nf4": "none", "mix": "none", "fp4": "mix", "int8": "none", "mix-6": "int8"}
    (chart,) = charts_of(found)
    joined = {label: row["joined"] for label, row in by_cell(chart).items()}
    assert joined == {label: word == "none" for label, word in words.items()}
    assert {row["kind"] for row in by_cell(chart).values()} == {"mix", "one format"}


def test_names_in_the_picture_keep_their_ends_and_do_not_lie_on_each_other() -> None:
    labels = [f"mixed-dtype=fp32-budget={bits}-bits" for bits in (4, 5)]
    records = [*mix(105, 0.01, labels[0]), *mix(105.1, 0.0099, labels[1]), *NF4, *INT8]
    (chart,) = charts_of(parts(*records))
    rows = by_cell(chart)
    assert rows[labels[0]]["name"] == "mixed…budget=4-bits"
    assert rows[labels[1]]["joined"]
    assert "name" not in rows[labels[1]]
    assert rows["nf4"]["name"] == "nf4"


def test_programs_get_every_match_and_every_unit() -> None:
    records = [*REFERENCE, *mix(105, 0.01), *NF4, *INT8, reference(), summed(1.0)]
    (table,) = json.loads(written_as("json", records))["decision_tables"]
    points, matches = table["mixes"]
    assert [row["precision"] for row in points["rows"]] == ["nf4", "mix", "int8"]
    figures = {row["figures"]["rival"]["word"]: row["figures"] for row in matches["rows"]}
    assert {label: one["verdict"]["word"] for label, one in figures.items()} == {
        "nf4": "better",
        "int8": "worse",
    }
    change = figures["nf4"]["difference"]
    assert change["low"] < change["value"] < change["high"] < 0
    assert change["value"] == pytest.approx(-0.01, rel=0.05)
    assert [len(one["rows"]) for one in table["sensitivities"]] == [4, 4]
    assert [len(one["rows"]) for one in table["interactions"]] == [1]
    rows = list(csv.DictReader(io.StringIO(written_as("csv", records))))
    (joint,) = (
        row
        for row in rows
        if row["metric"] == "sensitivity.kl.mean" and row["precision"] == "mixed"
    )
    assert float(joint["low"]) < float(joint["value"]) < float(joint["high"])


def test_without_mixes_or_figures_there_is_no_section() -> None:
    failed = make_failure("mix", "quality", "oom", "no memory", name="mixed")
    assert parts(*NF4, *INT8) == []
    assert parts(*mix(100, 0.1)) == []
    assert parts(failed, footprint("mix", 1.0, name="mixed"), *NF4) == []
    for name in REPORT_FORMATS:
        written_as(name, [failed, *NF4])
        written_as(name, [*REFERENCE, *mix(100, 0.0), *NF4])
        written_as(name, [*mix(100, 0.1), *NF4])
