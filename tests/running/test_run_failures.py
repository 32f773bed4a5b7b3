"""Every way to fail becomes a record with its status and reason, and stops nothing else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.workplace import Finished, Workplace

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Record

pytestmark = pytest.mark.slow

SUITE = """\
models: [{model}]
precisions: [fp32, bf16, positronic, load-raises, load-memory, load-crashes]
reference: fp32
measure:
  footprint:
  unruly: {{acts: [{acts}]}}
timeout_s: 10
"""

ACTS = {
    "fine": ("ok", ""),
    "refuses": ("error", "the moon is not full; wait a fortnight"),
    "machine-memory": ("oom", "no memory left; use a smaller batch"),
    "device-memory": ("oom", "CUDA out of memory. Tried to allocate 3.00 GiB; use a smaller batch"),
    "accelerator-memory": ("oom", "CUDA error: out of memory; use a smaller batch"),
    "native-memory": ("oom", "a library ended the worker: Error out of memory at line 380"),
    "not-finite": ("nan", "3 of 7 values are not finite"),
    "raises": ("error", "ZeroDivisionError: nothing to divide by"),
    "loses-gpu": ("error", "illegal memory access was encountered; CUDA_LAUNCH_BLOCKING=1"),
    "uses-gpu": ("ok", ""),
    "segfault": ("crash", "SIGSEGV"),
    "exits": ("crash", "exit code 3"),
    "leaves": ("crash", "exit code"),
    "leaves-well": ("crash", "exit code 0 before it was done"),
    "killed": ("crash", r"killed \(SIGKILL\)"),
    "leaves-children": ("ok", ""),
    "loud": ("ok", ""),
    "loud-exits": ("crash", "exit code 3"),
    "sleeps": ("timeout", "10 s"),
    "late": ("timeout", "10 s"),
}
"""Status and words of the reason of each act of `tests/plugins/unruly` in the cell fp32."""
LOADING = {
    "load-raises": ("error", "ZeroDivisionError: nothing to divide by"),
    "load-memory": ("oom", "no memory left"),
    "load-crashes": ("crash", "SIGSEGV"),
}


class Step:
    """A call of `qbench run`, and the records after it by cell and item."""

    def __init__(self, place: Workplace, *arguments: str) -> None:
        self.place = place
        self.finished: Finished = place.call("run", "suite.yaml", *arguments)
        self.records = {named(record): record for record in place.records().values()}


def named(record: Record) -> tuple[str, str]:
    return record.cell.precision.label, record.item.slug


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Step:
    place = Workplace(tmp_path_factory.mktemp("failures"), tiny_model).with_plugins("unruly")
    (place.folder / "temporary").mkdir()
    place = place.with_environment(TMPDIR=str(place.folder / "temporary"))
    place.write("suite.yaml", SUITE.format(model=tiny_model, acts=", ".join(ACTS)))
    return Step(place)


class TestFirstRun:
    def test_the_exit_code_says_that_cells_failed(self, first: Step) -> None:
        assert first.finished.code == 1
        assert "Traceback" not in first.finished.output + first.finished.errors
        assert first.finished.errors == ""

    def test_every_item_of_every_cell_has_a_record(self, first: Step) -> None:
        cells = ("fp32", "bf16", "positronic", *LOADING)
        assert set(first.records) == {(c, item) for c in cells for item in ("model", *ACTS)}

    @pytest.mark.parametrize("act", ACTS)
    def test_status_and_reason(self, first: Step, act: str) -> None:
        record = first.records["fp32", act]
        status, reason = ACTS[act]
        assert record.status == status
        if status == "ok":
            assert record.reason is None
        else:
            assert re.search(reason, record.reason or "")
            assert record.phase == "measure"
            assert record.log_tail
            assert record.metrics == ()

    def test_the_other_measurements_and_cells_go_on(self, first: Step) -> None:
        assert first.records["fp32", "model"].status == "ok"
        assert {first.records["bf16", item].status for item in ("model", *ACTS)} == {"ok"}

    def test_what_was_raised_is_in_the_records_own_log(self, first: Step) -> None:
        tail = first.records["fp32", "raises"].log_tail or ""
        assert tail.splitlines()[-1] == "ZeroDivisionError: nothing to divide by"
        assert "Segmentation fault" in (first.records["fp32", "segfault"].log_tail or "")

    def test_of_a_long_log_the_end_is_kept(self, first: Step) -> None:
        tail = (first.records["fp32", "loud-exits"].log_tail or "").splitlines()
        assert tail[-1] == "loud line 19999"
        assert len(tail) == 20

    def test_a_precision_that_cannot_run_here_is_skipped(self, first: Step) -> None:
        for item in ("model", *ACTS):
            record = first.records["positronic", item]
            assert record.status == "skipped"
            assert record.reason == "needs a positronic brain; install one"

    @pytest.mark.parametrize("label", LOADING)
    def test_a_failure_to_load_is_that_of_all_its_items(self, first: Step, label: str) -> None:
        status, reason = LOADING[label]
        for item in ("model", *ACTS):
            record = first.records[label, item]
            assert record.status == status
            assert reason in (record.reason or "")
            assert record.phase == "load"

    def test_the_report_names_all_of_them(self, first: Step) -> None:
        (path,) = (first.place.folder / "reports").glob("*.md")
        text = path.read_text(encoding="utf-8")
        for words in ("positronic brain", "moon is not full", "SIGSEGV", "timeout", "load-memory"):
            assert words in text

    def test_nothing_that_it_started_lives_on(self, first: Step) -> None:
        assert first.place.survivors() == []

    def test_nothing_temporary_stays(self, first: Step) -> None:
        assert list((first.place.folder / "temporary").iterdir()) == []


def test_numbers_that_are_not_finite_never_make_a_record_that_cannot_be_read(
    workplace: Workplace,
) -> None:
    place = workplace.with_plugins("unruly")
    suite = "models: [{}]\nprecisions: [fp32]\nmeasure: {{unruly: {{acts: [infinite-series]}}}}\n"
    place.write("suite.yaml", suite.format(place.model))
    finished = place.call("run", "suite.yaml")
    (record,) = place.records().values()
    assert record.status in {"nan", "error"}
    assert "finite" in (record.reason or "")
    assert finished.code == 1
