"""A recommendation as a reader may change it: what it was decided by, for the page's script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.compare.speed import LEGEND
from qbench.core.page import Chooser
from qbench.core.units import choose_scale
from qbench.report.recommendation_words import warning_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.compare.recommend.axis import Axis
    from qbench.compare.recommend.choices import Choice, Choices
    from qbench.compare.recommend.recommend import Recommendation
    from qbench.core.page import Table


def chooser(
    found: Recommendation, table: Table, noun: str, needed: Mapping[str, Mapping[str, str]]
) -> Chooser:
    """The recommendation with its table, whose rows are the candidates in their order.

    `noun` names what is chosen; `needed` says by cell and axis what more data would decide.
    """
    choices = found.choices
    return Chooser(
        f"What to run of {choices.title}",
        table,
        {
            "noun": noun,
            "unlike": LEGEND,
            "axes": [_axis(axis, choices) for axis in choices.axes],
            "cells": [_cell(cell, needed.get(cell.label, {})) for cell in choices.cells],
            "rows": [choices.cells.index(one.cell) for one in found.candidates],
            "limits": {key: limit.bound for key, limit in choices.limits.items()},
            "minimize": choices.minimize,
        },
    )


def _axis(axis: Axis, choices: Choices) -> dict[str, Any]:
    known = (cell.ranges[axis.key].value for cell in choices.cells)
    scale = choose_scale([value for value in known if value is not None], axis.display)
    return {
        "key": axis.key,
        "title": axis.title,
        "short": axis.short,
        "display": axis.display,
        "unit": axis.unit,
        "better": axis.better,
        "kind": axis.kind,
        "changes": axis.of_change,
        "symbol": scale.symbol or ("" if axis.unit == "1" else axis.unit),
        "divisor": scale.divisor,
    }


def _cell(cell: Choice, needed: Mapping[str, str]) -> dict[str, Any]:
    return {
        "label": cell.label,
        "reference": cell.reference,
        "faulty": cell.faulty,
        "warned": warning_words(cell),
        "needed": dict(needed),
        "ranges": {
            key: [one.value, one.low, one.high, one.reason, one.unlike_served]
            for key, one in cell.ranges.items()
        },
    }
