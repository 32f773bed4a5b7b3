"""A task: the score of each cell with its interval beside chance, and what the cells flipped."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qbench.core.page import Chart
from qbench.core.units import counted
from qbench.report.charts.axes import cell_axis, quantity, rounded, row_height, tooltip
from qbench.report.charts.verdicts import BETTER, WORSE
from qbench.report.tasks import CHANCE, GAINED, LOST

if TYPE_CHECKING:
    from qbench.core.page import Figure, Table

_FLIPPED = {
    LOST: ("right → wrong", WORSE.colour, -1),
    GAINED: ("wrong → right", BETTER.colour, 1),
}
"""Name, colour and side of 0 by the key of the column."""
_ABSOLUTE = "format(abs(datum.value), '.6~g')"


def task_charts(table: Table) -> list[Chart]:
    """The pictures of a table of `qbench.report.tasks`; none where it has no scores."""
    name = table.columns[0].key.split(".", 1)[-1]
    drawn = (_scores(table), _flips(table))
    return [replace(one, title=f"{one.title}: {name}") for one in drawn if one is not None]


def _figures(table: Table, key: str) -> list[tuple[str, Figure]]:
    return [(row.label, figure) for row, figure in zip(table.rows, table.column(key), strict=False)]


def _scores(table: Table) -> Chart | None:
    score = table.columns[0]
    rows: list[dict[str, Any]] = [
        {
            "cell": label,
            "value": rounded(figure.value),
            "low": None if figure.low is None else rounded(figure.low),
            "high": None if figure.high is None else rounded(figure.high),
        }
        for label, figure in _figures(table, score.key)
        if figure.value is not None
    ]
    if not rows:
        return None
    chances = {
        rounded(figure.value) for _, figure in _figures(table, CHANCE) if figure.value is not None
    }
    x = quantity("value", "score", scale={"zero": False})
    places = {
        "y": cell_axis(),
        "tooltip": tooltip(
            {"cell": "cell", "value": "score", "low": "95 % from", "high": "95 % to"}
        ),
    }
    known = {"transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}]}
    layers: list[dict[str, Any]] = [
        {
            **known,
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {**places, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
            "encoding": {**places, "x": x},
        },
    ]
    if chances:
        chance = {
            "data": {"values": [{"chance": chance} for chance in sorted(chances)]},
            "mark": {"type": "rule", "strokeDash": [4, 4]},
            "encoding": {
                "x": {**x, "field": "chance"},
                "tooltip": tooltip({"chance": "score by chance"}),
            },
        }
        layers.insert(0, chance)
    spec = {"data": {"values": rows}, "height": row_height(len(rows)), "layer": layers}
    beside = ", beside the score by chance" if chances else ""
    caption = (
        "Lines are the 95 % intervals of each score by itself: cells are compared item by item, in"
        " the table of differences."
    )
    if chances:
        caption += " The broken line is the score by chance."
    return Chart(
        "Score",
        f"{score.title} of {counted(len(rows), 'cell')} with 95 % intervals{beside}.",
        spec,
        caption,
    )


def _flips(table: Table) -> Chart | None:
    rows: list[dict[str, Any]] = [
        {"cell": label, "flip": name, "value": side * figure.value, "items": figure.value}
        for key, (name, _, side) in _FLIPPED.items()
        for label, figure in _figures(table, key)
        if figure.value is not None
    ]
    if not any(row["items"] for row in rows):
        return None
    places = list(dict.fromkeys(label for label, _ in _figures(table, LOST)))
    rows.sort(key=lambda row: places.index(row["cell"]))
    cells = len({row["cell"] for row in rows})
    spec = {
        "data": {"values": rows},
        "height": row_height(cells),
        "mark": {"type": "bar"},
        "encoding": {
            "y": cell_axis(),
            "x": quantity("value", "items", axis={"labelExpr": _ABSOLUTE, "tickMinStep": 1}),
            "color": {
                "field": "flip",
                "type": "nominal",
                "scale": {
                    "domain": [name for name, _, _ in _FLIPPED.values()],
                    "range": [colour for _, colour, _ in _FLIPPED.values()],
                },
                "legend": {"title": None},
            },
            "tooltip": tooltip({"cell": "cell", "flip": "flip", "items": "items"}),
        },
    }
    return Chart(
        "Items that flipped",
        f"For {counted(cells, 'cell')} the items that the reference gets right and the cell wrong,"
        " to the left, and the reverse, to the right.",
        spec,
    )
