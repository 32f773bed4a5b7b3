"""The heat map of needles: length across, depth down, a picture for each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import Chart
from qbench.core.units import counted
from qbench.report.charts.axes import rounded, tooltip
from qbench.report.charts.heat_map import DARKEST, PALEST, ordinal, tiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.compare.selection import CellRecords
    from qbench.report.needle import Grid

MOST_PICTURES = 24
"""Of one grid; further cells are in the table alone."""
_ROW = 26
_MOST_WRITTEN = 10
"""Lengths up to which there is room to write the share into each tile."""


def needle_charts(grids: Sequence[Grid]) -> Iterator[Chart]:
    """A picture of each cell of each grid, the reference first."""
    for grid in grids:
        for cell, found in grid.found[:MOST_PICTURES]:
            yield _chart(grid, cell, found)


def _chart(grid: Grid, cell: CellRecords, found: dict[tuple[int, float], float]) -> Chart:
    written = len(grid.lengths) <= _MOST_WRITTEN
    rows = [
        {
            "length": f"{length:,}",
            "depth": f"{depth:g} %",
            "share": rounded(share),
            "percent": f"{100 * share:.0f}",
        }
        for (length, depth), share in sorted(found.items())
    ]
    places: dict[str, Any] = {
        "x": ordinal("length", "tokens", [f"{length:,}" for length in grid.lengths]),
        "y": ordinal("depth", "depth", [f"{depth:g} %" for depth in grid.depths]),
        "tooltip": tooltip({"length": "tokens", "depth": "depth", "percent": "found (%)"}),
    }
    shade: dict[str, Any] = {
        "field": "share",
        "type": "quantitative",
        "scale": {"domain": [0, 1], "range": [PALEST, DARKEST]},
        "legend": None if written else {"title": "share found"},
    }
    mean = sum(found.values()) / len(found)
    name = f"{cell.label} (reference)" if cell.reference else cell.label
    told = "In each tile the percent that were found." if written else ""
    return Chart(
        f"{name}: {grid.name}",
        f"Share of the needles that {cell.label} found at {counted(len(grid.lengths), 'length')}"
        f" and {counted(len(grid.depths), 'depth')}: {100 * mean:.0f} % of all.",
        tiles(rows, places, shade, "percent" if written else None, step=_ROW),
        f"{counted(grid.needles, 'needle')} at each length and depth, the same ones in every cell."
        f" {told}",
    )
