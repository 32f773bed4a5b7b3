"""What two sets of records differ by: of one cell its metrics together, of several each metric."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from qbench.core.page import Charts
from qbench.report.charts.forest import HOW_TO_READ, axis_of, change_of, forest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.compare import Row
    from qbench.core.page import Chart, Part


def comparison_charts(rows: Sequence[Row]) -> list[Part]:
    """The rows that have an interval and a better direction; none where there is none."""
    rows = [row for row in rows if row.better != "neither"]
    one_cell = len({row.cell for row in rows}) == 1
    made = _by_unit(rows) if one_cell else _by_metric(rows)
    charts = tuple(chart for chart in made if chart is not None)
    return [Charts(charts, HOW_TO_READ)] if charts else []


def _by_unit(rows: Sequence[Row]) -> list[Chart | None]:
    """Changes in percent together, and differences in each unit."""
    times = Counter(row.metric for row in rows)
    groups: dict[tuple[bool, str], list[tuple[str, Row]]] = {}
    for row in rows:
        label = row.metric if times[row.metric] == 1 else f"{row.metric} {row.item.slug}"
        relative = row.allowance.relative
        groups.setdefault((relative, "" if relative else row.unit), []).append((label, row))
    return [
        _chart(
            "Changes" if relative else f"Differences in {unit}" if unit != "1" else "Differences",
            found,
            axis_of(unit, relative=relative),
        )
        for (relative, unit), found in groups.items()
    ]


def _by_metric(rows: Sequence[Row]) -> list[Chart | None]:
    """Each metric of each item, its cells below one another."""
    groups: dict[tuple[str, str], list[tuple[str, Row]]] = {}
    for row in rows:
        groups.setdefault((row.metric, row.item.slug), []).append((row.cell.label, row))
    return [
        _chart(
            f"{metric}, {slug}",
            found,
            axis_of(found[0][1].unit, found[0][1].better, relative=found[0][1].allowance.relative),
        )
        for (metric, slug), found in groups.items()
    ]


def _chart(title: str, found: Sequence[tuple[str, Row]], axis: str) -> Chart | None:
    changes = [
        change
        for label, row in found
        if (change := change_of(label, row.difference, row.mark, row.verdict, row.allowance))
    ]
    return forest(title, changes, axis=axis)
