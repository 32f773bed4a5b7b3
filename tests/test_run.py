"""A run takes what is missing, and only that: one story of six calls on the same results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.plan import make_plan
from qbench.runner import parse_retry, run_suite
from qbench.suite import load_suite
from tests.workplace import Finished, Workplace, taken, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.executors.local import JobEnd
    from qbench.job import Job
    from qbench.plan import Plan
    from qbench.record import Record
    from qbench.run_result import RunResult


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


@pytest.fixture(scope="module")
def one_precision_more(again: Step) -> Step:
    """With another precision in the suite, and one of the old records cut short."""
    again.place.write_suite("fp32", "nf4", "bf16")
    path = next((again.place.folder / "results").rglob("*fp32/quality*.json"))
    path.write_bytes(path.read_bytes()[:300])
    return Step(again.place, "suite.yaml", before=again.after)


@pytest.fixture(scope="module")
def one_option_changed(one_precision_more: Step) -> Step:
    place = one_precision_more.place
    place.write_suite("fp32", "nf4", "bf16", new_tokens=3)
    return Step(place, "suite.yaml", "--only", "bf16")


@pytest.fixture(scope="module")
def fresh(one_option_changed: Step) -> Step:
    return Step(one_option_changed.place, "suite.yaml", "--only", "bf16", "--fresh", "--quiet")


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


class TestOnePrecisionMore:
    def test_only_that_is_taken_and_the_damaged_record_again(
        self, one_precision_more: Step
    ) -> None:
        assert one_precision_more.finished.code == 0
        assert one_precision_more.taken_items == sorted(
            [*cell(*FOUR_ITEMS, label="bf16"), "fp32 quality"]
        )
        assert len(one_precision_more.after) == 12

    def test_the_damage_is_told(self, one_precision_more: Step) -> None:
        (note,) = [
            line
            for line in one_precision_more.finished.output.splitlines()
            if line.startswith("note:")
        ]
        assert "quality-text-w32-default" in note
        assert "cut short" in one_precision_more.finished.output
        assert "measured again now" in one_precision_more.finished.output


def test_a_changed_option_takes_its_measurement_and_keeps_the_old(one_option_changed: Step) -> None:
    assert one_option_changed.finished.code == 0
    assert one_option_changed.taken_items == cell("latency", "latency", label="bf16")
    assert set(one_option_changed.before) < set(one_option_changed.after)
    assert "4 records (4 ok), 2 taken now" in one_option_changed.finished.output


class TestFresh:
    def test_the_selected_cells_are_taken_anew_and_no_other(self, fresh: Step) -> None:
        assert fresh.finished.code == 0
        assert fresh.taken_items == cell(*FOUR_ITEMS, label="bf16")
        assert set(fresh.after) == set(fresh.before)

    def test_quiet_shows_the_summary_only(self, fresh: Step) -> None:
        assert "[1/4]" not in fresh.finished.output
        assert "4 records (4 ok), 4 taken now" in fresh.finished.output


class Listener:
    """Remembers what a run tells; satisfies `qbench.supervision.Watcher`."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def planned(self, plan: Plan, jobs: list[Job]) -> None:
        self.heard.append(f"planned {len(jobs)}")

    def waiting(self, device: str) -> None:
        self.heard.append("waiting")

    def started(self, job: Job) -> None:
        self.heard.append("started")

    def happened(self, job: Job, event: dict[str, Any]) -> None:
        self.heard.append("happened")

    def recorded(self, job: Job, record: Record) -> None:
        self.heard.append("recorded")

    def ended(self, job: Job, end: JobEnd) -> None:
        self.heard.append("ended")

    def note(self, message: str) -> None:
        self.heard.append(message)


def test_from_python_the_same_records_are_given(fresh: Step) -> None:
    listener = Listener()
    suite = load_suite(fresh.place.folder / "suite.yaml")
    results = fresh.place.folder / "results"
    result: RunResult = run_suite(suite, results, listener, device="cpu", only=["bf16"])
    assert listener.heard == ["planned 0"]
    assert result.taken == 0
    assert not result.failed
    assert dict(result.counts) == {"ok": 4}
    assert {record.key for record in result.records} == {
        fresh.after[name].key for name in fresh.taken
    }


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
    result = run_suite(suite, results, remover, device="cpu")
    assert [task.key for task in result.lost] == remover.removed
    assert len(result.records) == 3
    assert dict(result.counts) == {"ok": 3}
    assert result.failed
    (sentence,) = result.what_is_not_there()
    assert sentence.startswith(f"planned but not on disk: 1 record, such as {result.lost[0].path}")

    result = run_suite(suite, results, Listener(), device="cpu")
    assert (len(result.records), result.taken, result.lost) == (4, 1, ())
    assert not result.failed
    assert result.what_is_not_there() == []


def test_from_python_by_the_package_as_often_as_wanted(fresh: Step) -> None:
    import qbench

    folder = fresh.place.folder
    for _ in range(2):
        result = qbench.run(
            folder / "suite.yaml", results=folder / "results", device="cpu", only=["bf16"]
        )
        assert {record.key for record in result.records} == {
            fresh.after[name].key for name in fresh.taken
        }
    frame = qbench.load_results(folder / "results")
    assert set(frame["label"]) == {"fp32", "nf4", "bf16"}


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
