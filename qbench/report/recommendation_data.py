"""A recommendation for programs: every figure with its interval, every limit and verdict."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qbench.compare.recommend.recommend import relaxed_to

if TYPE_CHECKING:
    from qbench.compare.recommend.ranges import Range
    from qbench.compare.recommend.recommend import Candidate, Check, Recommendation
    from qbench.compare.selection import TableRecords


def recommendation_data(records: TableRecords, found: Recommendation) -> dict[str, Any]:
    """What is recommended of one table, and why.

    - `suite`, `device`, `model`: the table; `of`: `untuned` or `tuned` models;
    - `recommended`: the cell, null where none meets every limit; `nearest`: the cell that then
      lacks least;
    - `minimize`: key of the axis that the best has the lowest value of;
    - `axes`: by key `title`, `unit`, `better` and `kind` (`cost`, `quality`);
    - `limits`: by axis `bound`, `kind` (`max`, `min`) and `source`: the key of the budget,
      `default`, or the name of the GPU whose memory it is;
    - `cells`: the best first, each with `cell`, `reference`, `verdict` (`recommended`, `meets`,
      `undecided`, `fails`, `faulty`), `told_apart` (whether what is minimized is told apart from
      the best's), `figures` and `checks`: by axis, see below.

    A figure has `value`, `low` and `high` (of its 95 % interval), `reason` for what is null, and
    `unlike_served`: why a time is not that of its format as it is served, else null. A check has
    its `verdict`, `beyond` (how far the figure lies beyond the bound), `distance` (from the bound
    to the far end of the interval, as a share of it), `would_meet` (the bound that the cell would
    meet) and `needed`: the `unit`, how many are `there` and how many `more` decide.
    """
    choices = found.choices
    return {
        "suite": records.suite,
        "device": records.device,
        "model": records.model,
        "of": choices.kind,
        "recommended": found.best.cell.label if found.best else None,
        "nearest": found.nearest.cell.label if found.nearest else None,
        "minimize": choices.minimize,
        "axes": {
            axis.key: {
                "title": axis.title,
                "unit": axis.unit,
                "better": axis.better,
                "kind": axis.kind,
            }
            for axis in choices.axes
        },
        "limits": {key: asdict(limit) for key, limit in choices.limits.items()},
        "cells": [_cell(one) for one in found.candidates],
    }


def _cell(one: Candidate) -> dict[str, Any]:
    return {
        "cell": one.cell.label,
        "reference": one.cell.reference,
        "verdict": one.standing,
        "told_apart": one.told_apart,
        "figures": {key: _figure(known) for key, known in one.cell.ranges.items()},
        "checks": {check.axis.key: _check(check) for check in one.checks},
    }


def _figure(known: Range) -> dict[str, Any]:
    return {
        "value": known.value,
        "low": known.low,
        "high": known.high,
        "reason": known.reason,
        "unlike_served": known.unlike_served,
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "verdict": check.verdict,
        "beyond": check.beyond,
        "distance": check.distance,
        "would_meet": relaxed_to(check),
        "needed": asdict(check.needed) if check.needed else None,
    }
