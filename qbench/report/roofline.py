"""How near each cell and each training came to the limits of the machine, as it was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.compare.items import describe_point, items
from qbench.core.page import Column, Figure, Row, Table
from qbench.report.cell_row import cell_row
from qbench.report.figures import over_seeds, pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import TableRecords
    from qbench.compare.tuned.arms import Arm

TITLE = "How near to the machine's limits"
HOW_TO_READ = (
    "Decode cannot be faster than the bytes that it has to read (of a mixture's experts those of"
    " one token) at the read bandwidth, prefill and training not than their operations at the"
    " matrix rate; both are measured on the device in the same process as the times, the first on a"
    " block of the size of what is read, so that caches count alike. Where a record of an earlier"
    " qbench has the copy bandwidth instead, its floor is none for reading: a model can pass it."
    " Operations are what the model needs: activations computed again under checkpointing do not"
    " count."
)
_GIGA = 1e9
_DIVISORS = {
    "latency.copy_bandwidth": _GIGA,
    "latency.read_bandwidth": _GIGA,
    "latency.prefill.operations": _GIGA,
    "latency.decode.operations": _GIGA,
    "latency.matrix_rate": _GIGA,
    "training.operations": _GIGA,
    "training.matrix_rate": _GIGA,
}
_LATENCY = (
    Column("latency.decode.read_bytes", "read a decode step", "bytes"),
    Column("latency.read_bandwidth", "read bandwidth (GB/s)", "number", decimals=1),
    Column("latency.decode.read_floor", "decode floor", "seconds", shares_unit=True),
    Column("latency.decode.bytes", "weights and cache", "bytes"),
    Column("latency.copy_bandwidth", "copy bandwidth (GB/s)", "number", decimals=1),
    Column("latency.decode.floor", "at the copy bandwidth", "seconds", shares_unit=True),
    Column("latency.decode", "decode", "seconds", shares_unit=True),
    Column("latency.decode.read_share", "floor reached", "percent"),
    Column("latency.decode.floor_share", "copy bandwidth reached", "percent"),
    Column("latency.prefill.operations", "prefill (GFLOP)", "number"),
    Column("latency.decode.operations", "decode step (GFLOP)", "number"),
    Column("latency.matrix_rate", "matrix rate (GFLOP/s)", "number", decimals=0),
    Column("latency.prefill.matrix_share", "rate reached", "percent"),
)
_FLOORS = ("latency.decode.read_floor", "latency.decode.floor")
_TRAINING = (
    Column("training.operations", "a step (GFLOP)", "number"),
    Column("training.step_time", "step", "seconds"),
    Column("training.matrix_rate", "matrix rate (GFLOP/s)", "number", decimals=0),
    Column("training.matrix_share", "rate reached", "percent"),
)


def roofline_tables(records: TableRecords) -> list[Table]:
    """One table for each point of the latency grid whose records hold a limit."""
    tables = []
    for point in items(records, "latency").values():
        rows = []
        for cell in records.cells:
            found = cell.of("latency", point.item.slug)
            if any(record.metric(floor) for record in found for floor in _FLOORS):
                figures = tuple(_scaled(one, pool(found, one.key).figure) for one in _LATENCY)
                rows.append(cell_row(cell, figures))
        title = f"{TITLE}: {describe_point(point)}"
        tables.append(Table(title, "precision", _LATENCY, tuple(rows)))
    return [table for table in tables if table.rows]


def training_roofline_table(arms: Sequence[Arm]) -> Table:
    """One row an arm whose trainings hold the device's rate; no rows where none does."""
    rows = []
    for arm in arms:
        figures = tuple(
            _scaled(one, over_seeds(arm.trainings, "training", None, one.key)) for one in _TRAINING
        )
        if figures[0].value is not None or figures[2].value is not None:
            rows.append(Row(arm.name, reference=False, figures=figures))
    told = [
        at for at in range(len(_TRAINING)) if any(row.figures[at].value is not None for row in rows)
    ]
    columns = tuple(_TRAINING[at] for at in told)
    return Table(
        f"{TITLE}: a training step",
        "arm",
        columns,
        tuple(replace(row, figures=tuple(row.figures[at] for at in told)) for row in rows),
    )


def _scaled(column: Column, figure: Figure) -> Figure:
    divisor = _DIVISORS.get(column.key)
    if figure.value is None or divisor is None:
        return figure
    spread = None if figure.spread is None else figure.spread / divisor
    return replace(figure, value=figure.value / divisor, spread=spread)
