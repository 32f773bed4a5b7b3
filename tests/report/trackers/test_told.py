"""What of a record goes to a tracker: on records that were really taken."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from qbench.core.record_files import paths_of, record_files
from qbench.core.store import read_record
from qbench.report.rows import metric_rows
from qbench.report.trackers.run import run_of_cell, run_of_record
from qbench.report.trackers.told import (
    LEARNING_RATE,
    STEP_LOSS,
    VALIDATION_LOSS,
    curve_of_event,
    curve_of_record,
    entry_of,
    found_of,
    metric_name,
)
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Record

PUBLISHED = REPOSITORY / "results" / "published"


@cache
def published(suite: str) -> dict[Path, Record]:
    read = {path: read_record(path) for path in paths_of(record_files(PUBLISHED / suite))}
    return {path: record for path, record in read.items() if record is not None}


@pytest.fixture(params=["quickstart", "mistral-shape"])
def records(request: pytest.FixtureRequest) -> dict[Path, Record]:
    return published(request.param)


def test_every_metric_has_its_value_or_a_reason(records: dict[Path, Record]) -> None:
    for path, record in records.items():
        entry = entry_of(record, path)
        assert entry.key == record.key
        for metric in record.metrics:
            name = metric_name(record, metric.name)
            if metric.value is None:
                assert name not in entry.numbers
                assert entry.words[f"missing/{name}"] == metric.reason
            else:
                assert entry.numbers[name] == metric.value
            told = entry.words[f"units/{record.item.measurement}"]
            assert f"{metric.name}: {metric.unit}" in told.split(", ")
        assert len(entry.numbers) == sum(metric.value is not None for metric in record.metrics)


def test_every_status_is_told_and_what_failed_says_why(records: dict[Path, Record]) -> None:
    for path, record in records.items():
        words = entry_of(record, path).words
        statuses = [text for name, text in words.items() if name.startswith("status/")]
        reasons = [text for name, text in words.items() if name.startswith("reason/")]
        assert statuses == [record.status]
        assert reasons == ([] if record.reason is None else [record.reason])


def test_no_name_is_a_folder_of_another(records: dict[Path, Record]) -> None:
    names: dict[str, set[str]] = {}
    for path, record in records.items():
        entry = entry_of(record, path)
        names.setdefault(run_of_record(record).id, set()).update(entry.numbers, entry.words)
    for run, found in found_of(list(records.values())).items():
        names[run.id].update(found)
    for found in names.values():
        folders = {
            "/".join(parts[:at])
            for name in found
            for parts in [name.split("/")]
            for at in range(1, len(parts))
        }
        assert not folders & found


def test_bounds_are_those_of_the_exported_rows(records: dict[Path, Record]) -> None:
    found = found_of(list(records.values()))
    wanted: dict[tuple[str, str], float] = {}
    for row in metric_rows(list(records.values())):
        if row["derived"] or row["low"] is None or row["low"] == row["high"]:
            continue
        name = f"{row['cell']} on {row['device_kind']}"
        metric = f"{row['measurement']}/{row['item']}/{row['metric']}"
        wanted[name, f"{metric}.low"] = row["low"]
        wanted[name, f"{metric}.high"] = row["high"]
    sent = {
        (run.name, name): value
        for run, values in found.items()
        for name, value in values.items()
        if not name.endswith(".pooled")
    }
    assert sent == wanted


def test_the_curve_is_the_record_s_and_so_are_its_parts(records: dict[Path, Record]) -> None:
    trainings = [one for one in records.values() if one.item.measurement == "training"]
    for record in trainings:
        series = record.series
        curve = curve_of_record(record)
        assert curve is not None
        assert [point.values[STEP_LOSS] for point in curve.steps] == series["step_loss"]
        rates = [point.values[LEARNING_RATE] for point in curve.steps]
        assert rates == series["step_learning_rate"]
        losses = [point.values[VALIDATION_LOSS] for point in curve.validation]
        assert losses == series["validation_loss"]
        half = len(curve.steps) // 2
        told = curve_of_event(
            {
                "event": "steps",
                "of": len(curve.steps),
                "first": 0,
                "loss": series["step_loss"][:half],
                "learning_rate": series["step_learning_rate"][:half],
                "validation": [[0, series["validation_loss"][0]]],
            }
        )
        rest = curve.beyond(half, frozenset({0}))
        whole = [*told.steps, *told.validation, *rest]
        assert sorted(whole, key=repr) == sorted([*curve.steps, *curve.validation], key=repr)
    assert trainings


def test_a_run_is_a_cell_on_a_device_whatever_else_changes(records: dict[Path, Record]) -> None:
    runs = {run_of_record(record) for record in records.values()}
    cells = {(one.cell.slug, one.environment.device_kind) for one in records.values()}
    assert len(runs) == len({run.id for run in runs}) == len({run.name for run in runs})
    assert {(run.cell, run.device_kind) for run in runs} == cells
    record = next(iter(records.values()))
    run = run_of_record(record)
    newer = record.environment.model_copy(update={"python": "9.9", "git_revision": "0000000"})
    again = run_of_cell(record.suite, record.cell, newer, rehearsal=False)
    assert again.id == run.id
    assert again.params["python"] == "9.9"
    rehearsed = run_of_cell(record.suite, record.cell, newer, rehearsal=True)
    assert rehearsed.id != run.id
    assert rehearsed.name.endswith("(rehearsal)")
    assert run.params["model"] == record.cell.model.name
    assert run.params["precision"] == record.cell.precision.name
    assert run.params["version.torch"] == record.environment.versions["torch"]
