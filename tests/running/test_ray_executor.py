"""What the driver does with what nodes tell, and with nodes that are lost: without a cluster."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import StoreError, UsageError
from qbench.core.store import read_record
from qbench.plan.plan import make_plan
from qbench.plan.suite.suite import load_suite
from qbench.running.executors.engines import engine_for
from qbench.running.executors.executor import JobEnd, RunStoppedError
from qbench.running.executors.ray.connection import address_of
from qbench.running.executors.ray.executor import MOST_LOSSES, RayExecutor
from qbench.running.executors.ray.node import Look, Sent
from qbench.running.executors.ray.nodes import Node, NodesOfKind, SeenNode
from qbench.running.executors.travel import Arrival, Made, made_under, needed_by, pieces_of
from qbench.sources.sealed import sealed_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from qbench.plan.job import Job
    from tests.workplace import Workplace

LOST = {"event": "lost", "how": "crash", "reason": "the node died", "again": True}
ENDED = {"event": "ended", "how": "finished", "reason": None}


class ToldJobs:
    """Jobs whose events are told beforehand, one list of them for each submission."""

    def __init__(self, told: Callable[[Job], Iterable[dict[str, Any] | None]]) -> None:
        self._told = told
        self.submitted: list[tuple[Job, dict[str, Any]]] = []
        self.cancelled: list[int] = []
        self._streams: list[Iterator[dict[str, Any] | None]] = []

    def start(
        self,
        job: Job,
        timeout_s: float,
        cache: str | None,
        sent: Sequence[Sent],
        options: dict[str, Any],
    ) -> int:
        self.submitted.append((job, options))
        self._streams.append(iter(list(self._told(job))))
        return len(self._streams) - 1

    def next(self, number: int, wait_s: float) -> dict[str, Any] | None:
        return next(self._streams[number])

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)

    def ask_for(self, bundles: list[dict[str, float]]) -> None:
        raise NotImplementedError


class Bench:
    """A job of four tasks, and an executor of nodes that are not there."""

    def __init__(self, place: Workplace) -> None:
        place.write_suite("fp32")
        suite = load_suite(place.folder / "suite.yaml")
        self.plan = make_plan(suite, place.folder / "results", device="cpu")
        (cell,) = self.plan.every
        self.job = self.plan.job_of(cell).model_copy(update={"tasks": cell.tasks})
        self.log = place.folder / "worker.log"
        self.events: list[dict[str, Any]] = []

    def nodes(self, jobs: ToldJobs, **resources: float) -> NodesOfKind:
        node = Node("abc", {"CPU": 4.0, "memory": 2.0**33, **resources})
        look = Look("host", self.plan.environment, 1, "keys", sees_cache=True)
        return NodesOfKind(self.plan, [SeenNode(node, look)], jobs, lambda _: [], patience_s=1.0)

    def run(self, jobs: ToldJobs) -> JobEnd:
        with RayExecutor(self.nodes(jobs)) as executor:
            return executor.run(self.job, self.log, 60.0, self.events.append)

    def record(self, job: Job, index: int) -> dict[str, Any]:
        text = job.record(job.tasks[index], "ok").model_dump_json()
        return {"event": "record", "index": index, "status": "ok", "text": text}


@pytest.fixture
def bench(workplace: Workplace) -> Bench:
    return Bench(workplace)


def test_what_a_lost_node_left_goes_on_elsewhere(bench: Bench) -> None:
    """A record a node, and then it is lost: never more than the task that it was at."""

    def told(job: Job) -> list[dict[str, Any] | None]:
        begun = [{"event": "node", "host": "n"}, {"event": "task", "index": 0}]
        kept = [bench.record(job, 0), {"event": "log", "text": "said\n"}]
        return [*begun, None, *kept, ENDED if len(job.tasks) == 1 else LOST]

    jobs = ToldJobs(told)
    count = len(bench.job.tasks)
    assert count > MOST_LOSSES
    assert bench.run(jobs) == JobEnd("finished")
    assert [len(job.tasks) for job, _ in jobs.submitted] == list(range(count, 0, -1))
    waits = [event["event"] for event in bench.events if event["event"] in {"queued", "node"}]
    assert waits == ["queued", "node"] * count
    of_tasks = [e["index"] for e in bench.events if e["event"] == "record"]
    assert of_tasks == list(range(count))
    assert [e["index"] for e in bench.events if e["event"] == "task"] == list(range(count))
    for task in bench.job.tasks:
        record = read_record(Path(task.path))
        assert record is not None
        assert record.key == task.key
    assert bench.log.read_text(encoding="utf-8").count("said\n") == count


def test_a_job_that_takes_every_node_with_it_has_an_end(bench: Bench) -> None:
    jobs = ToldJobs(lambda _: [{"event": "node", "host": "n"}, LOST])
    end = bench.run(jobs)
    assert end.how == "crash"
    assert "the node died" in (end.reason or "")
    assert len(jobs.submitted) == MOST_LOSSES + 1
    assert not any(event["event"] == "record" for event in bench.events)


def test_a_node_lost_after_the_last_record_lost_nothing(bench: Bench) -> None:
    jobs = ToldJobs(lambda job: [*(bench.record(job, at) for at in range(len(job.tasks))), LOST])
    assert bench.run(jobs) == JobEnd("finished")
    assert len(jobs.submitted) == 1


@pytest.mark.parametrize(
    ("last", "end"),
    [
        ({**ENDED, "how": "timeout", "reason": "stopped"}, JobEnd("timeout", "stopped")),
        ({**LOST, "how": "oom", "again": False}, JobEnd("oom", "n: the node died")),
    ],
)
def test_an_end_that_is_the_jobs_own_is_not_tried_again(
    bench: Bench, last: dict[str, Any], end: JobEnd
) -> None:
    jobs = ToldJobs(lambda _: [{"event": "node", "host": "n"}, last])
    assert bench.run(jobs) == end
    assert len(jobs.submitted) == 1


def test_records_that_cannot_be_written_end_the_run(bench: Bench) -> None:
    folder = Path(bench.job.tasks[0].path).parent
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way", encoding="utf-8")
    jobs = ToldJobs(lambda job: [bench.record(job, 0), ENDED])
    with pytest.raises(StoreError, match="cannot be written"):
        bench.run(jobs)
    assert jobs.cancelled == [0]


def test_a_stopped_job_is_cancelled(bench: Bench) -> None:
    jobs = ToldJobs(lambda _: [{"event": "node", "host": "n"}, {"event": "task", "index": 0}, None])
    with RayExecutor(bench.nodes(jobs)) as executor:

        def stop(event: dict[str, Any]) -> None:
            if event["event"] == "task":
                executor.stop()

        with pytest.raises(RunStoppedError):
            executor.run(bench.job, bench.log, 60.0, stop)
    assert jobs.cancelled == [0]


def test_a_job_asks_for_a_device_alone_and_its_memory(bench: Bench) -> None:
    jobs = ToldJobs(lambda _: [])
    kind = bench.plan.environment.device_kind
    bench.nodes(jobs).start(bench.job, 60.0)
    bench.nodes(jobs, **{kind: 1.0}).start(bench.job, 60.0)
    plain_need = jobs.submitted[0][1]["memory"]
    bench.nodes(jobs, memory=plain_need / 2).start(bench.job, 60.0)
    plain, with_resource, too_small = (options for _, options in jobs.submitted)
    assert (plain["num_cpus"], plain["num_gpus"]) == (4.0, 0)
    assert plain["label_selector"] == {"ray.io/node-id": "in(abc)"}
    assert 0 < plain["memory"] < 2**33
    assert "resources" not in plain
    assert with_resource["resources"] == {kind: 1}
    assert "memory" not in too_small


def test_a_model_over_several_gpus_gets_all_that_it_was_planned_for(bench: Bench) -> None:
    """From nodes that have as many; any other job gets one GPU of any node."""
    jobs = ToldJobs(lambda _: [])
    on_gpus = {"device_type": "cuda", "gpus_memory_bytes": (2**34, 2**34)}
    environment = bench.plan.environment.model_copy(update=on_gpus)
    plan = replace(bench.plan, environment=environment)
    look = Look("host", environment, 1, "keys", sees_cache=True)
    there = {"one": {"GPU": 1.0, "CPU": 8.0}, "two": {"GPU": 2.0, "CPU": 8.0}}
    seen = [SeenNode(Node(name, resources), look) for name, resources in there.items()]
    nodes = NodesOfKind(plan, seen, jobs, lambda _: [], patience_s=1.0)
    job = bench.job.model_copy(update={"environment": environment})
    laid_over = job.cell.model.model_copy(update={"device_map": "auto"})
    large = job.model_copy(update={"cell": job.cell.model_copy(update={"model": laid_over})})
    nodes.start(job, 60.0)
    nodes.start(large, 60.0)
    small_asks, large_asks = (options for _, options in jobs.submitted)
    assert nodes.places == 3
    assert (small_asks["num_gpus"], small_asks["num_cpus"]) == (1, 1)
    assert small_asks["label_selector"] == {"ray.io/node-id": "in(one,two)"}
    assert large_asks["num_gpus"] == 2
    assert large_asks["label_selector"] == {"ray.io/node-id": "in(two)"}
    assert "memory" not in small_asks


def test_what_jobs_make_for_others_arrives_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made("states", "key")
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / "node"))
    with sealed_folder(made.folder, "key") as waiting:
        (waiting / "states.safetensors").write_bytes(os.urandom(20 * 2**20))
        (waiting / "below").mkdir()
        (waiting / "below" / "empty").write_bytes(b"")
    assert made_under("key") == [made]
    pieces = list(pieces_of(made))
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / "driver"))
    assert made_under("key") == []
    with Arrival(made) as arrival:
        for piece in pieces[:1] + pieces[2:]:  # one was lost
            arrival.add(piece)
        assert "not what was written" in (arrival.finish() or "")
    assert made_under("key") == []
    with Arrival(made) as arrival:
        for piece in pieces:
            arrival.add(piece)
        assert arrival.finish() is None
    assert made_under("key") == [made]
    assert not [path for path in made.folder.parent.iterdir() if path != made.folder]


def test_a_job_needs_what_its_reference_left(workplace: Workplace) -> None:
    workplace.write_suite("fp32", "nf4")
    suite = load_suite(workplace.folder / "suite.yaml")
    plan = make_plan(suite, workplace.folder / "results", device="cpu")
    reference, other = (job for job in plan.jobs(lambda task: not task.item.repeat))
    quality = next(task for task in reference.tasks if task.item.measurement == "quality")
    assert needed_by(reference) == []
    assert needed_by(other) == [Made("states", quality.key)]


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert address_of("ray", None) is None
    assert address_of("ray", "head:6379") == "head:6379"
    assert address_of("ray:head:6379", "other:1") == "head:6379"
    assert address_of("ray://head", None) == "ray://head:10001"
    assert address_of("ray://head:1", None) == "ray://head:1"
    monkeypatch.setenv("RAY_ADDRESS", "ray://there:2")
    assert address_of("ray", None) == "ray://there:2"
    with pytest.raises(UsageError, match="ray://HOST:PORT"):
        address_of("ray://head:port", None)


@pytest.mark.parametrize("address", ["ray:127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_nothing_listens_at_the_address(workplace: Workplace, address: str) -> None:
    workplace.write_suite("fp32")
    suite = load_suite(workplace.folder / "suite.yaml")
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        on = address.format(bound.getsockname()[1])
        engine = engine_for(on, suite, device=None, gpus=None)
        with (
            pytest.raises(UsageError, match=r"cannot be joined .*ray://HOST:10001.*RAY_AUTH_MODE"),
            engine,
        ):
            pass


def test_what_makes_no_sense_on_ray_is_refused(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    suite = load_suite(workplace.folder / "suite.yaml")
    with pytest.raises(UsageError, match="leave --gpus out"):
        engine_for("ray", suite, device=None, gpus="all")
    with pytest.raises(UsageError, match="expected cpu or cuda"):
        engine_for("ray", suite, device="cuda:1", gpus=None)
    with pytest.raises(UsageError, match="no such place"):
        engine_for("rays", suite, device=None, gpus=None)
