"""Jobs on a cluster, moment by moment, in the order in which a real run gives them out.

A job takes its GPUs on one node from when it is given out until it ends: while it starts, fetches
its model, loads and measures. Links and disks serve one request after the other at their full
rate, so that what they move in a time is what they would move shared fairly.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.running.executors.side_by_side import Order

if TYPE_CHECKING:
    from collections.abc import Sequence

_GB = 10**9
Cache = Literal["nodes", "shared", "copies"]


@dataclass(frozen=True)
class Load:
    """What one job asks of a cluster."""

    busy_s: float
    """From the loaded files on: everything but moving bytes, and the start of its process."""
    read_bytes: int = 0
    """Of the model's files, by all that reads them."""
    model: str = ""
    model_bytes: int = 0
    """What must have been downloaded before it can load."""
    gpus: int = 1


@dataclass(frozen=True)
class Cluster:
    """Nodes, and how fast they get bytes. Rates in bytes a second."""

    gpus: int
    node_gpus: int = 8
    start_s: float = 8.0
    """Of a worker's process until it looks for its model."""
    hub_rate: float | None = 1.25 * _GB
    """Of the whole cluster's way to the hub: 10 Gbit/s. None where every model is there."""
    node_rate: float = 2.5 * _GB
    """Of a node's way to the shared file system, 25 Gbit/s less what protocols take."""
    shared_rate: float = 40.0 * _GB
    """Of the shared file system, to all nodes together."""
    local_rate: float = 5.0 * _GB
    """Of a node's own disk."""
    cache: Cache = "shared"
    """`shared`: a download serves all nodes, and every load reads the shared file system. `nodes`:
    each node downloads what it needs to its own disk. `copies`: downloaded once, then copied once
    to the disk of each node that needs it."""

    @property
    def sizes(self) -> list[int]:
        """GPUs of each node; the last may have fewer."""
        whole, rest = divmod(self.gpus, self.node_gpus)
        return [self.node_gpus] * whole + ([rest] if rest else [])


@dataclass
class Outcome:
    """What became of a run."""

    makespan_s: float = 0.0
    gpu_s: float = 0.0
    """GPU seconds between the beginnings and ends of jobs."""
    idle_gpu_s: float = 0.0
    """Of these, those in which jobs wait for others to have got their bytes."""
    hub_bytes: int = 0
    shared_bytes: int = 0


def critical_path(
    loads: Sequence[Load], needed: Sequence[frozenset[int]], cluster: Cluster
) -> list[float]:
    """For each job the least seconds from its begin to the end of the last that waits for it."""
    longest = [least_s(load, cluster) for load in loads]
    tail = [0.0] * len(loads)
    for at in range(len(loads) - 1, -1, -1):
        longest[at] += tail[at]
        for before in needed[at]:
            tail[before] = max(tail[before], longest[at])
    return longest


def least_s(load: Load, cluster: Cluster) -> float:
    """Seconds that a job takes where nothing else uses any link and its model is downloaded."""
    rate = cluster.node_rate if cluster.cache == "shared" else cluster.local_rate
    return cluster.start_s + load.read_bytes / rate + load.busy_s


def simulate(
    loads: Sequence[Load],
    needed: Sequence[frozenset[int]],
    cluster: Cluster,
    ranks: Sequence[float] | None = None,
) -> Outcome:
    """Gives out each job once those that it needs have ended, by rank and place as a run does.

    A job of several GPUs for which no node has enough keeps the emptiest node free until there are;
    others go past it elsewhere. Raises ValueError for a job that no node can take.
    """
    if max((load.gpus for load in loads), default=0) > max(cluster.sizes):
        raise ValueError("a job needs more GPUs than a node has")
    return _Run(loads, needed, cluster, ranks or [0.0] * len(loads)).outcome()


class _Run:
    def __init__(
        self,
        loads: Sequence[Load],
        needed: Sequence[frozenset[int]],
        cluster: Cluster,
        ranks: Sequence[float],
    ) -> None:
        self._loads, self._cluster = loads, cluster
        self._order = Order([str(load.gpus) for load in loads], needed, ranks)
        self._sizes = cluster.sizes
        self._free = [*self._sizes]
        self._ends: list[tuple[float, int, int]] = []
        self._hub_free = self._shared_free = 0.0
        self._node_free = [0.0] * len(self._free)
        self._there: dict[tuple[str, int | None], float] = {}
        """When a model's files are at a place: a node, or None for the shared file system."""
        self._outcome = Outcome()

    def outcome(self) -> Outcome:
        now = 0.0
        while self._order.left:
            self._give_out(now)
            now, at, node = heapq.heappop(self._ends)
            self._free[node] += self._loads[at].gpus
            self._order.ended(at)
        self._outcome.makespan_s = now
        return self._outcome

    def _give_out(self, now: float) -> None:
        kept: set[int] = set()
        blocked: set[str] = set()
        while True:
            heads = [
                (heap[0], kind)
                for kind, heap in self._order.ready.items()
                if heap and kind not in blocked
            ]
            if not heads:
                break
            (_, at), kind = min(heads)
            gpus = self._loads[at].gpus
            open_nodes = [node for node in range(len(self._free)) if node not in kept]
            fitting = [node for node in open_nodes if self._free[node] >= gpus]
            if fitting:
                heapq.heappop(self._order.ready[kind])
                # Where little else is free: whole nodes stay for what needs them.
                self._begin(at, min(fitting, key=lambda one: (self._free[one], one)), now)
                continue
            blocked.add(kind)
            if gpus > 1:
                large = [one for one in open_nodes if self._sizes[one] >= gpus]
                large.sort(key=lambda one: (-self._free[one], one))
                # As many nodes become free for the jobs of this size as there are of them.
                kept |= set(large[: len(self._order.ready[kind])])

    def _begin(self, at: int, node: int, now: float) -> None:
        load, cluster = self._loads[at], self._cluster
        self._free[node] -= load.gpus
        asked = now + cluster.start_s
        there = self._fetched(load, node, asked)
        if cluster.cache == "shared":
            loaded = self._read_shared(load.read_bytes, node, there)
        else:
            loaded = there + load.read_bytes / cluster.local_rate
        end = loaded + load.busy_s
        heapq.heappush(self._ends, (end, at, node))
        self._outcome.gpu_s += load.gpus * (end - now)
        self._outcome.idle_gpu_s += load.gpus * (end - now - least_s(load, cluster))

    def _fetched(self, load: Load, node: int, asked: float) -> float:
        """When the model's files are where the job loads them from."""
        if not load.model_bytes:
            return asked
        cache = self._cluster.cache
        place = node if cache == "nodes" else None
        rate = self._cluster.hub_rate
        there = asked
        if rate is not None:
            if (load.model, place) not in self._there:
                self._hub_free = max(self._hub_free, asked) + load.model_bytes / rate
                self._outcome.hub_bytes += load.model_bytes
                self._there[load.model, place] = self._hub_free
            there = max(asked, self._there[load.model, place])
        if cache == "copies":
            if (load.model, node) not in self._there:
                self._there[load.model, node] = self._read_shared(load.model_bytes, node, there)
            there = max(asked, self._there[load.model, node])
        return there

    def _read_shared(self, size: int, node: int, asked: float) -> float:
        """When so many bytes of the shared file system are at a node."""
        self._outcome.shared_bytes += size
        self._shared_free = max(self._shared_free, asked) + size / self._cluster.shared_rate
        self._node_free[node] = max(self._node_free[node], asked) + size / self._cluster.node_rate
        return max(self._shared_free, self._node_free[node])
