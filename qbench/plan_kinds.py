"""What the predicted bytes of a plan's cells are made of: `qbench plan --kinds`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from qbench.plan_needs import cell_need
from qbench.predict.peaks import training_tokens
from qbench.report.units import choose_scale

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from qbench.plan import Plan
    from qbench.plan_layout import PlannedCell
    from qbench.plan_needs import CellNeed


def render_kinds(plan: Plan) -> RenderableType:
    """Static bytes by kind, exact, and the highest peak by kind; cells that are alike share them.

    A cell of which neither is known is left out: the plan says why.
    """
    alike: dict[tuple[str, ...], list[str]] = {}
    for cell in plan.cells:
        lines = _lines(cell, cell_need(cell, plan.environment))
        if lines:
            alike.setdefault(lines, []).append(cell.cell.slug)
    blocks = [
        Text("\n").join(
            [Text(", ".join(names), style="bold"), *(Text(f"  {line}") for line in lines)]
        )
        for lines, names in alike.items()
    ]
    return Group(Text("Bytes by kind", style="italic"), *blocks)


def _lines(planned: PlannedCell, need: CellNeed) -> tuple[str, ...]:
    lines = []
    tuning = planned.cell.tuning if planned.cell.deploy is None else None
    static = planned.predicted
    if static is not None and tuning is None:
        kinds = {name: f"{size:,}" for name, size in static.model_dump().items() if size}
        lines.append(f"static, {static.total:,} bytes: {_listed(kinds)}")
    peak = need.peak
    if peak is not None and peak.total is not None:
        sizes = {name: _size(size) for name, size in peak.kinds.items() if size}
        paged = f", of which {_size(peak.paged)} can be paged out" if peak.paged else ""
        of = f" on {training_tokens(tuning, planned.model)} tokens a sequence" if tuning else ""
        lines.append(f"{peak.phase}{of}, {_size(peak.total)}: {_listed(sizes)}{paged}")
    return tuple(lines)


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {size}" for name, size in kinds.items())


def _size(size: int) -> str:
    return choose_scale([size], "bytes", decimals=2).with_unit(size)
