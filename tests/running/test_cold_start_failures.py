"""A start that fails is a record of its own kind, and no process outlives whoever wanted it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

SUITE = """\
models: [{model}]
precisions: [{precisions}]
measure:
  cold_start: {{prompt_tokens: 8, repeats: 1, read_from: page-cache}}
timeout_s: {timeout_s}
"""
LOADING = {
    "load-raises": ("error", "ZeroDivisionError: nothing to divide by"),
    "load-memory": ("oom", "no memory left"),
    "load-crashes": ("crash", "the process of first_token was ended by SIGSEGV"),
}


def write(place: Workplace, *precisions: str, timeout_s: float = 60) -> None:
    chosen = ", ".join(precisions)
    text = SUITE.format(model=place.model, precisions=chosen, timeout_s=timeout_s)
    place.write("suite.yaml", text)


def started(place: Workplace) -> list[str]:
    """The processes of a start that run now."""
    return [one for one in place.running() if "first_token" in one]


def test_what_a_start_fails_of_is_told_with_its_phase_and_its_log(workplace: Workplace) -> None:
    place = workplace.with_plugins("unruly")
    write(place, "fp32", *LOADING)
    done = place.call("run", "suite.yaml")
    records = {one.cell.precision.label: one for one in place.records().values()}
    assert records["fp32"].status == "ok", done.output
    for name, (status, words) in LOADING.items():
        record = records[name]
        assert (record.status, record.phase) == (status, "weights")
        assert words in (record.reason or "")
        assert "qbench_unruly.py" in (record.log_tail or "")
        assert "qbench_unruly.py" in place.logs()[record.cell.slug]
    assert place.survivors() == []


def test_one_that_takes_too_long_is_ended(workplace: Workplace) -> None:
    write(workplace, "fp32", timeout_s=1)
    workplace.call("run", "suite.yaml")
    (record,) = workplace.records().values()
    assert (record.status, record.phase) == ("timeout", "measure")
    assert workplace.survivors() == []


def test_it_ends_with_a_run_that_is_killed(workplace: Workplace) -> None:
    write(workplace, "fp32")
    process = workplace.start("run", "suite.yaml")
    deadline = time.monotonic() + 60
    while not (found := started(workplace)) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert found
    assert workplace.survivors() == []
