"""Whether nodes of a cluster are alike: whether a suite means the same on them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from qbench.core.errors import UsageError
from qbench.running.executors.node import differences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.running.executors.ray.nodes import Node, SeenNode

_MOST_NAMED = 8


def unlikeness(one: SeenNode, other: SeenNode) -> str:
    """Why the suite does not mean the same on two nodes, in words; empty where it does."""
    mine, theirs = environment_of(one), environment_of(other)
    differs = differences(mine, theirs)
    if differs:
        return differs
    if mine.device_type == "cpu" and one.look.threads != other.look.threads:
        return (
            f"{one.look.threads} threads of torch there, {other.look.threads} here"
            " (OMP_NUM_THREADS of the process that `ray start` left)"
        )
    if one.look.keys == other.look.keys:
        return ""
    counts = len(mine.gpus_memory_bytes), len(theirs.gpus_memory_bytes)
    if counts[0] != counts[1]:
        return (
            f"a model with device_map would be laid over {counts[0]} GPUs there, over {counts[1]}"
            " here; set cluster.ray.gpus to a number that all have"
        )
    return "models, texts or data of the suite have other contents here"


def refuse_errors(seen: Sequence[SeenNode], nodes: Sequence[Node]) -> None:
    """Raises `UsageError` where the suite cannot be laid out on a node."""
    by_error: dict[str, list[str]] = defaultdict(list)
    for one in seen:
        if one.look.error:
            by_error[one.look.error].append(one.look.host)
    if not by_error:
        return
    lines = [
        error if len(hosts) == len(nodes) else f"on {named(hosts)}: {error}"
        for error, hosts in by_error.items()
    ]
    raise UsageError("\n".join(lines))


def refuse_unlike(first: SeenNode, alike: Sequence[SeenNode]) -> None:
    """Raises `UsageError` for nodes of one kind on which the suite means different things."""
    why: dict[str, list[str]] = defaultdict(list)
    for one in alike[1:]:
        differs = unlikeness(first, one)
        if differs:
            why[differs].append(one.look.host)
    if why:
        device = environment_of(first).device
        lines = [f"on {named(hosts)}: {differs}" for differs, hosts in why.items()]
        raise UsageError(
            f"--on ray: nodes with {device} are not alike, as {first.look.host} is:\n"
            + "\n".join(lines)
            + "\nmake them alike, or take nodes out of the cluster"
        )


def environment_of(seen: SeenNode) -> Any:
    """The node's; of one where the suite could be laid out."""
    return seen.look.environment


def named(hosts: Sequence[str]) -> str:
    """The first of some hosts, and how many more there are."""
    names = list(dict.fromkeys(hosts))
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
