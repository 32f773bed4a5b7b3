"""Synthetic records are records: each with its own key, in the place that a run gives it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from qbench.compare.selection import select
from qbench.core.record import content_key
from qbench.core.store import read_folder
from qbench.report.files import by_suite
from tests.record_factory import quickstart_records
from tests.workplace import REPOSITORY, place_of

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_they_are_records_of_a_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "tools"), *sys.path])
    from many_records import write_many

    template = [one for one in quickstart_records() if one.item.measurement == "footprint"]
    names = write_many(40, tmp_path, 2, template)
    assert names == ["suite-000", "suite-001"]
    records, unreadable = read_folder(tmp_path)
    assert (len(records), unreadable) == (40, [])
    assert all(record.key == content_key(record.identity) for record in records)
    assert all(place_of(tmp_path, record).is_file() for record in records)
    # All of both suites twice, then all of the first and five of the second.
    assert [select(part).older for part in by_suite(records)] == [14, 12]
    assert [len(select(part).records) for part in by_suite(records)] == [7, 7]
