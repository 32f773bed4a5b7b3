"""What the predicted bytes of a plan's cells are made of: `qbench plan --kinds`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import Heading, Strong, Words, bullets
from qbench.core.units import choose_scale
from qbench.predict.peaks import training_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.core.page import Part
    from qbench.plan.cells import PlannedCell
    from qbench.plan.needs import CellNeed
    from qbench.plan.plan import Plan


def kinds_parts(plan: Plan, needs: Sequence[CellNeed]) -> list[Part]:
    """Static bytes by kind, exact, and the highest peak by kind; cells that are alike share them.

    A cell of which neither is known is left out: the plan says why.
    """
    alike: dict[tuple[str, ...], list[str]] = {}
    for cell, need in zip(plan.cells, needs, strict=True):
        lines = _lines(cell, need)
        if lines:
            alike.setdefault(lines, []).append(cell.cell.slug)
    parts: list[Part] = [Heading("Bytes by kind")]
    for lines, names in alike.items():
        parts += [Words((Strong(", ".join(names)),)), bullets(lines)]
    return parts


def kinds_data(planned: PlannedCell, need: CellNeed) -> dict[str, Any]:
    """The same of one cell for programs: bytes by kind, None where they are not known."""
    static = None if planned.cell.is_training else planned.predicted
    peak = need.peak
    return {
        "static_bytes": None if static is None else static.model_dump(),
        "peak_kinds": None if peak is None else dict(peak.kinds),
        "peak_phase": None if peak is None else peak.phase,
    }


def _lines(planned: PlannedCell, need: CellNeed) -> tuple[str, ...]:
    lines = []
    training = planned.cell.training
    static = planned.predicted
    if static is not None and training is None:
        kinds = {name: f"{size:,}" for name, size in static.model_dump().items() if size}
        lines.append(f"static, {static.total:,} bytes: {_listed(kinds)}")
    peak = need.peak
    if peak is not None and peak.total is not None:
        sizes = {name: _size(size) for name, size in peak.kinds.items() if size}
        paged = f", of which {_size(peak.paged)} can be paged out" if peak.paged else ""
        of = f" on {training_tokens(training, planned.model)} tokens a sequence" if training else ""
        lines.append(f"{peak.phase}{of}, {_size(peak.total)}: {_listed(sizes)}{paged}")
    return tuple(lines)


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {size}" for name, size in kinds.items())


def _size(size: int) -> str:
    return choose_scale([size], "bytes", decimals=2).with_unit(size)
