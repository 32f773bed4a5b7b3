"""What runs in Ray's workers, on the nodes: a look at the node, and jobs.

A worker of Ray's only waits: a job runs in processes of its own, as on any machine, under the
conditions that a run on this node would find. So the variables that Ray sets for its workers are
set back to those of the node's own process of Ray's, which started this one.
"""

from __future__ import annotations

import hashlib
import os
import platform
import queue
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.cpu import compute_threads
from qbench.core.environment import detect_environment
from qbench.core.errors import NotKeptError, UsageError
from qbench.core.nvml import visible_gpus
from qbench.plan.needs import gpus_needed
from qbench.running.executors.executor import JobEnd
from qbench.running.executors.node import end_of, plan_on_node, problems_on_node, run_on_node
from qbench.running.executors.travel import Arrival, Made, Piece, made_under, pieces_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.core.errors import Problem
    from qbench.core.record import Environment
    from qbench.plan.job import Job
    from qbench.plan.plan import Plan
    from qbench.running.executors.executor import Asked

_MARKER_TRIES = 5
_MARKER_PAUSE_S = 0.5
"""How long a marker is looked for: a network's disk shows new files late."""


@dataclass(frozen=True)
class Marker:
    """A file in the driver's cache, by which a node finds whether it sees that cache."""

    cache: str
    name: str
    word: str

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.cache) / self.name

    @property
    def is_seen(self) -> bool:
        """Whether it is there with its word."""
        for _ in range(_MARKER_TRIES):
            try:
                return self.path.read_text(encoding="utf-8") == self.word
            except OSError:
                if not Path(self.cache).is_dir():
                    return False
                time.sleep(_MARKER_PAUSE_S)
        return False


@dataclass(frozen=True)
class Look:
    """What is found on a node, before anything runs there."""

    host: str
    environment: Environment | None = None
    threads: int = 0
    """That torch computes with on the CPU."""
    keys: str = ""
    """Hash over the keys of all records that the suite asks for there."""
    sees_cache: bool = False
    """Whether the driver's cache is seen there."""
    error: str | None = None
    """Why the suite cannot be laid out there; all else is empty then."""


@dataclass(frozen=True)
class Gpus:
    """Those that a job of a model with `device_map` is laid over on a node."""

    most: int | None
    """What it may see there; None where Ray has no GPU to give."""
    by_peak: bool
    """Whether it sees no more than the largest of them is predicted to need, where that is known:
    its layers run one after the other, so that more are held and not used."""


@dataclass(frozen=True)
class Sent:
    """A sealed folder on its way to a node."""

    made: Made
    pieces: tuple[Any, ...]
    """References to pieces in Ray's object store, in order."""


def look(
    asked: Asked,
    device: str,
    gpus: Gpus,
    git_revision: str | None,
    marker: Marker | None,
) -> tuple[Look, Plan | None]:
    """Lays the suite out on this node, on `cpu` or `cuda`.

    Without a marker the node's own cache is used.
    """
    _as_on_this_node()
    if gpus.most is not None:
        _let_see(gpus.most)
    sees_cache = marker is not None and marker.is_seen
    if marker is not None and sees_cache:
        os.environ["QBENCH_CACHE"] = marker.cache
    host = platform.node()
    try:
        plan = plan_on_node(asked, device, git_revision)
        needed = gpus_needed(plan) if gpus.by_peak else None
        if needed is not None and needed < len(plan.environment.gpus_memory_bytes):
            _let_see(needed)
            plan = plan_on_node(asked, device, git_revision)
        environment = detect_environment(plan.device)
    except UsageError as error:
        return Look(host, error=str(error)), None
    except Exception as error:  # noqa: BLE001 - told with the node's name, whatever it is
        return Look(host, error=f"{type(error).__name__}: {error}"), None
    keys = hashlib.sha256(
        "\n".join(task.key for cell in plan.every for task in cell.tasks).encode()
    )
    return Look(host, environment, compute_threads(), keys.hexdigest(), sees_cache), plan


def find_problems(told: tuple[Plan, Sequence[Job]], cache: str | None) -> list[Problem]:
    """What would prevent the jobs of a plan on this node."""
    _as_on_this_node()
    _use_cache(cache)
    return problems_on_node(*told)


def run(
    job: Job, timeout_s: float, cache: str | None, sent: Sequence[Sent]
) -> Iterator[dict[str, Any]]:
    """The events of a job that runs on this node; the last one is its end.

    `cache` is the driver's, where this node sees it. Otherwise `sent` is what others made for the
    job, and what this one makes for others is told in events, before the record of what made it:

        {"event": "node", "host": "…"}                                     the job is here
        {"event": "made", "what": "states", "key": "…", "file": "…", "data": b"…"}
        {"event": "made_all", "what": "states", "key": "…"}
        {"event": "ended", "how": "finished", "reason": None}
    """
    _as_on_this_node(gpus_by_ray=True)
    _use_cache(cache)
    yield {"event": "node", "host": platform.node()}
    try:
        for one in sent:
            _take_in(one)
    except (NotKeptError, OSError) as error:
        yield _ended(JobEnd("crash", f"{platform.node()}: {error}"))
        return
    events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def work() -> None:
        try:
            end = run_on_node(job, timeout_s, events.put)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the job's end
            end = end_of(error)
        events.put(_ended(end))

    threading.Thread(target=work, daemon=True).start()
    while True:
        event = events.get()
        if event["event"] == "record" and cache is None:
            yield from _for_others(job.tasks[event["index"]].key)
        yield event
        if event["event"] == "ended":
            return


def _ended(end: JobEnd) -> dict[str, Any]:
    return {"event": "ended", **asdict(end)}


def _for_others(key: str) -> Iterator[dict[str, Any]]:
    for made in made_under(key):
        for piece in pieces_of(made):
            yield {"event": "made", **made._asdict(), **piece._asdict()}
        yield {"event": "made_all", **made._asdict()}


def _take_in(sent: Sent) -> None:
    """Puts what was sent into this node's cache, unless it is there."""
    import ray

    if sent.made.is_here:
        return
    with Arrival(sent.made) as arrival:
        for reference in sent.pieces:
            arrival.add(Piece(*ray.get(reference)))
        damage = arrival.finish()
    if damage is not None:
        raise NotKeptError(f"{sent.made.folder}: did not arrive whole: {damage}; run again")


def _use_cache(cache: str | None) -> None:
    if cache is not None:
        os.environ["QBENCH_CACHE"] = cache


def _as_on_this_node(*, gpus_by_ray: bool = False) -> None:
    """Sets back what Ray changed for its workers, but for the GPUs that it gave a job."""
    names = ("OMP_NUM_THREADS", *(() if gpus_by_ray else ("CUDA_VISIBLE_DEVICES",)))
    try:
        text = Path(f"/proc/{os.getppid()}/environ").read_bytes().decode(errors="replace")
    except OSError:  # not on Linux, or the node's process has ended
        return
    before = dict(line.partition("=")[::2] for line in text.split("\0") if line)
    for name in names:
        if name in before:
            os.environ[name] = before[name]
        else:
            os.environ.pop(name, None)


def _let_see(gpus: int) -> None:
    """Leaves so many of the visible GPUs visible."""
    visible_gpus.cache_clear()
    seen = visible_gpus()
    if gpus < len(seen):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.uuid for gpu in seen[:gpus])
        visible_gpus.cache_clear()
