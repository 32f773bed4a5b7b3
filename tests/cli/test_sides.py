"""What a person may name as a side of a comparison or as a baseline."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import pytest

from qbench.cli.sides import load_baseline, load_side
from qbench.compare.baseline import write_baseline
from qbench.core.errors import StoreError, UsageError
from qbench.core.spec import slugify
from tests.command import call
from tests.record_factory import footprint_record, make_environment, make_record
from tests.workplace import keep, place_of

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Record


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Records of two cells of one suite on one device."""
    folder = tmp_path / "results"
    for label in ("fp32", "nf4"):
        keep(folder, footprint_record(label))
    return folder


def of(location: str, kind: str, bytes_held: float = 1.0) -> Record:
    """A record of a model's run without a suite."""
    made = make_record("fp32", metrics={"memory.static": bytes_held}, model=location)
    own = made.cell.model.model_copy(
        update={"name": "my-model", "source": location, "kind": kind, "location": location}
    )
    suite = "my-model" if kind == "folder" else slugify(location)
    cell = made.cell.model_copy(update={"model": own})
    return made.model_copy(update={"cell": cell, "suite": suite})


def test_a_folder_of_a_suite_or_of_one_cell(results: Path) -> None:
    assert len(load_side(str(results / "quickstart")).records) == 2
    cell = place_of(results, footprint_record("nf4")).parent
    (record,) = load_side(str(cell)).records
    assert record.cell.precision.label == "nf4"


def test_a_suites_file_stands_for_its_records(results: Path, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("name: quickstart\nmodels: [owner/name]\n", encoding="utf-8")
    assert len(load_side(str(suite), results).records) == 2


def test_a_model_stands_for_the_records_of_its_run(results: Path, tmp_path: Path) -> None:
    for label in ("fp32", "nf4", "int8"):
        keep(results, footprint_record(label, suite="tiny-mistral-quick"))
    assert len(load_side("bundled:tiny-mistral", results).records) == 3
    keep(results, footprint_record("fp32", suite="tiny-mistral"))
    assert len(load_side("bundled:tiny-mistral", results).records) == 1
    keep(results, of("owner/name", "hub"))
    assert len(load_side("owner/name", results).records) == 1
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").touch()
    with pytest.raises(StoreError, match="found a model, and no records of it below"):
        load_side(str(folder), results)
    keep(results, of(str(folder), "folder"))
    assert len(load_side(str(folder), results).records) == 1


def test_models_of_one_name_are_not_taken_for_each_other(results: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name / "my-model" for name in "abc"]
    for at, folder in enumerate(folders):
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
        if folder is not folders[2]:
            keep(results, of(str(folder), "folder", 1000.0 + at))
    for at, folder in enumerate(folders[:2]):
        (record,) = load_side(str(folder), results).records
        assert record.value("memory.static") == 1000.0 + at
        finished = call(tmp_path, "report", str(folder), "--format", "csv", "--output", "-")
        assert finished.code == 0, finished
        (row,) = csv.DictReader(io.StringIO(finished.output))
        assert float(row["value"]) == 1000.0 + at
    with pytest.raises(StoreError, match="only records of another model of that name"):
        load_side(str(folders[2]), results)


def test_a_cell_by_its_label_or_a_pattern(results: Path) -> None:
    assert load_side("nf4", results).records[0].cell.precision.label == "nf4"
    assert load_side("*--fp32", results).records[0].cell.precision.label == "fp32"


def test_a_baselines_file(results: Path, tmp_path: Path) -> None:
    records = load_side(str(results)).records
    path = write_baseline(tmp_path / "baselines" / "quickstart.json.gz", records)
    assert len(load_side(str(path)).records) == 2
    for where in (path, path.parent, results):
        assert len(load_baseline(where, "quickstart").records) == 2


@pytest.mark.parametrize(
    ("where", "words"),
    [("nf5", "did you mean 'nf4'"), ("*", "found 2 cells"), ("none.json", "no such baseline")],
)
def test_what_is_not_there_is_told(results: Path, where: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_side(where, results)


def test_nothing_to_look_in_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--results"):
        load_side("nf4", tmp_path / "results")
    with pytest.raises(StoreError, match="no records"):
        load_side(str(tmp_path))


def test_records_of_several_devices_are_not_mixed(results: Path) -> None:
    other = make_environment(device="Other", device_kind="cpu-other")
    keep(results, footprint_record("nf4", environment=other))
    with pytest.raises(UsageError, match="cpu-other") as caught:
        load_side(str(results))
    assert "name its folder" in str(caught.value)


def test_a_file_that_cannot_be_read_is_noted(results: Path) -> None:
    (results / "quickstart" / "bad.json").write_text("{", encoding="utf-8")
    side = load_side(str(results))
    assert len(side.records) == 2
    assert "bad.json" in side.notes[0]
