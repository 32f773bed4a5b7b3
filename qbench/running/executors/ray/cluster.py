"""The engine of a Ray cluster: its nodes by their devices, and each job a task on one of them."""

from __future__ import annotations

import secrets
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qbench.core.cache import cache_folder
from qbench.core.errors import DeviceError, Problem, StoreError, UsageError
from qbench.core.files import waiting_folder
from qbench.core.git import git_revision
from qbench.core.store import check_writable
from qbench.core.units import counted
from qbench.plan.suite.cluster_ray import ALL, RaySection
from qbench.running.executors.executor import Column
from qbench.running.executors.ray.alike import (
    environment_of,
    named,
    refuse_errors,
    refuse_unlike,
    unlikeness,
)
from qbench.running.executors.ray.connection import address_of, connected
from qbench.running.executors.ray.executor import RayExecutor
from qbench.running.executors.ray.jobs import JobsOnHead, OwnJobs, last_line, on_node, remote
from qbench.running.executors.ray.node import Gpus, Look, Marker, find_problems, look
from qbench.running.executors.ray.nodes import Node, NodesOfKind, SeenNode, nodes_there
from qbench.running.preflight.check import problems as problems_here

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.plan.job import Job
    from qbench.plan.plan import Plan
    from qbench.plan.suite.suite import Suite
    from qbench.running.executors.executor import Asked, Executor, Slot
    from qbench.running.executors.ray.jobs import Jobs

LOOK_S = 600.0
"""In which a node has to lay the suite out, or to look for problems; one that does not is left out.
"""
_NONE_ANSWERED = (
    f"--on ray: no node of the cluster answered within {LOOK_S:.0f} s, or all were lost meanwhile;"
    " look at it with `ray status`, and run again"
)
_DEVICES = ("cpu", "cuda", "auto", None)


class RayCluster:
    """Runs jobs on the nodes of a cluster; a context manager that leaves nothing running there."""

    def __init__(self, on: str, suite: Suite, device: str | None, gpus: str | None) -> None:
        """`on` is `ray`, `ray://HOST:PORT` or `ray:HOST:PORT`. Raises `UsageError`."""
        if gpus is not None:
            raise UsageError(
                f"found --gpus {gpus} and --on {on}; Ray gives each job its GPU: leave --gpus out,"
                " or limit the jobs at once with --set cluster.ray.at_once=N"
            )
        if device not in _DEVICES:
            raise DeviceError(
                f"--device {device!r} with --on {on}: expected cpu or cuda: Ray gives each job its"
                " GPU"
            )
        self._device = None if device == "auto" else device
        self._section = suite.cluster.ray or RaySection()
        self._address = address_of(on, self._section.address)
        self._stack = ExitStack()
        self._kinds: dict[str, NodesOfKind] = {}

    def __enter__(self) -> Self:
        """Joins the cluster."""
        with ExitStack() as stack:
            as_client = stack.enter_context(connected(self._address))
            self._jobs: Jobs = JobsOnHead() if as_client else OwnJobs()
            self._marker = self._mark(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves it, which ends what still runs."""
        self._stack.close()

    def columns(self, asked: Asked) -> list[Column]:
        """The suite on each kind of device that was chosen.

        Raises `UsageError` for kinds among which nobody chose, and for nodes of a kind on which the
        suite means different things.
        """
        check_writable(asked.results)  # before anybody waits for a node
        revision = git_revision(Path.cwd())
        self._asked = replace(asked, results=asked.results.absolute()), revision
        nodes = [one for one in nodes_there() if self._device_of(one) is not None]
        if not nodes:
            what = "GPUs" if self._device == "cuda" else "CPUs or GPUs"
            raise UsageError(
                f"--on ray: the cluster has no node with {what} for jobs (`ray status` lists"
                " them); add one with `ray start --address …`"
            )
        asked.note(f"Ray: waiting for a look at {counted(len(nodes), 'node')}")
        found, late = self._looked(nodes)
        if not found:
            raise UsageError(_NONE_ANSWERED)
        refuse_errors([one for one, _ in found], nodes)
        of_kind: dict[str, list[tuple[SeenNode, Any]]] = defaultdict(list)
        for one, plan in found:
            of_kind[environment_of(one).device_kind].append((one, plan))
        chosen = self._chosen(of_kind)
        return [self._column(of_kind[kind], late) for kind in chosen]

    def problems(self, column: Column, jobs: Sequence[Job], results: Path) -> list[Problem]:
        """What is found on each node; one that many have is told once."""
        import ray

        if not jobs:
            return problems_here(column.plan, (), results)
        kind = self._kinds[column.kind]
        told = ray.put((column.plan, list(jobs)))
        asked = [
            (
                one.look.host,
                remote(find_problems, **on_node(one.node.id)).remote(
                    told, self._marker.cache if self._marker and one.look.sees_cache else None
                ),
            )
            for one in kind.seen
        ]
        hosts: dict[Problem, list[str]] = defaultdict(list)
        for host, reference in asked:
            try:
                for problem in ray.get(reference, timeout=LOOK_S):
                    hosts[problem].append(host)
            except (ray.exceptions.RayTaskError, ray.exceptions.GetTimeoutError) as error:
                hosts[_silent(error)].append(host)
            except ray.exceptions.RayError:  # lost meanwhile: what runs, runs elsewhere
                continue
        return [
            problem
            if len(where) == len(asked)
            else replace(problem, place=f"{problem.place} on {named(where)}")
            for problem, where in hosts.items()
        ]

    def executor(self, slot: Slot, jobs: Sequence[Job]) -> Executor:
        """One that submits a job to whichever node of the slot's kind is free."""
        return RayExecutor(self._kinds[slot.kind])

    def _mark(self, stack: ExitStack) -> Marker | None:
        """A marker in the driver's cache; None where each node keeps its own cache."""
        if self._section.cache == "own":
            return None
        cache = cache_folder().absolute()
        word = secrets.token_hex(16)
        try:
            folder = stack.enter_context(waiting_folder(cache / "seen-by-nodes"))
            (folder / "word").write_text(word, encoding="utf-8")
        except OSError as error:
            raise StoreError(
                f"{cache}: the cache cannot be written ({error.strerror}); free space, or name"
                " another folder with the environment variable QBENCH_CACHE"
            ) from error
        return Marker(str(cache), f"{folder.name}/word", word)

    def _device_of(self, node: Node) -> str | None:
        """The device to measure on at a node; None where it has none that is asked for."""
        if node.gpus and self._device != "cpu":
            return "cuda"
        return "cpu" if node.cpus and self._device != "cuda" else None

    def _looked(self, nodes: Sequence[Node]) -> tuple[list[tuple[SeenNode, Any]], int]:
        """What is found on nodes, each with a reference to its plan; how many did not answer."""
        import ray

        asked, revision = self._asked
        told = ray.put(asked)
        pairs = []
        for node in nodes:
            task = remote(look, num_returns=2, **on_node(node.id))
            stated = self._section.gpus
            gpus = Gpus(min(node.gpus, stated or node.gpus) or None, by_peak=stated is None)
            device = self._device_of(node)
            pairs.append((node, task.remote(told, device, gpus, revision, self._marker)))
        ray.wait([facts for _, (facts, _) in pairs], num_returns=len(pairs), timeout=LOOK_S)
        found, late = [], 0
        for node, (facts, plan) in pairs:
            try:
                found.append((SeenNode(node, ray.get(facts, timeout=0)), plan))
            except ray.exceptions.GetTimeoutError:
                ray.cancel(facts, force=True)
                late += 1
            except ray.exceptions.RayTaskError as error:
                found.append((SeenNode(node, _unusable(node, error)), plan))
            except ray.exceptions.RayError:  # it was lost meanwhile
                late += 1
        return found, late

    def _chosen(self, of_kind: dict[str, list[tuple[SeenNode, Any]]]) -> list[str]:
        """The kinds to measure on: those that the suite names, else the only one there is."""
        names = {kind: environment_of(seen[0][0]).device for kind, seen in of_kind.items()}
        there = "; ".join(
            f"{kind} ({names[kind]}, {counted(len(seen), 'node')})"
            for kind, seen in sorted(of_kind.items())
        )
        wanted = self._section.devices
        if ALL in wanted:
            return sorted(of_kind)
        unknown = [one for one in wanted if one not in {*names, *names.values()}]
        if unknown:
            raise UsageError(
                f"cluster.ray.devices: {', '.join(unknown)}: no such device; the cluster has"
                f" {there}; name some of them, or all"
            )
        gpus = [
            k for k in sorted(of_kind) if environment_of(of_kind[k][0][0]).device_type == "cuda"
        ]
        chosen = [k for k in sorted(of_kind) if k in wanted or names[k] in wanted]
        chosen = chosen or gpus or sorted(of_kind)
        if len(chosen) > 1 and not wanted:
            raise UsageError(
                f"--on ray: the cluster has devices of several kinds: {there}; figures of one do"
                " not stand for another: choose with --set 'cluster.ray.devices=[…]', each in a"
                " column of its own, or --set cluster.ray.devices=all"
            )
        return chosen

    def _column(self, found: list[tuple[SeenNode, Any]], late: int) -> Column:
        """The plan of the first node, once the others' are the same."""
        first, alike = found[0][0], [one for one, _ in found]
        refuse_unlike(first, alike)
        plan = _first_there([plan for _, plan in found])
        notes = [plan.device_note] if plan.device_note else []
        if late:
            notes.append(
                f"{counted(late, 'node')} did not answer within {LOOK_S:.0f} s, or were lost"
                " meanwhile: left out until they do"
            )
        plan = replace(plan, device_note="; ".join(notes) or None)
        kind = plan.environment.device_kind

        def look_at(nodes: Sequence[Node]) -> list[SeenNode]:
            new = [one for one in nodes if self._device_of(one) is not None]
            seen = [one for one, _ in self._looked(new)[0]]
            return [one for one in seen if not one.look.error and not unlikeness(first, one)]

        nodes = NodesOfKind(plan, alike, self._jobs, look_at, patience_s=self._section.patience_s)
        self._kinds[kind] = nodes
        count = self._section.at_once or nodes.places
        if count > nodes.places:
            self._ask_for_more(nodes, count)
        return Column(plan, tuple(f"{kind} {number + 1}" for number in range(count)))

    def _ask_for_more(self, nodes: NodesOfKind, count: int) -> None:
        self._jobs.ask_for([nodes.bundle] * count)
        self._stack.callback(self._jobs.ask_for, [])


def _first_there(plans: Sequence[Any]) -> Plan:
    """The first plan whose node still lives; they are the same."""
    import ray

    for reference in plans:
        try:
            plan: Plan = ray.get(reference, timeout=LOOK_S)
        except ray.exceptions.RayError:
            continue
        return plan
    raise UsageError(_NONE_ANSWERED)


def _unusable(node: Node, error: Exception) -> Look:
    said = last_line(error)
    return Look(node.id[:8], error=f"qbench cannot run there ({said}); install it on all nodes")


def _silent(error: Exception) -> Problem:
    said = last_line(error)
    return Problem("node", f"could not look for problems ({said})", remedy="see `ray status`")
