"""Small pictures of what grows with the context, a line a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import Chart
from qbench.core.units import counted
from qbench.report.charts.axes import quantity, rounded, tooltip, unit_of, with_unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.report.over_length import OverLength

_COLOURS = 10
"""Cells that the page has colours for; of more the lines differ too."""
_HEIGHT = 200
_CAPTION = (
    "Lengths go by powers of two, each line is a cell. The numbers stand in the tables of the"
    " details."
)


def length_charts(every: Sequence[OverLength]) -> Iterator[Chart]:
    """A picture of each figure that a cell has at two lengths; a cell has one colour in all."""
    cells = list(dict.fromkeys(cell.label for found in every for cell, _ in found.rows))
    for found in every:
        chart = _length_chart(found, cells)
        if chart is not None:
            yield chart


def _length_chart(found: OverLength, cells: Sequence[str]) -> Chart | None:
    drawn = {
        cell.label: [
            (length, figure.value)
            for length, figure in zip(found.lengths, figures, strict=True)
            if figure.value is not None
        ]
        for cell, figures in found.rows
    }
    drawn = {label: points for label, points in drawn.items() if len(points) > 1}
    if not drawn:
        return None
    values = [value for points in drawn.values() for _, value in points]
    unit, divisor = unit_of(values, found.display)
    rows = [
        {"cell": label, "tokens": length, "value": rounded(value / divisor)}
        for label, points in drawn.items()
        for length, value in points
    ]
    title = with_unit(found.what, unit)
    return Chart(
        found.title,
        f"{found.what} of {counted(len(drawn), 'cell')} from {found.lengths[0]:,} to"
        f" {found.lengths[-1]:,}: {found.axis}.",
        _spec(rows, found, title, cells),
        _CAPTION,
    )


def _spec(
    rows: Sequence[dict[str, Any]], found: OverLength, title: str, cells: Sequence[str]
) -> dict[str, Any]:
    cell: dict[str, Any] = {"field": "cell", "type": "nominal", "sort": None}
    cell["scale"] = {"domain": list(cells)}
    cell["legend"] = {"title": None, "values": [*dict.fromkeys(row["cell"] for row in rows)]}
    # The first range of places begins at 0, which has no logarithm.
    kind = "symlog" if found.lengths[0] == 0 else "log"
    scale = {"type": kind, "nice": False, **({"base": 2} if kind == "log" else {"zero": False})}
    encoding: dict[str, Any] = {
        "x": quantity(
            "tokens",
            found.axis,
            scale=scale,
            axis={"values": list(found.lengths), "format": ",d"},
        ),
        "y": quantity("value", title, scale={"zero": found.display in ("bytes", "seconds")}),
        "color": cell,
        "tooltip": tooltip({"cell": "cell", "tokens": found.axis, "value": title}),
    }
    if len(cells) > _COLOURS:
        encoding["strokeDash"] = cell
    return {
        "data": {"values": list(rows)},
        "height": _HEIGHT,
        "mark": {"type": "line", "strokeWidth": 1.5, "point": {"size": 35}},
        "encoding": encoding,
    }
