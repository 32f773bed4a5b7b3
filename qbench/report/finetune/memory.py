"""The memory of a training step by kind, and that of several adapters on one base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.page import Column, Figure, Row, Table
from qbench.report.figures import NOT_MEASURED, over_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.tuned.arms import Arm

MEMORY = "training.memory."
PEAK = "peak"
KINDS = {
    "base_weights": "base weights",
    "quantization_state": "quant. state",
    "adapters": "adapters",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "activations_predicted": "activations, predicted",
    "unexplained": "unexplained",
}
"""What the peak consists of, by the ends of their metrics' names."""
_COLUMNS = {**KINDS, PEAK: "measured peak"}
_UNEXPLAINED_SHARE = "unexplained_share"
_ADAPTERS = (
    Column("adapters.bytes_each", "each further adapter", "bytes"),
    Column("adapters.switch_time", "switch", "seconds"),
    Column("adapters.file_bytes", "on disk", "bytes", shares_unit=True),
    Column("adapters.file_bytes_int8", "on disk, 8 bits", "bytes", shares_unit=True),
    Column("adapters.file_bytes_nf4", "on disk, 4 bits", "bytes", shares_unit=True),
)


def memory_table(arms: Sequence[Arm]) -> Table:
    """One row an arm: the kinds add up to the measured peak."""
    columns = (
        *(
            Column(MEMORY + kind, title, "bytes", shares_unit=True)
            for kind, title in _COLUMNS.items()
        ),
        Column(_UNEXPLAINED_SHARE, "unexplained share", "percent"),
    )
    rows = []
    for arm in arms:
        figures = {
            kind: over_seeds(arm.trainings, "training", None, MEMORY + kind) for kind in _COLUMNS
        }
        share = _share(figures["unexplained"], figures[PEAK])
        rows.append(Row(arm.name, reference=False, figures=(*figures.values(), share)))
    return Table("Peak memory of a training step, by kind", "arm", columns, tuple(rows))


def adapters_table(arms: Sequence[Arm]) -> Table:
    """What several adapters on one base cost; no rows where that was not measured."""
    rows = []
    for arm in arms:
        cells = [cell for cell in arm.served if cell.of("adapters")]
        if cells:
            figures = [over_seeds(cells, "adapters", None, column.key) for column in _ADAPTERS]
            static = over_seeds(cells, "footprint", None, "memory.static")
            share = _share(figures[0], static)
            rows.append(Row(arm.name, reference=False, figures=(figures[0], share, *figures[1:])))
    columns = (
        _ADAPTERS[0],
        Column("adapters.share", "of the static bytes", "percent"),
        *_ADAPTERS[1:],
    )
    return Table("Several adapters on one base", "arm", columns, tuple(rows))


def _share(part: Figure, whole: Figure) -> Figure:
    if part.value is None or not whole.value:
        return Figure(word=part.word or whole.word or NOT_MEASURED, reason=part.reason)
    return Figure(part.value / whole.value)
