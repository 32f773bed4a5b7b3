"""What a worker's end leaves, and what the next run takes again, whoever does the work."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import StoreError
from qbench.core.store import write_record
from qbench.plan.plan import make_plan
from qbench.plan.suite.suite import load_suite
from qbench.running.executors.executor import JobEnd, RunStoppedError
from qbench.running.executors.inline import InlineExecutor
from qbench.running.executors.this_machine import ThisMachine
from qbench.running.runner import run_suite
from qbench.running.supervision import log_path
from tests.inline_runs import Listener, good, pretended, run_inline

if TYPE_CHECKING:
    from qbench.core.record import Record, Status
    from qbench.plan.job import Job, Task
    from qbench.running.executors.executor import OnEvent
    from tests.inline_runs import Ran
    from tests.workplace import Workplace

ENDS = {
    "crash": JobEnd("crash", "the worker was ended by SIGSEGV"),
    "oom": JobEnd("oom", "the machine had no memory left"),
    "timeout": JobEnd("timeout", "stopped after 10 s"),
}


@pytest.fixture
def place(workplace: Workplace) -> Workplace:
    workplace.write_suite("fp32", "bf16")
    return workplace


def ending(end: JobEnd, *, on: str, label: str = "fp32") -> Any:
    """Work that ends so with one item of one cell."""

    def answer(job: Job, task: Task) -> Record | JobEnd:
        if (job.cell.label, task.item.measurement) == (label, on):
            log = log_path(job)
            log.write_text(log.read_text(encoding="utf-8") + "last words\n", encoding="utf-8")
            return end
        return good(job, task)

    return pretended(answer)


def statuses(ran: Ran, label: str) -> dict[str, str]:
    """Of the first repeat, by measurement."""
    return {
        one.item.measurement: one.status
        for one in ran.after.values()
        if one.cell.label == label and not one.item.repeat
    }


class TestAWorkerThatEndsBeforeItsTime:
    @pytest.mark.parametrize("how", ["crash", "oom"])
    def test_the_item_under_way_is_what_it_ended_and_a_new_worker_takes_the_rest(
        self, place: Workplace, how: str
    ) -> None:
        ran = run_inline(place, work=ending(ENDS[how], on="footprint"))
        assert statuses(ran, "fp32") == {"footprint": how, "latency": "ok", "quality": "ok"}
        assert set(statuses(ran, "bf16").values()) == {"ok"}
        assert ran.result.failed
        (record,) = (one for one in ran.after.values() if one.status == how)
        assert record.reason == ENDS[how].reason
        assert record.phase == "measure"
        assert (record.log_tail or "").splitlines()[-1] == "last words"
        of_cell = [len(job.tasks) for job in ran.jobs if job.cell.label == "fp32"]
        assert of_cell == [3, 2, 1]

    def test_a_cell_whose_time_is_used_up_leaves_all_that_is_left(self, place: Workplace) -> None:
        ran = run_inline(place, work=ending(ENDS["timeout"], on="latency"))
        assert statuses(ran, "fp32") == {
            "footprint": "ok",
            "latency": "timeout",
            "quality": "timeout",
        }
        assert set(statuses(ran, "bf16").values()) == {"ok"}

    def test_an_end_before_the_model_is_loaded_is_that_of_every_item(
        self, place: Workplace
    ) -> None:
        def work(job: Job, on_event: OnEvent) -> JobEnd:
            on_event({"event": "phase", "phase": "load"})
            return ENDS["crash"]

        ran = run_inline(place, work=work)
        assert {record.status for record in ran.after.values()} == {"crash"}
        assert {record.phase for record in ran.after.values()} == {"load"}
        assert len(ran.jobs) == 4  # none of them twice

    def test_one_that_calls_itself_finished_before_it_was_has_crashed(
        self, place: Workplace
    ) -> None:
        ran = run_inline(place, work=ending(JobEnd("finished"), on="quality"))
        assert statuses(ran, "fp32")["quality"] == "crash"
        (record,) = (one for one in ran.after.values() if one.status == "crash")
        assert "exit code 0 before it was done" in (record.reason or "")

    def test_one_that_lost_its_gpu_with_a_record_is_followed_by_another(
        self, place: Workplace
    ) -> None:
        lost: list[str] = []

        def work(job: Job, on_event: OnEvent) -> JobEnd | None:
            if lost:
                return pretended()(job, on_event)
            lost.append(job.tasks[0].key)
            on_event({"event": "task", "index": 0})
            write_record(Path(job.tasks[0].path), job.record(job.tasks[0], "error", reason="gone"))
            on_event({"event": "record", "index": 0, "status": "error"})
            on_event({"event": "device_lost"})
            return None

        ran = run_inline(place, work=work)
        assert statuses(ran, "fp32") == {"footprint": "error", "latency": "ok", "quality": "ok"}

    def test_a_record_that_was_written_but_not_told_of_stands(self, place: Workplace) -> None:
        def work(job: Job, on_event: OnEvent) -> JobEnd | None:
            on_event({"event": "task", "index": 0})
            write_record(Path(job.tasks[0].path), good(job, job.tasks[0]))
            return ENDS["crash"]

        ran = run_inline(place, work=work)
        assert {record.status for record in ran.after.values()} == {"ok"}
        assert ran.result.taken == 8


def test_records_that_cannot_be_written_end_the_run(place: Workplace) -> None:
    def work(job: Job, on_event: OnEvent) -> None:
        on_event({"event": "store_error", "message": "no space left; free some"})

    with pytest.raises(StoreError, match="no space left; free some"):
        run_inline(place, work=work)


def test_a_run_that_is_stopped_from_elsewhere_records_no_more(place: Workplace) -> None:
    (job, *_) = make_plan(
        load_suite(place.folder / "suite.yaml"), place.folder / "results", device="cpu"
    ).jobs(lambda _: True)
    with InlineExecutor("cpu", work=pretended()) as executor:

        def stop_at_once(event: dict[str, Any]) -> None:
            thread = threading.Thread(target=executor.stop)
            thread.start()
            thread.join()

        for listen in (stop_at_once, lambda _: None):
            with pytest.raises(RunStoppedError):
                executor.run(job, log_path(job), 60.0, listen)


ANSWERS: dict[str, Status] = {"footprint": "oom", "latency": "crash", "quality": "timeout"}


class TestNextRun:
    @pytest.fixture
    def failed(self, place: Workplace) -> Workplace:
        def answer(job: Job, task: Task) -> Record:
            if job.cell.label == "fp32":
                return good(job, task)
            return job.record(task, ANSWERS[task.item.measurement], reason="as told")

        assert run_inline(place, work=pretended(answer)).result.failed
        return place

    def test_crash_timeout_and_error_are_taken_again(self, failed: Workplace) -> None:
        ran = run_inline(failed, work=pretended())
        assert ran.taken_items == ["bf16 latency", "bf16 latency", "bf16 quality"]
        assert statuses(ran, "bf16") == {"footprint": "oom", "latency": "ok", "quality": "ok"}
        assert ran.result.failed

    def test_without_retries_all_stands_and_the_result_still_says_so(
        self, failed: Workplace
    ) -> None:
        ran = run_inline(failed, work=pretended(), retry="none")
        assert (ran.taken, ran.jobs) == (set(), ())
        assert ran.result.failed

    def test_all_but_the_good_can_be_tried_again(self, failed: Workplace) -> None:
        ran = run_inline(failed, work=pretended(), retry="all")
        assert {name.partition("/")[0] for name in ran.taken} == {"tiny--bf16"}
        assert len(ran.taken) == 4
        assert not ran.result.failed

    def test_one_status_can_be_tried_again(self, failed: Workplace) -> None:
        ran = run_inline(failed, work=pretended(), retry="oom")
        assert ran.taken_items == ["bf16 footprint"]


def test_what_another_run_took_meanwhile_is_not_taken_again(place: Workplace) -> None:
    """It writes all records of bf16 while this run is at its first job."""
    made = partial(InlineExecutor, work=pretended())
    suite, results = load_suite(place.folder / "suite.yaml"), place.folder / "results"
    with place.entered():
        plan = make_plan(suite, results, device="cpu")

    class Other(Listener):
        def ended(self, job: Job, end: JobEnd) -> None:
            super().ended(job, end)
            for other in plan.jobs(lambda _: True):
                for task in other.tasks if other.cell.label == "bf16" else ():
                    write_record(Path(task.path), good(other, task))

    listener = Other()
    with place.entered():
        result = run_suite(suite, results, listener, on=ThisMachine("cpu", make_executor=made))
    assert (len(result.records), result.taken) == (8, 4)
    assert listener.heard.count("started") == 2
    assert listener.heard.count("recorded") == 8
