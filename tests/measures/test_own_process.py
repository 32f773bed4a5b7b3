"""A process that a measurement starts: what it told, and whatever else may become of it."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import ProcessFailedError
from qbench.measures.own_process import run_module
from qbench.running.worker import classify

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.measures.own_process import Ended


def run(folder: Path, **request: Any) -> Ended:
    path = folder / "request.json"
    path.write_text(json.dumps(request))
    return run_module("tests.measures.acting_process", path, folder / "marks", gpu=False)


def test_marks_of_the_other_process_are_on_this_ones_clock(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = time.monotonic_ns()
    ended = run(tmp_path, act="tells")
    after = time.monotonic_ns()
    assert ended.found == {"answer": 42}
    assert [mark.phase for mark in ended.told.marks] == ["imports", "weights"]
    times = [before, ended.spawned_ns, *(mark.at_ns for mark in ended.told.marks), after]
    assert times == sorted(times)
    assert f"parent {os.getpid()}, hub offline: 1" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("act", "status", "words"),
    [
        ({"act": "fails", "status": "oom"}, "oom", "as told"),
        ({"act": "fails", "status": "nan"}, "nan", "as told"),
        ({"act": "fails", "status": "error"}, "error", "as told"),
        ({"act": "memory"}, "oom", "a library ended the process of acting_process: Error out of"),
        ({"act": "exits"}, "crash", "exit code 3"),
        ({"act": "is killed"}, "crash", r"killed \(SIGKILL\)"),
        ({"act": "segfault"}, "crash", "SIGSEGV"),
        ({"act": "half a line"}, "crash", "exit code 0 before it was done"),
        ({"act": "nothing"}, "crash", "exit code 0 before it was done"),
    ],
)
def test_each_end_has_its_status_its_phase_and_the_end_of_its_log(
    act: dict[str, str], status: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ProcessFailedError, match=words) as caught:
        run(tmp_path, **act)
    error = caught.value
    assert classify(error)[0] == status
    assert error.phase == "weights"
    assert f"parent {os.getpid()}" in (error.log_tail or "")


def test_one_that_never_begins(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailedError, match="exit code 1") as caught:
        run_module("tests.measures.no_such_module", tmp_path / "r", tmp_path / "m", gpu=False)
    assert caught.value.phase == "start"
    assert "No module named tests.measures.no_such_module" in (caught.value.log_tail or "")
