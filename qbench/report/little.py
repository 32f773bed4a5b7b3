"""What was measured so little that its intervals are wide, in one sentence."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from qbench.core.units import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.core.record import Record

FEW_PROCESSES = 3
"""Processes of a time below which their spread says next to nothing."""
FEW_ITEMS = 100
"""Windows of a text, or items of a task, below which an interval is wide."""
_IN_PROCESSES = ("latency", "kernels", "serving")
"""Measurements of times that are taken in several processes."""
_LIMITED = {"quality": "window", "tasks": "item", "served_tasks": "item"}


def little_measured(records: Iterable[Record]) -> str | None:
    """Says so of times taken in few processes, and of texts and tasks that are cut short.

    None where there is nothing of the kind.
    """
    processes: dict[tuple[str, str], set[int]] = defaultdict(set)
    least: dict[str, int] = {}
    for record in records:
        item = record.item
        limit = item.params.get("limit")
        if record.status != "ok":
            continue
        if item.measurement in _IN_PROCESSES:
            processes[record.cell.slug, item.slug].add(item.repeat)
        elif item.measurement in _LIMITED and isinstance(limit, int) and limit < FEW_ITEMS:
            kind = _LIMITED[item.measurement]
            least[kind] = min(limit, least.get(kind, limit))
    few = min(map(len, processes.values()), default=FEW_PROCESSES)
    told = [f"times in {counted(few, 'process')}"] if few < FEW_PROCESSES else []
    of = {"window": "of a text", "item": "of a task"}
    told += [f"{counted(count, kind)} {of[kind]}" for kind, count in least.items()]
    if not told:
        return None
    return f"Little was measured, so that intervals are wide: {', '.join(told)}."
