"""The nodes of a Ray cluster with one kind of device: what they have, and how jobs get there."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.cache import cache_folder
from qbench.core.errors import UsageError
from qbench.plan.needs import cell_need
from qbench.running.executors.ray.node import Sent
from qbench.running.executors.travel import needed_by, pieces_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qbench.plan.job import Job
    from qbench.plan.plan import Plan
    from qbench.running.executors.ray.jobs import Jobs
    from qbench.running.executors.ray.node import Look
    from qbench.running.executors.travel import Made


@dataclass(frozen=True)
class Node:
    """A node that is there, as Ray tells of it."""

    id: str
    resources: dict[str, float]

    @property
    def gpus(self) -> int:
        """GPUs that jobs may have there."""
        return int(self.resources.get("GPU", 0))

    @property
    def cpus(self) -> float:
        """Cores that jobs may have there."""
        return self.resources.get("CPU", 0.0)


@dataclass(frozen=True)
class SeenNode:
    """A node, and what was found on it."""

    node: Node
    look: Look


def nodes_there() -> list[Node]:
    """The nodes that live and on which jobs may run, in an order that stays."""
    import ray

    found = [Node(one["NodeID"], one["Resources"]) for one in ray.nodes() if one["Alive"]]
    return sorted((one for one in found if one.gpus or one.cpus), key=lambda node: node.id)


class NodesOfKind:
    """Nodes with one kind of device, on which the suite means the same."""

    def __init__(
        self,
        plan: Plan,
        seen: Sequence[SeenNode],
        jobs: Jobs,
        look_at: Callable[[Sequence[Node]], Sequence[SeenNode]],
        *,
        patience_s: float,
    ) -> None:
        """`look_at` looks at nodes and returns those on which the suite means the same."""
        self.plan = plan
        self.jobs = jobs
        self._look_at = look_at
        self._patience_s = patience_s
        self._seen = {one.node.id: one for one in seen}
        self._refused: set[str] = set()
        """Ids of nodes that were looked at and are of another kind, or not alike."""
        self._last_there = time.monotonic()
        self._sent: dict[Made, Sent] = {}
        self._lock = threading.Lock()
        self._planned = {cell.cell.slug: cell for cell in plan.every}

    @property
    def seen(self) -> list[SeenNode]:
        """The nodes that are known now."""
        return list(self._seen.values())

    @property
    def bundle(self) -> dict[str, float]:
        """What a job asks for, as the cluster's autoscaler reads it."""
        if self._on_gpus:
            return {"GPU": 1.0}
        return {"CPU": min(one.node.cpus for one in self._seen.values())}

    @property
    def places(self) -> int:
        """Jobs that the nodes can run at once: one a GPU, or one a node without."""
        return sum(self._places(one.node) for one in self._seen.values())

    def now(self) -> frozenset[str]:
        """Ids of the nodes that are known now."""
        return frozenset(self._seen)

    def look_again(self) -> None:
        """Takes in nodes that are new. Raises `UsageError` when there has been none for long."""
        with self._lock:
            there = nodes_there()
            known = self._seen.keys() | self._refused
            new = [one for one in there if one.id not in known]
            if new:
                fit = {one.node.id: one for one in self._look_at(new)}
                self._seen |= fit
                self._refused |= {one.id for one in new} - fit.keys()
            if any(one.id in self._seen for one in there):
                self._last_there = time.monotonic()
            gone_s = time.monotonic() - self._last_there
        if gone_s > self._patience_s:
            raise UsageError(
                f"--on ray: no node with {self.plan.environment.device} has been there for"
                f" {gone_s:.0f} s (cluster.ray.patience_s); records so far are kept: run again when"
                " there is one"
            )

    def start(self, job: Job, timeout_s: float) -> int:
        """Submits a job to whichever of the nodes is free first."""
        fit = [one for one in self._seen.values() if one.node.gpus >= self._gpus(job)]
        shared = all(one.look.sees_cache for one in fit)
        cache = str(cache_folder().absolute()) if shared else None
        sent = [] if shared else [self._put(made) for made in needed_by(job) if made.is_here]
        return self.jobs.start(job, timeout_s, cache, sent, self._options(job, fit))

    def _places(self, node: Node) -> int:
        return node.gpus if self._on_gpus else 1

    @property
    def _on_gpus(self) -> bool:
        return self.plan.environment.device_type == "cuda"

    def _gpus(self, job: Job) -> int:
        """One; of a model that is laid over several, as many as were visible to the plan."""
        if not self._on_gpus:
            return 0
        seen = len(job.environment.gpus_memory_bytes) or 1
        return seen if job.cell.model.device_map is not None else 1

    def _options(self, job: Job, fit: Sequence[SeenNode]) -> dict[str, Any]:
        """What a job asks for: its device alone, and the main memory that its cell needs."""
        kind = self.plan.environment.device_kind
        gpus = self._gpus(job)
        nodes = [one.node for one in fit]
        options: dict[str, Any] = {
            "name": f"qbench {job.cell.slug}",
            "label_selector": {"ray.io/node-id": f"in({','.join(node.id for node in nodes)})"},
            # A node's cores are its device; a GPU's job has threads that feed it.
            "num_cpus": min(
                (min(node.cpus, 1) if gpus else node.cpus for node in nodes), default=0
            ),
            "num_gpus": gpus,
        }
        if nodes and all(node.resources.get(kind, 0) >= max(gpus, 1) for node in nodes):
            options["resources"] = {kind: max(gpus, 1)}
        need = None if gpus else self._need_bytes(job)
        most = max((node.resources.get("memory", 0.0) for node in nodes), default=0.0)
        # What fits no node is tried all the same: its record says what it lacked.
        if need is not None and need <= most:
            options["memory"] = need
        return options

    def _need_bytes(self, job: Job) -> int | None:
        planned = self._planned.get(job.cell.slug)
        return None if planned is None else cell_need(planned, self.plan.environment).bytes

    def _put(self, made: Made) -> Sent:
        """Puts a sealed folder of the driver's cache into Ray's object store, once."""
        import ray

        with self._lock:
            if made not in self._sent:
                pieces = tuple(ray.put(tuple(piece)) for piece in pieces_of(made))
                self._sent[made] = Sent(made, pieces)
            return self._sent[made]
