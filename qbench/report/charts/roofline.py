"""The roofline: what prefill and decode of each cell reached, below the limits of the device."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qbench.compare.items import describe_point
from qbench.core.page import Chart
from qbench.core.units import choose_scale, counted
from qbench.report.charts.axes import decades, rounded, tooltip

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.report.reached import Reached, Roofline

_COLOURS = 10
"""Cells that the page has colours for; of more a point is named where the pointer is."""
_HEIGHT = 340
_SHAPES = {"prefill": "square", "decode": "circle"}
_UNITS = ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"), (1.0, "FLOP/s"))
_TOLD = {
    "cell": "cell",
    "step": "step",
    "at": "at",
    "x": "operations a byte",
    "rate": "reached",
    "roof": "roof there",
    "share": "of it (%)",
    "type": "multiplied in",
}
CAPTION = (
    "Operations for each byte that has to be read at least, against operations a second; both axes"
    " go by powers of ten. The slope is the measured bandwidth of reading a block of the size that"
    " is named, since small ones stay in caches; each level line is the rate of products in"
    " the type that is named. How far a point lies below its roof is what software could win. Below"
    " the slope fewer bits a weight move it to the right and up; below a level line they do not. A"
    " line joins the points of a cell from one batch or length to the next."
)
_ABOVE = (
    "Above the roof: {}. More was reached than was measured as the limit: some of it was read from"
    " a cache, or something else ran while the limit was measured."
)
_QUIET = "var(--soft)"
_LINE = 13
"""Pixels of a line of text."""
_NEAR = 2.5
"""Limits that lie nearer to each other than by this factor have their names in one place."""


def roofline_chart(found: Roofline) -> Chart | None:
    """The picture of one table; None where no point is known."""
    if not found.reached:
        return None
    points = [
        _row(one, line) for one, line in zip(found.reached, _lines(found.reached), strict=True)
    ]
    roofs = _roofs(found)
    xs = [row["x"] for row in (*points, *roofs)]
    ys = [row["y"] for row in (*points, *roofs)]
    cells = list(dict.fromkeys(one.cell for one in found.reached))
    x = _axis("x", "operations a byte", ",~g", decades(xs))
    powers = decades(ys)
    room = [*powers, 10 * powers[-1]] if max(ys) > powers[-1] / 4 else powers
    y = _axis("y", "operations a second (FLOP/s)", "~s", room)
    colour: dict[str, Any] = {"field": "cell", "type": "nominal", "sort": None}
    colour["legend"] = {"title": None, "symbolOpacity": 1}
    coloured = {"color": colour} if len(cells) <= _COLOURS else {}
    step = {
        "field": "step",
        "type": "nominal",
        "scale": {"domain": list(_SHAPES), "range": list(_SHAPES.values())},
        "legend": {"title": None, "symbolFillColor": _QUIET, "symbolStrokeColor": _QUIET},
    }
    spec = {
        "data": {"values": points},
        "height": _HEIGHT,
        "encoding": {"x": x, "y": y},
        "layer": [
            *_roof_layers(roofs),
            {
                "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.6},
                "encoding": {
                    **coloured,
                    "detail": [
                        {"field": name, "type": "nominal"} for name in ("cell", "step", "line")
                    ],
                    "order": {"field": "order", "type": "quantitative"},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.9},
                "encoding": {**coloured, "shape": step, "tooltip": tooltip(_TOLD)},
            },
        ],
    }
    return Chart(
        "Roofline",
        f"Operations a second that prefill and decode of {counted(len(cells), 'cell')} reached"
        f" against operations a byte, below the measured limits: {_limits(found)}.",
        spec,
        " ".join([CAPTION, *_above(found.reached), *(f"{text}." for text in found.lacking)]),
    )


def _lines(reached: Sequence[Reached]) -> list[str]:
    """Which line each point is of: batches alike but for their size; lengths where there is one."""
    several = len({str(one.point.item.params.get("batch")) for one in reached}) > 1
    joined = {"batch"} if several else {"prompt_tokens", "new_tokens"}
    keys = [
        {name: value for name, value in one.point.item.params.items() if name not in joined}
        for one in reached
    ]
    return [json.dumps(key, sort_keys=True, default=str) for key in keys]


def _row(one: Reached, line: str) -> dict[str, Any]:
    return {
        "cell": one.cell,
        "step": one.step,
        "at": describe_point(one.point),
        "line": line,
        "order": rounded(one.intensity),
        "x": rounded(one.intensity),
        "y": rounded(one.rate),
        "rate": _with_unit(one.rate),
        "roof": _with_unit(one.roof),
        "share": rounded(100 * one.rate / one.roof),
        "type": one.multiplied_in,
    }


def _roofs(found: Roofline) -> list[dict[str, Any]]:
    """The ends of each line: slopes up to the highest rate, levels from the fastest slope on."""
    points = found.reached
    left = min(one.intensity for one in points) / 2
    highest = max(found.rates.values(), default=max(one.rate for one in points))
    fastest = max(found.bandwidths.values())
    ridges = [highest / bandwidth for bandwidth in found.bandwidths.values()]
    right = 2 * max(*(one.intensity for one in points), *ridges)
    rows = []
    for size, bandwidth in found.bandwidths.items():
        block = choose_scale([size], "bytes", decimals=0).with_unit(size)
        told = {"label": f"{_bandwidth(bandwidth)} ({block})", "kind": "slope", "limit": bandwidth}
        until = max(highest / bandwidth, left)
        rows += [{**told, "x": rounded(x), "y": rounded(x * bandwidth)} for x in (left, until)]
    for name, rate in found.rates.items():
        told = {"label": f"{name}: {_with_unit(rate)}", "kind": "level", "limit": rate}
        begin = min(max(rate / fastest, left), right)
        rows += [{**told, "x": rounded(x), "y": rounded(rate)} for x in (begin, right)]
    return rows


def _roof_layers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines, and their names where no point can be: to the left of each line's upper end."""
    line: dict[str, Any] = {
        "data": {"values": rows},
        "mark": {"type": "line", "strokeWidth": 1.5, "color": _QUIET},
        "encoding": {
            "detail": {"field": "label", "type": "nominal"},
            "tooltip": tooltip({"label": "limit"}),
        },
    }
    layers: dict[tuple[int, int], list[dict[str, Any]]] = {}
    below = 0  # slopes end at the highest level: their names stand above those of levels
    for kind, dx in (("level", 0), ("slope", -10)):
        found = list(_names([row for row in rows if row["kind"] == kind]))
        for at, name in found:
            layers.setdefault((at + below, dx), []).append(name)
        highest = max((name["y"] for _, name in found), default=0.0)
        below = sum(name["y"] == highest for _, name in found)
    names = [
        {
            "data": {"values": found},
            "mark": {
                "type": "text",
                "fontSize": 11,
                "color": _QUIET,
                "align": "right",
                "baseline": "bottom",
                "dx": dx,
                "dy": -3 - _LINE * at,
            },
            "encoding": {"text": {"field": "label", "type": "nominal"}},
        }
        for (at, dx), found in layers.items()
    ]
    return [line, *names]


def _names(ends: Sequence[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's name with the line of text that it stands in, above where it has room.

    Those of lines that lie near to each other stand one above the other at the highest of them.
    `ends` are the two of each line.
    """
    lines = sorted(zip(ends[::2], ends[1::2], strict=True), key=lambda line: -line[0]["limit"])
    groups: list[list[tuple[dict[str, Any], dict[str, Any]]]] = []
    for line in lines:
        if groups and groups[-1][-1][0]["limit"] < _NEAR * line[0]["limit"]:
            groups[-1].append(line)
        else:
            groups.append([line])
    for group in groups:
        _, end = group[0]
        for at, line in enumerate(reversed(group)):
            yield at, {"label": line[0]["label"], "x": end["x"], "y": end["y"]}


def _axis(field: str, title: str, written: str, powers: Sequence[float]) -> dict[str, Any]:
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"type": "log", "domain": [powers[0], powers[-1]], "nice": False},
        "axis": {"title": title, "values": powers, "format": written, "labelOverlap": "greedy"},
    }


def _with_unit(rate: float) -> str:
    size, unit = next(((size, unit) for size, unit in _UNITS if rate >= size), _UNITS[-1])
    return f"{rate / size:.3g} {unit}"


def _bandwidth(rate: float) -> str:
    size, unit = (1e12, "TB/s") if rate >= 1e12 else (1e9, "GB/s")
    return f"{rate / size:.3g} {unit}"


def _limits(found: Roofline) -> str:
    rates = [f"{name} {_with_unit(rate)}" for name, rate in found.rates.items()]
    speeds = [_bandwidth(rate) for rate in found.bandwidths.values()]
    return f"products in {', '.join(rates) or 'no type'}; reading {', '.join(speeds)}"


def _above(reached: Sequence[Reached]) -> list[str]:
    """Which points lie above their roof by more than a hundredth."""
    names = dict.fromkeys(
        f"{one.step} of {one.cell}" for one in reached if one.rate > 1.01 * one.roof
    )
    return [_ABOVE.format(", ".join(names))] if names else []
