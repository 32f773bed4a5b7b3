"""The reference's states over runs: made first, kept, and made again when they are missing."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.workplace import Workplace


def divergence(place: Workplace) -> dict[str, float | None]:
    return {
        record.cell.precision.label: record.value("kl.mean")
        for record in place.records().values()
        if record.item.measurement == "quality"
    }


def test_states_are_made_first_and_again_when_missing(workplace: Workplace) -> None:
    place = workplace
    place.write_suite("fp32", "bf16", "nf4")
    # The reference was not asked for: its quality is measured all the same, since nf4 needs it.
    assert place.call("run", "suite.yaml", "--only", "nf4").code == 0
    first = divergence(place)
    assert set(first) == {"fp32", "nf4"}
    assert first["fp32"] == 0.0
    assert first["nf4"]
    taken = {name: record.started_at for name, record in place.records().items()}

    shutil.rmtree(place.folder / "cache")
    assert place.call("run", "suite.yaml", "--only", "bf16").code == 0
    second = divergence(place)
    assert second["bf16"]
    assert second["nf4"] == first["nf4"]
    again = {
        name for name, record in place.records().items() if taken.get(name, "") != record.started_at
    }
    assert {name.split("/")[0] for name in again} == {"tiny--bf16", "tiny--fp32"}

    # With nothing missing the lost states are not made again.
    shutil.rmtree(place.folder / "cache")
    before = {name: record.started_at for name, record in place.records().items()}
    assert place.call("run", "suite.yaml", "--only", "bf16", "--only", "nf4").code == 0
    assert before == {name: record.started_at for name, record in place.records().items()}
    assert not (place.folder / "cache" / "states").exists()


@pytest.mark.slow
def test_another_reference_is_another_record(workplace: Workplace) -> None:
    place = workplace
    suite = place.write_suite("fp32", "bf16", "nf4")
    assert place.call("run", "suite.yaml", "--only", "nf4").code == 0
    suite.write_text(suite.read_text() + "reference: bf16\n", encoding="utf-8")
    assert place.call("run", "suite.yaml", "--only", "nf4").code == 0
    found = [
        record
        for record in place.records().values()
        if record.cell.precision.label == "nf4" and record.item.measurement == "quality"
    ]
    assert len(found) == 2
    assert found[0].value("kl.mean") != found[1].value("kl.mean")
    assert found[0].value("perplexity") == found[1].value("perplexity")
