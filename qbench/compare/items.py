"""Points of a grid and texts: what an item's parameters say to a reader."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from qbench.core.unchecked import as_mapping
from qbench.precisions import pools_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.record import Record

TASKS = ("tasks", "served_tasks")
"""Measurements of lm-eval's tasks: in this process, and as a server answers them."""
MERGED = "merged"
"""Parameter `against` of items that are not compared with the suite's reference."""
_POINT = ("batch", "prompt_tokens", "new_tokens")
_ORDERED = (*_POINT, "rows")
"""What the points of a grid are put in order by."""
FORWARD_PARAMS = ("forward", "compile_mode", "attention")
"""Parameters of a point that say how its forward runs."""
_FORWARDS = {
    "eager": "eager",
    "static": "static cache",
    "compile": "compiled",
    "cuda-graphs": "CUDA graphs",
}
"""How a forward runs, in words and in the order of tables."""


def items(table: TableRecords, measurement: str) -> dict[str, Record]:
    """A record of each item of a measurement of the untuned cells, by slug: see `items_of`."""
    return items_of(table.cells, measurement)


def items_of(cells: Sequence[CellRecords], measurement: str) -> dict[str, Record]:
    """A record of each item of a measurement by slug: the smallest point of a grid first."""
    found: dict[str, Record] = {}
    for cell in cells:
        for record in cell.of(measurement):
            found.setdefault(record.item.slug, record)
    # sorted is stable: items without such parameters stay in the order they are found
    return dict(sorted(found.items(), key=lambda entry: _point_order(entry[1])))


def first_point(
    cells: Sequence[CellRecords], measurement: str, *, batch: int | None = None
) -> Record | None:
    """The point of a grid for the main tables: of those most cells have, the smallest.

    `batch`: of the points with that batch alone.
    """
    points = {
        slug: record
        for slug, record in items_of(cells, measurement).items()
        if batch is None or record.item.params.get("batch") == batch
    }
    cells_with = {slug: sum(bool(c.of(measurement, slug)) for c in cells) for slug in points}
    most = max(cells_with.values(), default=0)
    return next((record for slug, record in points.items() if cells_with[slug] == most), None)


def task_of(record: Record) -> str:
    """The task's name, or the group's; the item's where a stranger's record has none."""
    return str(as_mapping(record.item.params.get("task")).get("name") or record.item.slug)


def _point_order(record: Record) -> list[float]:
    params = record.item.params
    ways = list(_FORWARDS)
    forward = params.get("forward", "eager")
    return [
        *(_number(params.get(name)) for name in _ORDERED),
        # What a suite that names no way gets comes first.
        ways.index(forward) if forward in ways else len(ways),
        *(params.get(name) is not None for name in ("compile_mode", "attention")),
    ]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def describe_point(record: Record, *, way: bool = True) -> str:
    """A point of a grid in words; its slug where the parameters do not say.

    `way`: whether it says how the forward runs, where that is not the default.
    """
    params = record.item.params
    if not all(name in params for name in _POINT):
        return record.item.slug
    batch, prompt_tokens, new_tokens = (params[name] for name in _POINT)
    sizes = f"batch {batch}, {prompt_tokens} prompt tokens, {new_tokens} new tokens"
    return ", ".join([sizes, *how_taken(record, way=way)])


def how_taken(record: Record, *, way: bool = True) -> list[str]:
    """What is not the default of how a point was taken, in words; `way` as in `describe_point`."""
    params = record.item.params
    chunk = params.get("prefill_chunk")
    words = [] if chunk is None else [f"prefill {chunk} tokens at once"]
    kernel_alone = params.get("forward") is None
    if way and any(params.get(name) is not None for name in FORWARD_PARAMS):
        words.append(describe_way(record).removeprefix("eager, " if kernel_alone else ""))
    return words


def describe_way(record: Record) -> str:
    """How the forward ran, in words: `eager`, `compiled (max-autotune), attention sdpa`."""
    params = record.item.params
    forward = str(params.get("forward", "eager"))
    mode, kernel = params.get("compile_mode"), params.get("attention")
    words = _FORWARDS.get(forward, forward) + (f" ({mode})" if mode else "")
    return words + (f", attention {kernel}" if kernel else "")


def against_merged(record: Record) -> bool:
    """Whether it compares a tuned model with the same one merged in 16 bits."""
    return record.item.params.get("against") == MERGED


def text_name(record: Record) -> str:
    """Name of the text that a quality item was taken on; its slug if it does not say."""
    text = record.item.params.get("text")
    name = text.get("name") if isinstance(text, dict) else text
    if not name:
        return record.item.slug
    suffix = " against the same tuning merged in 16 bits" if against_merged(record) else ""
    return f"{name}{suffix}"


def first_windows(texts: dict[str, Record]) -> dict[str, Record]:
    """For the main tables: of quality items that differ in their window alone, the smallest."""
    smallest: dict[str, Record] = {}
    for record in texts.values():
        rest = {name: one for name, one in record.item.params.items() if name != "window"}
        key = repr(sorted(rest.items()))
        held = smallest.get(key)
        if held is None or _window(record) < _window(held):
            smallest[key] = record
    kept = {record.item.slug for record in smallest.values()}
    return {slug: record for slug, record in texts.items() if slug in kept}


def _window(record: Record) -> float:
    return _number(record.item.params.get("window"))


def text_titles(texts: dict[str, Record]) -> dict[str, str]:
    """A title for each quality item: the text's name, or the slug where that is not unique."""
    names = {slug: text_name(record) for slug, record in texts.items()}
    times = Counter(names.values())
    return {slug: name if times[name] == 1 else slug for slug, name in names.items()}


def batch_told(table: TableRecords, record: Record) -> str:
    """The batch of an item, where figures in the table depend on it; else nothing."""
    batch = record.item.params.get("batch")
    pooled = [cell.label for cell in table.cells if _pools_a_batch(cell)]
    if not isinstance(batch, int) or not pooled:
        return ""
    return f", batches of {batch} (figures of {', '.join(pooled)} depend on them)"


def _pools_a_batch(cell: CellRecords) -> bool:
    return pools_batch(cell.records[0].cell.precision)


def describe_params(params: dict[str, Any]) -> str:
    """Parameters as `key=value`, a nested one by its name or its own parameters."""
    return ", ".join(f"{key}={_describe(value)}" for key, value in params.items())


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        name = value.get("name")
        return str(name) if name else f"({describe_params(value)})"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_describe(each) for each in value) + "]"
    return "none" if value is None else str(value)
