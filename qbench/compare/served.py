"""Bytes and bits per weight of a format as it is served, whatever its codes are held in here.

Integers of 2 to 7 bits are simulated in bytes where no packed kernel takes them; the records say
what is held, and what packed codes would take (`bits_per_weight.nominal`). Who chooses a format
goes by the latter. Here, and nowhere else, it is decided which of them stands first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.unchecked import as_mapping

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.compare.selection import CellRecords
    from qbench.core.record import Record

STATIC = "memory.static"
MODEL_BITS = "bits_per_weight.model"
LINEAR_BITS = "bits_per_weight.linear"
_NOMINAL = {MODEL_BITS: "bits_per_weight.nominal", LINEAR_BITS: "bits_per_weight.linear.nominal"}
SERVED = {
    STATIC: "memory.served",
    MODEL_BITS: "bits_per_weight.served",
    LINEAR_BITS: "bits_per_weight.linear.served",
}
"""What is held here, and the figure of the format as it is served. No record holds the latter:
they are made of what each record holds, old ones too (`with_served`)."""


def stored_wider(cells: Iterable[CellRecords]) -> bool:
    """Whether any of them holds codes in more than their own width."""
    return any(_is_wider(record) for cell in cells for record in cell.of("footprint"))


def headline(metric: str, cells: Iterable[CellRecords]) -> str:
    """The metric that stands first for `metric` among these cells: itself, or that of `SERVED`."""
    return SERVED[metric] if metric in SERVED and stored_wider(cells) else metric


def with_served(record: Record) -> Record:
    """A footprint with the figures of the format as it is served beside those of what is held."""
    added = [
        held.model_copy(update={"name": SERVED[name], "value": value, "samples": None})
        for name in SERVED
        if (held := record.metric(name)) is not None
        and (value := _served(record, name)) is not None
    ]
    return record.model_copy(update={"metrics": (*record.metrics, *added)}) if added else record


def _served(record: Record, name: str) -> float | None:
    if not _is_wider(record):
        return record.value(name)
    if name != STATIC:
        return record.value(_NOMINAL[name])
    bits, weights = record.value(_NOMINAL[MODEL_BITS]), record.value("weights")
    return None if bits is None or weights is None else float(round(bits * weights / 8))


def _is_wider(record: Record) -> bool:
    """Whether codes are held in more; those of 8 bits are not, though zero points may be fewer."""
    nominal, held = record.value(_NOMINAL[MODEL_BITS]), record.value(MODEL_BITS)
    if nominal is None or held is None or nominal >= held:
        return False
    return holds_wider(record) is not False


def holds_wider(record: Record) -> bool | None:
    """Whether what was loaded for a record holds codes in more bits than they have.

    None where it does not say how many bits they are.
    """
    loaded = as_mapping(record.details.get("loaded"))
    nominal, stored = loaded.get("code_bits_nominal"), loaded.get("code_bits_stored")
    return None if nominal is None else nominal != stored
