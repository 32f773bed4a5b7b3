"""Heat maps: tiles of two names, their shade a number that may stand on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PALEST, DARKEST = 0.03, 0.55
"""Opacities: the number on a tile must be read, in the light and in the dark."""


def ordinal(field: str, title: str | None, order: Sequence[str], **axis: Any) -> dict[str, Any]:
    """The channel of a name, in an order."""
    look = {"title": title, "labelAngle": 0, "ticks": False, "domain": False, **axis}
    return {"field": field, "type": "ordinal", "sort": list(order), "axis": look}


def tiles(
    rows: Sequence[Mapping[str, Any]],
    places: Mapping[str, Any],
    shade: Mapping[str, Any],
    text: str | None,
    *,
    step: int,
) -> dict[str, Any]:
    """The specification of a heat map.

    `places` are the channels `x`, `y` and `tooltip`, `shade` that of the opacity, `text` the field
    that is written on the tiles, if there is room for it; `step` is the height of a row, in pixels.
    """
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "rect", "fill": "var(--c1)", "stroke": "var(--line)"},
            "encoding": {**places, "fillOpacity": shade},
        }
    ]
    if text is not None:
        layers.append(
            {
                "mark": {"type": "text", "fill": "var(--ink)", "fontSize": 11},
                "encoding": {**places, "text": {"field": text, "type": "nominal"}},
            }
        )
    return {"data": {"values": list(rows)}, "height": {"step": step}, "layer": layers}
