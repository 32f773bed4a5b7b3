"""The reference's states over runs: made first, kept, and made again when they are missing."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from qbench.store import read_record, write_record

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow


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
    done = place.call("run", "suite.yaml", "--only", "nf4")
    assert done.code == 0
    assert "4 records (4 ok), 4 taken now, and 1 that they need" in done.output
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


def test_what_the_cache_could_not_hold_is_missed_and_taken_by_the_next_run(
    workplace: Workplace,
) -> None:
    place = workplace
    suite = place.write_suite("fp32", "nf4")
    suite.write_text(
        suite.read_text(encoding="utf-8").partition("  latency")[0]
        + "  quality: {text: text.txt, window: 32}\n",
        encoding="utf-8",
    )
    cache = place.folder / "cache"
    cache.mkdir()
    (cache / "states").write_text("a file where a folder is wanted")
    done = place.call("run", "suite.yaml")
    assert done.code == 1
    assert "4 records (4 ok), 4 taken now" in done.output
    assert "without all that was asked for: 1 record, such as tiny--nf4 quality" in done.output
    assert divergence(place) == {"fp32": 0.0, "nf4": None}

    # A clock that was ahead wrote the reference's record.
    (written,) = (place.folder / "results").rglob("tiny--fp32/quality-*.json")
    record = read_record(written)
    assert record is not None
    write_record(written, record.model_copy(update={"started_at": "2999-01-01T00:00:00+00:00"}))
    (cache / "states").unlink()
    done = place.call("run", "suite.yaml")
    assert done.code == 0
    assert "note: tiny--nf4 quality text-w32-default: not compared with fp32" in done.output
    assert "4 records (4 ok), 2 taken now" in done.output
    assert divergence(place)["nf4"]


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
