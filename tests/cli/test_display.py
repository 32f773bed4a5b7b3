"""What a run shows, on a terminal and elsewhere."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from qbench.cli.display import MOST_ROWS, RunDisplay
from qbench.core.units import format_seconds
from qbench.plan.plan import Plan, make_plan
from qbench.plan.suite.suite import load_suite_text
from qbench.running.executors.executor import JobEnd
from tests.workplace import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Record
    from qbench.plan.job import Job

SUITE = """\
name: shown
models: [{model}]
precisions: [fp32, {more}]
measure: {{footprint: , latency: {{prompt_tokens: 4, new_tokens: 2, repeats: 2}}}}
"""


def make(base: Path, model: Path, more: str = "nf4") -> Plan:
    write_text(base)
    suite = load_suite_text(SUITE.format(model=model, more=more), "suite.yaml", base)
    return make_plan(suite, base / "results", device="cpu")


def go_through(display: RunDisplay, plan: Plan) -> list[Job]:
    """Tells the display of a whole run in which one item fails."""
    jobs = plan.jobs(lambda _: True)
    display.planned(plan, jobs)
    for number, job in enumerate(jobs):
        display.started(job)
        for phase in ("fetch", "load", "verify"):
            display.happened(job, {"event": "phase", "phase": phase})
        for index, task in enumerate(job.tasks):
            display.happened(job, {"event": "task", "index": index})
            display.happened(job, {"event": "phase", "phase": "measure"})
            record: Record = job.record(task, "ok", duration_s=1.25)
            if number == 1 and index == 0:
                record = job.record(task, "oom", reason="no [red]memory[/red] left")
            display.recorded(job, record)
        display.ended(job, JobEnd("finished"))
    return jobs


def test_a_line_a_record_where_there_is_no_terminal(tmp_path: Path, tiny_model: Path) -> None:
    file = io.StringIO()
    with RunDisplay(Console(file=file, width=200)) as display:
        go_through(display, make(tmp_path, tiny_model))
    lines = file.getvalue().splitlines()
    assert lines[0].startswith("shown: 2 cells on ")
    assert lines[0].endswith("6 measurements, 0 already on disk")
    assert lines[1] == "[1/6] tiny--fp32 footprint model: ok 1.2 s"
    assert lines[3] == "[3/6] tiny--nf4 footprint model: oom (no [red]memory[/red] left)"
    assert lines[5] == "[5/6] tiny--fp32 latency b1-p4-n2 repeat 2: ok 1.2 s"
    assert len(lines) == 7


def test_long_lines_are_not_broken_in_a_file(tmp_path: Path, tiny_model: Path) -> None:
    file = io.StringIO()
    with RunDisplay(Console(file=file, width=40)) as display:
        go_through(display, make(tmp_path, tiny_model))
    assert len(file.getvalue().splitlines()) == 7


def test_quiet_says_nothing_but_notes(tmp_path: Path, tiny_model: Path) -> None:
    file = io.StringIO()
    with RunDisplay(Console(file=file, width=200), quiet=True) as display:
        go_through(display, make(tmp_path, tiny_model))
        display.waiting("cpu")
        display.note("a record was damaged")
    assert file.getvalue() == "note: a record was damaged\n"


def test_waiting_is_said(tmp_path: Path, tiny_model: Path) -> None:
    file = io.StringIO()
    with RunDisplay(Console(file=file, width=200)) as display:
        plan = make(tmp_path, tiny_model)
        display.planned(plan, plan.jobs(lambda _: True))
        display.waiting("cuda:0")
    assert "another qbench run is using cuda:0" in file.getvalue()


def test_jobs_that_wait_for_a_node_shorten_nothing(tmp_path: Path, tiny_model: Path) -> None:
    """Of two cells one runs, so that what is left takes as long as it takes one node."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=20)
    plan = make(tmp_path, tiny_model)
    jobs = list(plan.jobs(lambda _: True))
    first, second = jobs[:2]

    def shown() -> str:
        with console.capture() as captured:
            console.print(display._render())
        return captured.get()

    with RunDisplay(console) as display:
        display.planned(plan, jobs)
        for job in (first, second):
            display.started(job)
            display.happened(job, {"event": "queued"})
        for task in first.tasks:
            display.recorded(first, first.record(task, "ok", duration_s=6000.0))
        assert shown().count("waiting for a free node") == 2
        assert "time left not known yet" in shown()
        display.happened(first, {"event": "node", "host": "a"})
        one = shown()
        display.happened(second, {"event": "node", "host": "b"})
        assert "about 6 h 40 min left" in one
        assert "about 3 h 20 min left" in shown()


@pytest.mark.parametrize("cells", [2, MOST_ROWS + 10])
def test_a_terminal_shows_the_cells_the_phase_and_the_progress(
    tmp_path: Path, tiny_model: Path, cells: int
) -> None:
    thresholds = ", ".join(str(5 + number) for number in range(cells - 1))
    plan = make(tmp_path, tiny_model, f"int8: {{threshold: [{thresholds}]}}")
    jobs = plan.jobs(lambda _: True)
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=50)
    display = RunDisplay(console, quiet=False)
    with display:
        display.planned(plan, jobs)
        job = jobs[cells - 1]
        display.started(job)
        display.happened(job, {"event": "phase", "phase": "load"})
        with console.capture() as capture:
            console.print(display._render())
        shown = capture.get()
        assert f"{job.cell.slug}" in shown
        assert "loading" in shown
        assert f"0/{len(plan.tasks)} measurements" in shown
        assert "time left not known yet" in shown
        assert shown.count("tiny--") == min(cells, MOST_ROWS)


def test_a_terminal_shows_how_much_of_an_item_is_done(tmp_path: Path, tiny_model: Path) -> None:
    plan = make(tmp_path, tiny_model)
    job, *_ = jobs = plan.jobs(lambda _: True)
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=50)
    with RunDisplay(console) as display:
        display.planned(plan, jobs)
        display.started(job)
        display.happened(job, {"event": "task", "index": 0})
        for done in (1, 2):
            display.happened(job, {"event": "progress", "done": done, "of": 9})
        with console.capture() as capture:
            console.print(display._render())
        assert "footprint model: 2/9" in capture.get()
        steps = {"of": 40, "first": 6, "loss": [2.5, 2.34567], "learning_rate": [1e-4, 1e-4]}
        display.happened(job, {"event": "steps", **steps, "validation": []})
        with console.capture() as capture:
            console.print(display._render())
    assert "footprint model: 8/40, loss 2.35" in capture.get()


def test_nothing_missing_starts_no_live_display(tmp_path: Path, tiny_model: Path) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120)
    with RunDisplay(console) as display:
        display.planned(make(tmp_path, tiny_model), [])
    assert "6 already on disk" in file.getvalue()
    assert len(file.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200.0, "3 min 20 s"),
        (3599.7, "1 h 0 min"),
        (7500.0, "2 h 5 min"),
    ],
)
def test_seconds_in_words(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
