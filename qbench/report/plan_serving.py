"""What a plan starts and sends where cells are put behind servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.options import typed_options
from qbench.core.units import counted
from qbench.measures.serving.options import LoadPoint
from qbench.measures.serving.servers import (
    LOOPBACK,
    ON_SERVERS,
    SERVING,
    server_of,
    words_of,
)
from qbench.measures.tasks.options import TaskParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.spec import Item
    from qbench.measures.serving.servers import ServerOptions
    from qbench.plan.plan import Plan


def serving_lines(plan: Plan) -> list[str]:
    """A line for each server, with the loads that it gets."""
    found: dict[str, list[Item]] = {}
    for task in plan.open_tasks:
        if task.item.measurement in ON_SERVERS:
            label = f"{task.item.measurement} {server_of(task.item.params).label}"
            found.setdefault(label, []).append(task.item)
    return [_line(server_of(items[0].params), items) for items in found.values()]


def _line(server: ServerOptions, items: Sequence[Item]) -> str:
    name = items[0].measurement
    of = _loads if name == SERVING else _tasks
    if server.address is not None:
        verb = "loads" if name == SERVING else "asks"
        does = f"{name} {verb} {server.address} {counted(len(items), 'time')}"
    else:
        program = _own(server) if server.command is None else _command(server)
        does = f"{name} starts {program} {counted(len(items), 'time')}, on {LOOPBACK}"
    return f"{does}: {'; '.join(dict.fromkeys(of(items)))}"


def _loads(items: Sequence[Item]) -> list[str]:
    loads = [typed_options(LoadPoint, item.params) for item in items]
    return [
        f"{one.words}, {one.prompt_tokens} prompt and {one.output_tokens} new tokens, {_end(one)}"
        for one in loads
    ]


def _tasks(items: Sequence[Item]) -> list[str]:
    return [typed_options(TaskParams, item.params).task.name for item in items]


def _own(server: ServerOptions) -> str:
    batching = "with" if server.continuous_batching else "without"
    return f"{server.engine} serve {batching} continuous batching"


def _command(server: ServerOptions) -> str:
    return f"`{' '.join(words_of(server.command or ()))}`"


def _end(load: LoadPoint) -> str:
    ends = [] if load.requests is None else [counted(load.requests, "request")]
    ends += [] if load.seconds is None else [f"{load.seconds:g} s"]
    return " or ".join(ends)
