"""What a plan starts and sends where cells are put behind servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.options import typed_options
from qbench.core.units import counted
from qbench.measures.serving.options import LoadPoint
from qbench.measures.serving.servers import LOOPBACK, SERVING, server_of, words_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.spec import Item
    from qbench.measures.serving.servers import ServerOptions
    from qbench.plan.plan import Plan


def serving_lines(plan: Plan) -> list[str]:
    """A line for each server, with the loads that it gets."""
    found: dict[str, list[Item]] = {}
    for task in plan.open_tasks:
        if task.item.measurement == SERVING:
            found.setdefault(server_of(task.item.params).label, []).append(task.item)
    return [_line(server_of(items[0].params), items) for items in found.values()]


def _line(server: ServerOptions, items: Sequence[Item]) -> str:
    loads = [typed_options(LoadPoint, item.params) for item in items]
    kinds = dict.fromkeys(
        f"{one.words}, {one.prompt_tokens} prompt and {one.output_tokens} new tokens, {_end(one)}"
        for one in loads
    )
    if server.address is not None:
        does = f"serving loads {server.address} {counted(len(items), 'time')}"
    else:
        program = _own(server) if server.command is None else _command(server)
        does = f"serving starts {program} {counted(len(items), 'time')}, on {LOOPBACK}"
    return f"{does}: {'; '.join(kinds)}"


def _own(server: ServerOptions) -> str:
    batching = "with" if server.continuous_batching else "without"
    return f"{server.engine} serve {batching} continuous batching"


def _command(server: ServerOptions) -> str:
    return f"`{' '.join(words_of(server.command or ()))}`"


def _end(load: LoadPoint) -> str:
    ends = [] if load.requests is None else [counted(load.requests, "request")]
    ends += [] if load.seconds is None else [f"{load.seconds:g} s"]
    return " or ".join(ends)
