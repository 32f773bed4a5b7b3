"""The heat map of sensitivities: units down, formats across; of many, kinds by blocks a format."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qbench.core.page import Chart
from qbench.core.units import counted
from qbench.report.charts.axes import decades, rounded, tooltip
from qbench.report.charts.heat_map import DARKEST, PALEST, ordinal, tiles
from qbench.report.unit_names import place_of, short_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.compare.sensitivities import Damages

MOST_ROWS = 40
"""Units up to which each has a row; more are laid out by block and kind."""
_ROW = 22
_MOST_WRITTEN = 10
"""Columns up to which there is room to write the KL into each tile."""
_DEPTH = 1e-5
"""Share of the largest KL below which tiles are alike."""
_MILLI = 1e3
_LEAST = 0.01
"""Of the numbers on tiles."""
_UNMEASURED = "–"
_CAPTION = (
    "Shades follow the logarithm of the KL{written}. A tile without a shade was not measured."
)
_OF_SEVERAL = " A tile of several layers, such as experts, has their sum."
_WRITTEN = ", and on each tile stands the KL in thousandths of a nat a token"


def sensitivity_charts(damages: Damages) -> Iterator[Chart]:
    """One picture of all units in all formats, or one of each format; none without any KL."""
    scale = _shade(damages)
    if scale is None:
        return
    if len(damages.units) <= MOST_ROWS:
        yield _by_unit(damages, scale)
        return
    for label in damages.formats:
        yield _by_block(damages, label, scale)


def _by_unit(damages: Damages, scale: tuple[float, float]) -> Chart:
    names = short_names(damages.units)
    formats = list(damages.formats)
    rows = [
        {"unit": names[unit], "format": label, "name": unit}
        | _figures([damages.kl(unit, label)], scale)
        for unit in damages.units
        for label in formats
    ]
    written = len(formats) <= _MOST_WRITTEN
    places = {
        "x": ordinal("format", None, formats, labelAngle=-40, orient="top", labelLimit=120),
        "y": ordinal("unit", None, list(names.values()), labelLimit=160),
        "tooltip": tooltip({"name": "held alone", "format": "in", "kl": "KL (nat)"}),
    }
    return _chart(
        "KL of each unit alone",
        f"KL of {counted(len(damages.units), 'unit')} of the model, each held alone in"
        f" {counted(len(formats), 'format')}.",
        tiles(rows, places, _channel(scale, written=written), _text(written=written), step=_ROW),
        written=written,
    )


def _by_block(damages: Damages, label: str, scale: tuple[float, float]) -> Chart:
    """Tiles that hold several layers, as a block's experts, have the sum of their KL."""
    found: dict[tuple[str, str], list[float | None]] = {}
    for unit in damages.units:
        found.setdefault(place_of(unit), []).append(damages.kl(unit, label))
    blocks = list(dict.fromkeys(block for block, _ in found))
    kinds = list(dict.fromkeys(kind for _, kind in found))
    rows = [
        {"block": block, "kind": kind, "layers": len(kls), **_figures(kls, scale)}
        for (block, kind), kls in found.items()
    ]
    written = len(blocks) <= _MOST_WRITTEN
    places = {
        "x": ordinal("block", "block", blocks, labelOverlap="greedy"),
        "y": ordinal("kind", None, kinds, labelLimit=160),
        "tooltip": tooltip(
            {"block": "block", "kind": "kind", "layers": "layers", "kl": "KL (nat)"}
        ),
    }
    return _chart(
        f"KL of each unit alone in {label}",
        f"KL of {counted(len(damages.units), 'unit')} by block and kind, each held alone in one"
        " format.",
        tiles(rows, places, _channel(scale, written=written), _text(written=written), step=_ROW),
        written=written,
        further=_OF_SEVERAL if len(found) < len(damages.units) else "",
    )


def _chart(
    title: str, description: str, spec: dict[str, Any], *, written: bool, further: str = ""
) -> Chart:
    caption = _CAPTION.format(written=_WRITTEN if written else "") + further
    return Chart(title, description, spec, caption)


def _figures(kls: Sequence[float | None], scale: tuple[float, float]) -> dict[str, Any]:
    """What a tile has: the sum of what was measured, or nothing."""
    known = [kl for kl in kls if kl is not None]
    if not known:
        return {"shade": scale[0], "text": _UNMEASURED}
    total = math.fsum(known)
    shade = rounded(max(total, scale[0]))
    return {"kl": rounded(total), "shade": shade, "text": _written(_MILLI * total)}


def _written(value: float) -> str:
    """A number in as few characters as a tile has room for."""
    if 0 < value < _LEAST:
        return f"<{_LEAST:g}"
    return f"{value:.0f}" if value >= 100 or value <= 0 else f"{value:.2g}"


def _shade(damages: Damages) -> tuple[float, float] | None:
    """The ends of the shades' scale, the same in all pictures."""
    kls = [
        kl
        for unit in damages.units
        for label in damages.formats
        if (kl := damages.kl(unit, label)) is not None
    ]
    largest = max(kls, default=0.0)
    ticks = decades([kl for kl in kls if kl >= _DEPTH * largest])
    return (ticks[0], ticks[-1]) if len(ticks) > 1 else None


def _channel(scale: tuple[float, float], *, written: bool) -> dict[str, Any]:
    legend = None if written else {"title": "KL (nat), logarithmic"}
    return {
        "condition": {"test": "!isValid(datum.kl)", "value": 0},
        "field": "shade",
        "type": "quantitative",
        "scale": {
            "type": "log",
            "domain": list(scale),
            "range": [PALEST, DARKEST],
            "clamp": True,
        },
        "legend": legend,
    }


def _text(*, written: bool) -> str | None:
    return "text" if written else None
