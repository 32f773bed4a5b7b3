"""A run that measures sensitivities: its records, what a rerun takes, and what is shown."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from qbench.precisions.mixed.sensitivities import Sensitivities, read_sensitivities
from tests.inline_runs import run_inline
from tests.workplace import place_of

if TYPE_CHECKING:
    from tests.workplace import Workplace

SUITE = """\
models: [{model}]
precisions: [fp32, nf4, int8]
reference: fp32
measure: {{sensitivity: {{text: text.txt, window: 16, limit: 4, by: block}}}}
"""
EVERY = ["fp32 sensitivity", "int8 sensitivity", "nf4 sensitivity"]


def test_what_is_gone_is_taken_again_and_is_the_same(workplace: Workplace) -> None:
    place = workplace
    place.write("suite.yaml", SUITE.format(model=place.model))
    first = run_inline(place)
    assert not first.result.failed
    assert first.taken_items == EVERY
    records = {one.cell.label: one for one in first.result.records}
    table = Sensitivities.model_validate(records["fp32"].details["sensitivities"])
    assert list(table.formats) == ["nf4", "int8"]
    with place.entered():
        assert read_sensitivities(records["fp32"].key) == table
    joint = {label: one.value("sensitivity.kl.mean") for label, one in records.items()}
    assert joint["fp32"] == 0
    assert joint["nf4"] > joint["int8"] > 0
    assert run_inline(place).taken == set()

    # A run that was ended before the reference's record was there, its folder being as it was.
    place_of(place.folder / "results", records["fp32"]).unlink()
    again = run_inline(place)
    assert again.taken_items == ["fp32 sensitivity"]
    made = next(one for one in again.result.records if one.cell.label == "fp32")
    assert made.details["sensitivities"] == records["fp32"].details["sensitivities"]

    # Another cell needs the reference's states, which are gone.
    shutil.rmtree(place.folder / "cache" / "states")
    place_of(place.folder / "results", records["nf4"]).unlink()
    last = run_inline(place)
    assert last.taken_items == ["fp32 sensitivity", "nf4 sensitivity"]

    report = place.call_here("report", "results/suite", "--format", "markdown", "-o", "-")
    assert report.code == 0, report.errors
    assert "sensitivity" in report.output
