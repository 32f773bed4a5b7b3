"""The samples of each process of a latency, cell by cell."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from qbench.compare.items import describe_point
from qbench.core.page import Chart
from qbench.core.units import counted
from qbench.report.charts.axes import (
    cell_axis,
    quantity,
    rounded,
    row_height,
    tooltip,
    unit_of,
    with_unit,
)
from qbench.report.figures import finite_value
from qbench.report.latency import TIMED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record

MOST_POINTS = 2_000
"""Samples that one picture shows; of more, as many of each process, evenly spread."""
_FEWEST = 3
"""Samples of a process below which none are shown: its median says as much."""
_PROCESS_ROW = 5
"""Pixels of a process within the row of its cell."""


def latency_chart(records: TableRecords, point: Record, kind: str) -> Chart | None:
    """Of one point of the grid; `kind` is of `TIMED`. None where nothing was timed."""
    slug, name = point.item.slug, f"latency.{kind}"
    timed = [
        (cell.label, record, value)
        for cell in records.cells
        for record in cell.of("latency", slug)
        if record.status == "ok" and (value := finite_value(record.metric(name))) is not None
    ]
    if not timed:
        return None
    unit, divisor = unit_of((value for _, _, value in timed), "seconds")
    shown = min(_most(len(timed)), max(len(_samples(record, name)) for _, record, _ in timed))
    medians: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for label, record, value in timed:
        process: dict[str, Any] = {"cell": label, "process": record.item.repeat + 1}
        medians.append({**process, "value": rounded(value / divisor)})
        samples += [
            {**process, "sample": rounded(one / divisor)}
            for one in thinned(_samples(record, name), shown)
        ]
    cells = len({label for label, _, _ in timed})
    processes = max(Counter(row["cell"] for row in medians).values())
    what = f"time {TIMED[kind]}"
    return Chart(
        f"{kind.capitalize()}, {what}: {describe_point(point)}",
        f"The samples of {kind} and the median of each process, {counted(len(timed), 'process')}"
        f" of {counted(cells, 'cell')} in all.",
        _spec(medians, samples, with_unit(what, unit), processes),
        _caption(shown, any(len(_samples(record, name)) > shown for _, record, _ in timed)),
    )


def thinned(samples: Sequence[float], most: int) -> list[float]:
    """At most so many of the samples, evenly over the time that they were taken in."""
    if len(samples) <= most:
        return list(samples)
    return [samples[at * len(samples) // most] for at in range(most)]


def _most(processes: int) -> int:
    """Samples of each of so many processes."""
    each = MOST_POINTS // processes
    return each if each >= _FEWEST else 0


def _samples(record: Record, name: str) -> Sequence[float]:
    metric = record.metric(name)
    return [one for one in (metric.samples if metric else None) or () if math.isfinite(one)]


def _caption(shown: int, some_left_out: bool) -> str:  # noqa: FBT001
    text = "A line of its own for each process, one below the other; its bar is its median"
    if not shown:
        return f"{text}. The samples are left out, since there are too many processes."
    left_out = f" (of more than {shown}, so many evenly spread ones)" if some_left_out else ""
    return f"{text}, its points are its samples{left_out}."


def _spec(
    medians: list[dict[str, Any]],
    samples: list[dict[str, Any]],
    title: str,
    processes: int,
) -> dict[str, Any]:
    cells = len({row["cell"] for row in medians})
    x = quantity("value", title, scale={"zero": False})
    places: dict[str, Any] = {
        "y": {**cell_axis(), "scale": {"paddingInner": 0.3}},
        "yOffset": {"field": "process", "type": "nominal", "sort": None},
    }
    points = {
        "data": {"values": samples},
        "mark": {"type": "point", "filled": True, "size": 14, "opacity": 0.5},
        "encoding": {
            **places,
            "x": {**x, "field": "sample"},
            "tooltip": tooltip({"cell": "cell", "process": "process", "sample": title}),
        },
    }
    bars = {
        "mark": {"type": "tick", "thickness": 2.5, "size": _PROCESS_ROW + 2},
        "encoding": {
            **places,
            "x": x,
            "tooltip": tooltip({"cell": "cell", "process": "process", "value": f"median {title}"}),
        },
    }
    step = max(row_height(cells)["step"], _PROCESS_ROW * processes + 10)
    return {
        "data": {"values": medians},
        "height": {"step": step, "for": "position"},
        "layer": [*([points] if samples else []), bars],
    }
