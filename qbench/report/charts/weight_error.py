"""The error of each layer's weights: blocks by kinds of layer, a picture for each cell."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from qbench.core.page import Chart, Charts
from qbench.core.unchecked import as_list, as_mapping, as_number
from qbench.core.units import counted
from qbench.report.charts.axes import ROW, quantity, rounded, tooltip

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.page import Part

MOST_TILES = 4_000
"""Tiles of all pictures together; cells beyond have theirs in the records alone."""
MOST_PICTURES = 24
_SHOWN_AT_ONCE = 8
_TITLE = "Error of the weights of each layer"
_APART_SHOWN = 5
_NEAR = 0.8
"""Of the largest error: shades do not make more of differences that are smaller than that."""
_BLOCK = re.compile(r"(?:^|\.)(\d+)\.(?:.*\.)?([^.]+)$")
"""The first number of a layer's name is its block's, the last word its kind."""
_HOW_TO_READ = (
    "The shades of each picture run from its least error to its largest, from four fifths of that"
    " where all are nearer; a cell without any error has no picture. Where a block has several"
    " layers of a name, as experts, the worst is shown."
)


def weight_error_charts(records: TableRecords) -> list[Part]:
    """None where no record holds the layers."""
    drawn: list[Chart] = []
    left_out: list[str] = []
    tiles = 0
    for cell in records.cells:
        layers = _layers(cell)
        rows, apart = split(layers)
        if not any(rows.values()):
            continue
        if drawn and (tiles + len(rows) > MOST_TILES or len(drawn) == MOST_PICTURES):
            left_out.append(cell.label)
            continue
        tiles += len(rows)
        drawn.append(_chart(cell.label, rows, apart))
    if not drawn:
        return []
    told = f" Not drawn, for their number: {', '.join(left_out)}." if left_out else ""
    many = len(drawn) > _SHOWN_AT_ONCE
    folded = f"{_TITLE}, {counted(len(drawn), 'cell')}" if many else ""
    return [Charts(tuple(drawn), _HOW_TO_READ + told, folded, _TITLE)]


def split(
    layers: Iterable[tuple[str, float]],
) -> tuple[dict[tuple[int, str], float], list[tuple[str, float]]]:
    """The largest error of each block and kind, in their order, and the layers of no block."""
    found: dict[tuple[int, str], float] = {}
    apart = []
    for name, error in layers:
        match = _BLOCK.search(name)
        if match is None:
            apart.append((name, error))
            continue
        place = int(match[1]), match[2]
        found[place] = max(error, found.get(place, 0.0))
    return dict(sorted(found.items())), apart


def _layers(cell: CellRecords) -> list[tuple[str, float]]:
    found = cell.of("weight_error")
    layers = as_list(found[0].details.get("layers")) if found else []
    errors = (
        (str(layer.get("name")), as_number(layer.get("relative_error")))
        for layer in map(as_mapping, layers)
    )
    return [(name, error) for name, error in errors if error is not None and math.isfinite(error)]


def _chart(
    label: str, errors: dict[tuple[int, str], float], apart: list[tuple[str, float]]
) -> Chart:
    rows = [
        {"block": block, "kind": kind, "error": rounded(100 * error)}
        for (block, kind), error in errors.items()
    ]
    kinds = len({kind for _, kind in errors})
    blocks = len({block for block, _ in errors})
    block = quantity("block", "block")
    (worst_block, worst_kind), worst = max(errors.items(), key=lambda one: one[1])
    spec: dict[str, Any] = {
        "data": {"values": rows},
        "height": {"step": ROW},
        "mark": {"type": "rect"},
        "encoding": {
            "x": {**block, "type": "ordinal", "axis": {**block["axis"], "labelAngle": 0}},
            "y": {"field": "kind", "type": "nominal", "axis": {"title": None, "ticks": False}},
            "color": {
                "field": "error",
                "type": "quantitative",
                "scale": {"domainMin": rounded(100 * min(*errors.values(), _NEAR * worst))},
                "legend": {"title": "relative error (%)"},
            },
            "tooltip": tooltip({"block": "block", "kind": "layer", "error": "relative error (%)"}),
        },
    }
    shown = ", ".join(f"{name} {error:.2%}" for name, error in apart[:_APART_SHOWN])
    more = f" and {len(apart) - _APART_SHOWN} more" if len(apart) > _APART_SHOWN else ""
    return Chart(
        label,
        f"Relative error of the weights of {label}, {counted(kinds, 'kind')} of layer in"
        f" {counted(blocks, 'block')}; the largest is {worst:.2%}, of {worst_kind} in block"
        f" {worst_block}.",
        spec,
        f"Of no block: {shown}{more}." if apart else "",
    )
