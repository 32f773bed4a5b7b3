"""The executor: events in order, a server that is started again, nothing left behind."""

from __future__ import annotations

import heapq
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import DeviceError, StoreError
from qbench.core.nvml import Gpu
from qbench.core.store import read_record
from qbench.plan.plan import make_plan
from qbench.plan.suite.suite import load_suite_text
from qbench.running.executors.executor import RunStoppedError, Slot
from qbench.running.executors.gpus import choose_gpus
from qbench.running.executors.local import LocalExecutor
from qbench.running.executors.side_by_side import (
    Order,
    dependencies,
    ranks_of,
    run_side_by_side,
)
from qbench.running.supervision import LockedWatcher, run_job
from tests.inline_runs import Listener
from tests.workplace import MARK, Workplace

if TYPE_CHECKING:
    from qbench.core.record import Record
    from qbench.plan.job import Job

SUITE = "models: [{}]\nprecisions: [fp32]\nmeasure: [footprint]\n"


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A place whose processes this test's own process starts."""
    monkeypatch.setenv(MARK, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return Workplace(tmp_path, tiny_model)


def only_job(place: Workplace) -> Job:
    suite = load_suite_text(SUITE.format(place.model), "suite.yaml", place.folder)
    (job,) = make_plan(suite, place.folder / "results", device="cpu").jobs(lambda _: True)
    return job


@pytest.mark.slow
def test_events_a_lost_server_and_a_timeout(place: Workplace) -> None:
    job, log = only_job(place), place.folder / "worker.log"
    record_path = Path(job.tasks[0].path)
    with LocalExecutor("cpu") as executor:
        events: list[dict[str, Any]] = []
        end = executor.run(job, log, 60.0, events.append)
        assert end.how == "finished"
        assert end.reason is None
        told = [event.get("phase") or event["event"] for event in events]
        assert told == ["fetch", "load", "verify", "task", "measure", "record"]
        assert events[-1] == {"event": "record", "index": 0, "status": "ok"}
        record = read_record(record_path)
        assert record is not None
        assert record.status == "ok"

        record_path.unlink()
        (waiting,) = place.running()
        server = int(waiting.partition(":")[0])
        os.kill(server, signal.SIGKILL)
        end = executor.run(job, log, 60.0, events.append)
        assert end.how == "crash"
        assert "SIGKILL" in (end.reason or "")
        assert not record_path.exists()

        end = executor.run(job, log, 0.001, events.append)
        assert end.how == "timeout"
        assert "0.001 s" in (end.reason or "")
        assert "timeout_s" in (end.reason or "")
        assert place.survivors() == []

        end = executor.run(job, log, 60.0, events.append)
        assert end.how == "finished"
        assert record_path.exists()
    assert place.survivors() == []


def test_an_executor_that_is_left_at_once_leaves_nothing(place: Workplace) -> None:
    with LocalExecutor("cpu"):
        pass
    assert place.survivors() == []


def test_a_server_that_cannot_import_is_told_with_its_reason(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torch that fails when it is imported, as one with a missing library does."""
    broken = place.folder / "modules" / "torch"
    broken.mkdir(parents=True)
    text = "raise OSError('libfoo.so.3: cannot open shared object file')\n"
    (broken / "__init__.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(broken.parent))
    job, log = only_job(place), place.folder / "worker.log"
    with LocalExecutor("cpu") as executor:
        end = executor.run(job, log, 60.0, lambda _: None)
    words = (end.reason or "") + (log.read_text(encoding="utf-8") if log.exists() else "")
    record = read_record(Path(job.tasks[0].path))
    words += (record.reason or "") if record is not None else ""
    assert "libfoo.so.3" in words


LIFELINE = """
import os, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c",
     "import time; from qbench.core.orphans import die_with_parent as die;"
     f"die({{os.getpid()}}); print('alive', flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE, start_new_session=True,
)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep({})
"""


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_a_process_dies_with_its_parent(place: Workplace, how: str) -> None:
    code = LIFELINE.format(600 if how == "killed" else 0)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        if how == "killed":
            parent.kill()
    assert place.survivors() == []
    assert not is_running(child)


def is_running(pid: int) -> bool:
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2]
        except OSError:
            return False
        if state.split()[0] == "Z":
            return False
        time.sleep(0.02)
    return True


def test_a_process_whose_parent_is_already_gone_ends_at_once() -> None:
    code = "import qbench.core.orphans as own; own.die_with_parent(1); print('alive')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ""


def test_a_job_comes_after_what_it_needs(place: Workplace) -> None:
    """A reference's states, a training, and the earlier jobs of the same cell."""
    reference = only_job(place)
    (task,) = reference.tasks
    states = task.item.model_copy(update={"states_key": task.key})

    def another(slug: str, **changes: Any) -> Job:
        item = changes.pop("item", task.item)
        made = task.model_copy(update={"key": f"key of {slug}", "item": item})
        label = reference.cell.precision.model_copy(update={"label": slug})
        cell = reference.cell.model_copy(update={"precision": label})
        return reference.model_copy(update={"cell": cell, "tasks": (made,), **changes})

    training = another("training", artifact_key="key of training")
    jobs = [
        reference,
        another("compared with it", item=states),
        training,
        another("free"),
        another("served", artifact_key="key of training"),
        reference,
    ]
    found = dependencies(jobs)
    assert found == [frozenset(places) for places in ([], [0], [], [], [2], [0])]


def two_slots(job: Job, *names: str) -> list[Slot]:
    """Of the kind of device that the job was laid out for."""
    kind = job.environment.device_kind
    return [Slot(kind, name) for name in names or ("cuda:0", "cuda:1")]


def test_jobs_run_on_their_own_kind_of_device_alone(place: Workplace) -> None:
    one = only_job(place)

    def of(kind: str, label: str) -> Job:
        precision = one.cell.precision.model_copy(update={"label": label})
        cell = one.cell.model_copy(update={"precision": precision})
        environment = one.environment.model_copy(update={"device_kind": kind})
        return one.model_copy(update={"cell": cell, "environment": environment, "tasks": ()})

    jobs = [of("a100", "nf4"), of("a100", "int8"), of("h100", "nf4"), of("a100", "fp4")]
    seen: list[tuple[str, Slot]] = []
    slots = [Slot("h100", "node 1"), Slot("a100", "node 2"), Slot("a100", "node 3")]
    run_side_by_side(jobs, slots, lambda job, slot: seen.append((job.cell.label, slot)), int)
    assert sorted((label, slot.kind) for label, slot in seen) == [
        ("fp4", "a100"),
        ("int8", "a100"),
        ("nf4", "a100"),
        ("nf4", "h100"),
    ]


def test_jobs_of_large_models_begin_first_and_each_models_keep_their_order(
    place: Workplace,
) -> None:
    one = only_job(place)
    assert one.model.shape is not None
    more = one.model.shape.tensors[:1] + one.model.shape.tensors
    larger = one.model.model_copy(
        update={"shape": one.model.shape.model_copy(update={"tensors": more})}
    )
    unknown = one.model.model_copy(update={"shape": None})
    models = [one.model, unknown, larger, one.model, larger]
    ranks = ranks_of([one.model_copy(update={"model": model}) for model in models])
    order = Order(["gpu"] * 5, [(), (), (), (2,), ()], ranks)
    begun = []
    while order.left:
        _, at = heapq.heappop(order.ready["gpu"])
        begun.append(at)
        order.ended(at)
    assert begun == [2, 4, 0, 3, 1]


def test_two_devices_work_side_by_side_and_in_order(place: Workplace) -> None:
    one = only_job(place)

    def named(label: str) -> Job:
        precision = one.cell.precision.model_copy(update={"label": label})
        return one.model_copy(
            update={"cell": one.cell.model_copy(update={"precision": precision}), "tasks": ()}
        )

    jobs = [named("a"), named("b"), named("a"), named("c")]
    together = threading.Barrier(2, timeout=30)
    lock, seen, busy = threading.Lock(), [], set[str]()

    def run_one(job: Job, slot: Slot) -> None:
        device = slot.name
        with lock:
            assert device not in busy
            busy.add(device)
            seen.append((job.cell.label, device))
        if len(seen) <= 2:
            together.wait()  # neither ends before the other has begun
        with lock:
            busy.remove(device)

    run_side_by_side(jobs, two_slots(one), run_one, lambda: None)
    assert [label for label, _ in seen[:2]] == ["a", "b"]
    assert {device for _, device in seen[:2]} == {"cuda:0", "cuda:1"}
    assert sorted(label for label, _ in seen) == ["a", "a", "b", "c"]


def test_what_one_raises_ends_the_others(place: Workplace) -> None:
    one = only_job(place)
    other = one.model_copy(
        update={
            "cell": one.cell.model_copy(
                update={"precision": one.cell.precision.model_copy(update={"label": "other"})}
            )
        }
    )
    ended = threading.Event()
    interrupted: list[bool] = []

    def run_one(job: Job, _: Slot) -> None:
        if job is one:
            raise StoreError("no space left")
        assert ended.wait(30)
        raise RunStoppedError

    def interrupt() -> None:
        interrupted.append(True)
        ended.set()

    with pytest.raises(StoreError, match="no space left"):
        run_side_by_side([one, other, one], two_slots(one), run_one, interrupt)
    assert interrupted == [True]


def test_a_run_that_is_stopped_from_elsewhere_leaves_no_record(place: Workplace) -> None:
    job, log = only_job(place), place.folder / "worker.log"
    with LocalExecutor("cpu") as executor:

        def stop_at_once(event: dict[str, Any]) -> None:
            thread = threading.Thread(target=executor.stop)
            thread.start()
            thread.join()

        with pytest.raises(RunStoppedError):
            executor.run(job, log, 60.0, stop_at_once)
        with pytest.raises(RunStoppedError):
            executor.run(job, log, 60.0, lambda _: None)
    assert place.survivors() == []
    assert not Path(job.tasks[0].path).exists()


GPUS = (Gpu("NVIDIA H100", "GPU-a", None), Gpu("NVIDIA H100", "GPU-b", None))
OTHERS = (*GPUS, Gpu("NVIDIA T4", "GPU-c", None))


@pytest.mark.parametrize(
    ("text", "gpus", "expected"),
    [
        ("all", GPUS, ("cuda:0", "cuda:1")),
        ("1", OTHERS, ("cuda:1",)),
        ("1, 0,1", OTHERS, ("cuda:1", "cuda:0")),
    ],
)
def test_gpus_are_chosen_by_number(
    text: str, gpus: tuple[Gpu, ...], expected: tuple[str, ...]
) -> None:
    assert choose_gpus(text, gpus) == expected


@pytest.mark.parametrize(
    ("text", "gpus", "words"),
    [
        ("0,2", GPUS, "there is no GPU 2"),
        ("all", (), "GPUs here: none"),
        ("0;1", GPUS, "expected all, or numbers with commas"),
        ("all", OTHERS, "found NVIDIA H100 and NVIDIA T4; expected GPUs of one model"),
    ],
)
def test_gpus_that_cannot_be_chosen(text: str, gpus: tuple[Gpu, ...], words: str) -> None:
    with pytest.raises(DeviceError, match=re.escape(words)):
        choose_gpus(text, gpus)


class Noted(Listener):
    """Notes which cells were recorded, too."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded_cells: list[str] = []

    def recorded(self, job: Job, record: Record) -> None:
        super().recorded(job, record)
        self.recorded_cells.append(f"{job.cell.label} on {job.device}: {record.status}")


@pytest.mark.slow
def test_real_workers_side_by_side(place: Workplace) -> None:
    """torch knows the one CPU by two names: as good as two devices."""
    text = SUITE.format(place.model).replace("[fp32]", "[fp32, bf16]")
    suite = load_suite_text(text, "suite.yaml", place.folder)
    plan = make_plan(suite, place.folder / "results", device="cpu")
    jobs = plan.jobs(lambda _: True)
    watcher = Noted()
    shared = LockedWatcher(watcher)
    with LocalExecutor("cpu") as one, LocalExecutor("cpu:0") as other:
        executors = {"cpu": one, "cpu:0": other}

        def run_one(job: Job, slot: Slot) -> None:
            there = job.model_copy(update={"device": slot.name})
            taken = run_job(there, 120.0, executors[slot.name], shared, plan.records)
            assert taken == {job.tasks[0].key}

        slots = two_slots(jobs[0], *executors)
        run_side_by_side(jobs, slots, run_one, lambda: None)
    assert sorted(watcher.recorded_cells) == ["bf16 on cpu:0: ok", "fp32 on cpu: ok"]
    assert place.survivors() == []


def test_gpus_that_are_not_there_end_the_run_before_it_begins(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    done = workplace.call("run", "suite.yaml", "--gpus", "0,1")
    assert done.code == 2
    assert "there is no GPU 0" in done.errors
    done = workplace.call("run", "suite.yaml", "--gpus", "0,1", "--device", "cuda")
    assert done.code == 2
    assert "--device cuda and --gpus 0,1" in done.errors
    assert not (workplace.folder / "results").exists()
