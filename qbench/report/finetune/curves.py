"""The loss curve of each training as a line of blocks, with its held-out losses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qbench.core.page import Column, Figure, Row, Table
from qbench.report.figures import NOT_MEASURED, pool
from qbench.report.sparkline import LEVELS, downsample, sparkline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords
    from qbench.compare.tuned.arms import Arm
    from qbench.core.record import Record

WIDTH = 32
"""Characters of a curve."""
_HELD_OUT_SHOWN = 6
_COLUMNS = (
    Column("curve", "training loss", "text"),
    Column("first", "first step", "number", decimals=3),
    Column("training.loss", "last tenth", "number", decimals=3),
    Column("steps", "steps", "exact"),
    Column("held_out", "held-out loss by step", "text"),
    Column("completion.loss", "test loss", "number", decimals=4),
)


def curves_table(arms: Sequence[Arm], test_slug: str) -> Table:
    """One row a training; all curves between the same ends, which the title states."""
    trainings = [(arm, cell) for arm in arms for cell in arm.trainings]
    curves = [_losses(cell) for _, cell in trainings]
    drawn = [mean for curve in curves for mean in downsample(curve, WIDTH) if mean is not None]
    low, high = (min(drawn), max(drawn)) if drawn else (0.0, 0.0)
    rows = [
        Row(cell.label, reference=False, figures=_figures(arm, cell, test_slug, (low, high)))
        for arm, cell in trainings
    ]
    ends = f": {LEVELS[0]} {low:.3g} to {LEVELS[-1]} {high:.3g} nat a token" if drawn else ""
    return Table(f"Loss curves{ends}", "training", _COLUMNS, tuple(rows))


def _figures(
    arm: Arm, cell: CellRecords, test_slug: str, ends: tuple[float, float]
) -> tuple[Figure, ...]:
    records = cell.of("training")
    losses = _losses(cell)
    seed = cell.tuning.seed if cell.tuning else 0
    shown = [one for one in arm.shown if one.tuning is not None and one.tuning.seed == seed]
    tests = [record for one in shown for record in one.of("completion", test_slug)]
    nothing = pool(records, "training.loss").figure
    missing = Figure(word=nothing.word or NOT_MEASURED, reason=nothing.reason)
    line = sparkline(losses, width=WIDTH, low=ends[0], high=ends[1])
    first = losses[0] if losses and math.isfinite(losses[0]) else None
    return (
        Figure(word=line) if losses else missing,
        missing if first is None else Figure(first),
        nothing,
        Figure(float(len(losses))) if losses else missing,
        Figure(word=_held_out(records)),
        pool(tests, "completion.loss").figure,
    )


def _losses(cell: CellRecords) -> list[float]:
    return next((one.series.get("step_loss", []) for one in cell.of("training")), [])


def _held_out(records: Sequence[Record]) -> str:
    """The losses with their steps: the first ones, and always the last."""
    series = records[0].series if records else {}
    losses, steps = series.get("validation_loss", []), series.get("validation_step", [])
    # a record may hold fewer steps than losses: what has no step is left out
    texts = [f"{loss:.3f} ({step:.0f})" for step, loss in zip(steps, losses, strict=False)]
    if len(texts) > _HELD_OUT_SHOWN:
        texts = [*texts[: _HELD_OUT_SHOWN - 1], "…", texts[-1]]
    return ", ".join(texts) or NOT_MEASURED
