"""A run takes what is missing, and only that; what it tells meanwhile, and afterwards."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest

from qbench.plan.plan import RETRIED, make_plan
from qbench.plan.suite.suite import load_suite, load_suite_text
from qbench.running.executors.inline import InlineExecutor
from qbench.running.executors.this_machine import ThisMachine
from qbench.running.runner import parse_retry, run_suite
from tests.inline_runs import Listener, failing, good, pretended, run_inline
from tests.workplace import Finished, Workplace, taken, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Record, Status
    from qbench.plan.job import Job, Task
    from qbench.running.result import RunResult


class Step:
    """A call of `qbench run`, and the records and logs there were after it."""

    def __init__(
        self, place: Workplace, *arguments: str, before: dict[str, Record] | None = None
    ) -> None:
        """`before` are the records before the call, where they cannot all be read."""
        self.place = place
        self.before = place.records() if before is None else before
        self.logs_before = place.logs()
        self.finished: Finished = place.call("run", *arguments)
        self.after = place.records()
        self.logs_after = place.logs()

    @property
    def taken(self) -> set[str]:
        """Names of the records that this call took."""
        return taken(self.before, self.after)

    @property
    def taken_items(self) -> list[str]:
        """What it took, as `<cell> <measurement>`."""
        records = [self.after[name] for name in self.taken]
        return sorted(f"{r.cell.precision.label} {r.item.measurement}" for r in records)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workplace:
    folder = tmp_path_factory.mktemp("run")
    write_text(folder)
    return Workplace(folder, tiny_model)


@pytest.fixture(scope="module")
def first(place: Workplace) -> Step:
    place.write_suite("fp32", "nf4")
    return Step(place, "suite.yaml")


@pytest.fixture(scope="module")
def again(first: Step) -> Step:
    return Step(first.place, "suite.yaml")


@pytest.fixture
def measured(workplace: Workplace) -> Workplace:
    """With all records of two precisions."""
    workplace.write_suite("fp32", "nf4")
    assert not run_inline(workplace, work=pretended()).result.failed
    return workplace


def cell(*measurements: str, label: str) -> list[str]:
    return [f"{label} {measurement}" for measurement in measurements]


FOUR_ITEMS = ("footprint", "latency", "latency", "quality")


class TestFirstRun:
    def test_every_measurement_leaves_a_record(self, first: Step) -> None:
        assert first.finished.code == 0, first.finished.errors
        assert first.taken_items == sorted(
            cell(*FOUR_ITEMS, label="fp32") + cell(*FOUR_ITEMS, label="nf4")
        )
        assert {record.status for record in first.after.values()} == {"ok"}

    def test_the_files_are_those_that_the_plan_names(
        self, first: Step, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        suite = load_suite(first.place.write_suite("fp32", "nf4", name="suite.yaml"))
        plan = make_plan(suite, first.place.folder / "results", device="cpu")
        names = {"/".join(task.path.rsplit("/", 2)[-2:]) for task in plan.tasks}
        assert names == set(first.after)

    def test_records_say_what_was_measured_and_where(self, first: Step) -> None:
        for record in first.after.values():
            assert record.suite == "suite"
            assert record.reference == (record.cell.precision.label == "fp32")
            assert record.environment.device_type == "cpu"
            assert record.environment.threads == 1
            assert record.environment.variables["OMP_NUM_THREADS"] == "1"
            assert record.environment.variables["GOMP_SPINCOUNT"] == "10000"
            assert record.duration_s is not None
            assert record.log_tail is None
            assert record.reason is None
            assert record.metrics

    def test_repeats_are_taken_in_processes_of_their_own_in_turn(self, first: Step) -> None:
        records = sorted(first.after.values(), key=lambda record: record.started_at)
        turns = [
            (record.item.repeat, record.cell.precision.label)
            for record in records
            if record.item.measurement == "latency"
        ]
        assert turns == [(0, "fp32"), (0, "nf4"), (1, "fp32"), (1, "nf4")]
        for log in first.logs_after.values():
            assert log.count("latency b1-p4-n2\n") == 1
            assert log.count("--- ") == 2

    def test_the_report_is_shown_and_written(self, first: Step) -> None:
        kind = next(iter(first.after.values())).environment.device_kind
        path = first.place.folder / "reports" / f"suite-{kind}.md"
        assert f"report: reports/{path.name}" in first.finished.output
        assert path.is_file()
        assert "8 records (8 ok), 8 taken now" in first.finished.output
        last = first.finished.output.splitlines()[-1]
        assert last == f"report: {path.with_suffix('.html').absolute().as_uri()}"
        assert first.finished.errors == ""

    def test_nothing_else_is_left(self, first: Step) -> None:
        assert first.place.survivors() == []
        names = [path.name for path in (first.place.folder / "results").rglob("*.*")]
        assert {name.rpartition(".")[2] for name in names} == {"json", "log"}


def test_a_second_run_takes_nothing_and_starts_no_worker(again: Step) -> None:
    assert again.finished.code == 0
    assert again.taken == set()
    assert again.logs_after == again.logs_before
    assert "8 measurements, 8 already on disk" in again.finished.output
    assert "8 records (8 ok), 0 taken now" in again.finished.output


def test_of_one_precision_more_only_that_is_taken(measured: Workplace) -> None:
    measured.write_suite("fp32", "nf4", "bf16")
    ran = run_inline(measured, work=pretended())
    assert ran.taken_items == cell(*FOUR_ITEMS, label="bf16")
    assert len(ran.after) == 12
    assert ran.result.taken == 4
    assert not ran.result.failed


def test_a_damaged_record_is_taken_again_and_told(measured: Workplace) -> None:
    before = measured.records()
    path = next((measured.folder / "results").rglob("*fp32/quality*.json"))
    path.write_bytes(path.read_bytes()[:300])
    ran = run_inline(measured, work=pretended(), before=before)
    assert ran.taken_items == ["fp32 quality"]
    (note,) = [line for line in ran.output.splitlines() if line.startswith("note:")]
    assert "quality-text-w32-default" in note
    assert "cut short" in note
    assert "measured again now" in note


@pytest.mark.parametrize("status", ["error", "timeout", "crash", "oom", "nan"])
def test_plan_says_how_many_workers_a_run_starts_after_a_failure(
    workplace: Workplace, status: Status
) -> None:
    def answer(job: Job, task: Task) -> Record:
        spoilt = task.item.measurement == "quality" and job.cell.label == "nf4"
        return (failing(status) if spoilt else good)(job, task)

    workplace.write_suite("fp32", "nf4")
    run_inline(workplace, work=pretended(answer))
    told = workplace.call_here("plan", "suite.yaml", "--format", "json")
    assert told.code == 0, told.errors
    planned = json.loads(told.output)
    again = run_inline(workplace, work=pretended())
    assert planned["jobs_to_go"] == len(again.jobs) == (status in RETRIED)
    assert planned["on_disk"] == planned["measurements"]


def test_a_changed_option_takes_its_measurement_and_keeps_the_old(measured: Workplace) -> None:
    measured.write_suite("fp32", "nf4", new_tokens=3)
    ran = run_inline(measured, work=pretended(), only=["nf4"])
    assert ran.taken_items == cell("latency", "latency", label="nf4")
    assert set(ran.before) < set(ran.after)
    assert (len(ran.result.records), ran.result.taken) == (4, 2)


def test_fresh_takes_the_selected_cells_anew_and_no_other(measured: Workplace) -> None:
    ran = run_inline(measured, work=pretended(), only=["nf4"], fresh=True)
    assert ran.taken_items == cell(*FOUR_ITEMS, label="nf4")
    assert set(ran.after) == set(ran.before)
    assert "[1/4]" in ran.output


def test_quiet_shows_notes_only(measured: Workplace) -> None:
    ran = run_inline(measured, work=pretended(), fresh=True, quiet=True)
    assert ran.result.taken == 8
    assert ran.output == ""


def test_a_second_run_asks_for_no_worker(measured: Workplace) -> None:
    ran = run_inline(measured, work=pretended())
    assert ran.jobs == ()
    assert (ran.taken, ran.result.taken) == (set(), 0)


def test_repeats_are_jobs_of_their_own_in_turn(workplace: Workplace) -> None:
    workplace.write_suite("fp32", "nf4")
    ran = run_inline(workplace, work=pretended())
    turns = [(job.cell.label, {task.item.repeat for task in job.tasks}) for job in ran.jobs]
    assert turns == [("fp32", {0}), ("nf4", {0}), ("fp32", {1}), ("nf4", {1})]


def test_from_python_the_same_records_are_given(measured: Workplace) -> None:
    listener = Listener()
    suite = load_suite(measured.folder / "suite.yaml")
    results = measured.folder / "results"
    with measured.entered():
        result: RunResult = run_suite(suite, results, listener, on=ThisMachine("cpu"), only=["nf4"])
    assert listener.heard == ["planned 0"]
    assert result.taken == 0
    assert not result.failed
    assert dict(result.counts) == {"ok": 4}
    of_cell = {one.key for one in measured.records().values() if one.cell.label == "nf4"}
    assert {record.key for record in result.records} == of_cell


def test_the_watcher_is_told_of_each_thing_in_order(workplace: Workplace) -> None:
    listener = Listener()
    suite = load_suite_text(
        f"models: [{workplace.model}]\nprecisions: [fp32]\nmeasure: [footprint]\n",
        "suite.yaml",
        workplace.folder,
    )
    results = workplace.folder / "results"
    run_suite(suite, results, listener, on=ThisMachine("cpu", make_executor=InlineExecutor))
    events = ["fetch", "load", "verify", "task", "measure", "record"]
    assert listener.heard == [
        "planned 1",
        "started",
        *(f"happened {event}" for event in events[:-1]),
        "happened record",
        "recorded",
        "ended",
    ]
    (record,) = workplace.records().values()
    assert (record.status, record.value("memory.static") is not None) == ("ok", True)


class Remover(Listener):
    """Removes the first record that it is told of, as a person does who clears up too early."""

    def __init__(self, results: Path) -> None:
        super().__init__()
        self._results = results
        self.removed: list[str] = []

    def recorded(self, job: Job, record: Record) -> None:
        if not self.removed:
            (path,) = self._results.rglob(f"*-{record.key}.json")
            path.unlink()
            self.removed.append(record.key)


def test_a_record_that_vanishes_in_the_middle_of_a_run_is_missed(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    suite = load_suite(workplace.folder / "suite.yaml")
    results = workplace.folder / "results"
    remover = Remover(results)
    make_executor = partial(InlineExecutor, work=pretended())
    with workplace.entered():
        result = run_suite(
            suite, results, remover, on=ThisMachine("cpu", make_executor=make_executor)
        )
    assert [task.key for task in result.lost] == remover.removed
    assert len(result.records) == 3
    assert dict(result.counts) == {"ok": 3}
    assert result.failed
    (sentence,) = result.missing_in_words()
    assert sentence.startswith(f"planned but not on disk: 1 record, such as {result.lost[0].path}")

    result = run_inline(workplace, work=pretended()).result
    assert (len(result.records), result.taken, result.lost) == (4, 1, ())
    assert not result.failed
    assert result.missing_in_words() == []


def test_from_python_by_the_package_as_often_as_wanted(measured: Workplace) -> None:
    import qbench

    folder = measured.folder
    for _ in range(2):
        with measured.entered():
            result = qbench.run("suite.yaml", device="cpu", only=["nf4"])
        assert (len(result.records), result.taken) == (4, 0)
    frame = qbench.load_results(folder / "results")
    assert set(frame["label"]) == {"fp32", "nf4"}


@pytest.mark.parametrize(
    ("text", "statuses"),
    [
        ("none", set()),
        ("all", {"skipped", "oom", "timeout", "nan", "crash", "error"}),
        ("oom", {"oom"}),
        ("crash, oom", {"crash", "oom"}),
    ],
)
def test_statuses_to_retry(text: str, statuses: set[str]) -> None:
    assert parse_retry(text) == statuses
