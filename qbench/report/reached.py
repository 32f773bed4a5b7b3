"""Where prefill and decode of each cell lie below the roof of the device, as it was measured.

The roofline model: so many operations for each byte that is read, and so many a second. No
computation passes the bandwidth of reading, nor the rate of products (Williams, Waterman, Patterson
2009).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import TYPE_CHECKING

from qbench.compare.items import items
from qbench.core.unchecked import as_number
from qbench.measures.roofline.operations import decode_operations, sizes_of
from qbench.measures.roofline.rates import block_bytes
from qbench.predict.work import GridPoint
from qbench.report.figures import pool
from qbench.sources.models.shipped import shipped_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record
    from qbench.core.spec import ModelRef
    from qbench.predict.shapes import DecoderShape

_LEAST = 1e-60
"""No amount of anything that is measured is as small, nor as large as its inverse."""
_NO_OPERATIONS = (
    "the record does not hold its operations, and the model's shape does not ship with qbench"
)


@dataclass(frozen=True)
class Reached:
    """What one step of one cell reached at one point of the latency grid."""

    cell: str
    step: str
    """`prefill` or `decode`."""
    point: Record
    intensity: float
    """Operations for each byte that has to be read at least."""
    rate: float
    """Operations a second."""
    multiplied_in: str
    bandwidth: float
    """Bytes a second, as it was measured beside it."""
    limit: float | None
    """Operations a second that the device reaches in that type; None where it was not measured."""

    @property
    def roof(self) -> float:
        """The most operations a second at this intensity."""
        by_reading = self.intensity * self.bandwidth
        return by_reading if self.limit is None else min(by_reading, self.limit)


@dataclass(frozen=True)
class Roofline:
    """All that was reached of one table, and the limits that were measured beside it."""

    reached: tuple[Reached, ...]
    rates: dict[str, float]
    """Operations a second, by the type that is multiplied in."""
    bandwidths: dict[int, float]
    """Bytes a second, by the bytes of the block that was read."""
    lacking: tuple[str, ...]
    """Of which cells something is not known, and why."""


def roofline(records: TableRecords) -> Roofline:
    """What the records of the untuned cells tell; empty where they hold no limits."""
    rates: dict[str, list[float]] = {}
    bandwidths: dict[int, list[float]] = {}
    lacking: dict[str, dict[str, None]] = {}
    points = items(records, "latency")
    for cell in records.cells:
        for record in cell.of("latency"):
            _note_limits(record, rates, bandwidths)
    known = {name: median(values) for name, values in rates.items()}
    reached: list[Reached] = []
    for cell in records.cells:
        for slug, point in points.items():
            found = [one for one in cell.of("latency", slug) if one.status == "ok"]
            if not found:
                continue
            if pool(found, "latency.read_bandwidth").figure.value is None:
                if (why := _no_bandwidth(found[0])) is not None:
                    lacking.setdefault(f"either step: {why}", {})[cell.label] = None
                continue
            for step in ("prefill", "decode"):
                made = _reached(cell.label, step, point, found, known)
                if isinstance(made, str):
                    lacking.setdefault(f"{step}: {made}", {})[cell.label] = None
                else:
                    reached.append(made)
    return Roofline(
        tuple(reached),
        known,
        {size: median(values) for size, values in sorted(bandwidths.items())},
        tuple(f"{', '.join(cells)}: no point of {why}" for why, cells in lacking.items()),
    )


def _note_limits(
    record: Record, rates: dict[str, list[float]], bandwidths: dict[int, list[float]]
) -> None:
    rate, bandwidth = (
        _finite(record, "latency.matrix_rate"),
        _finite(record, "latency.read_bandwidth"),
    )
    multiplied_in = record.details.get("multiplied_in")
    if rate and isinstance(multiplied_in, str):
        rates.setdefault(multiplied_in, []).append(rate)
    read = _finite(record, "latency.decode.read_bytes")
    if bandwidth and read:
        bandwidths.setdefault(block_bytes(read), []).append(bandwidth)


def _no_bandwidth(record: Record) -> str | None:
    """Why a record has no bandwidth of reading; None where it was taken without any limits."""
    metric = record.metric("latency.read_bandwidth")
    if metric is not None:
        return metric.reason
    of_copies = record.metric("latency.copy_bandwidth")
    return None if of_copies is None else "its record holds the bandwidth of copies alone"


def _reached(
    cell: str, step: str, point: Record, found: Sequence[Record], rates: dict[str, float]
) -> Reached | str:
    """What a step reached; else why it is not known."""
    first = found[0]
    key = "decode_multiplied_in" if step == "decode" else "multiplied_in"
    multiplied_in = str(first.details.get(key) or first.details.get("multiplied_in") or "")
    seconds = pool(found, f"latency.{step}").figure.value
    bandwidth = pool(found, "latency.read_bandwidth").figure.value
    operations = pool(found, f"latency.{step}.operations").figure.value
    if operations is None and step == "decode":
        operations = _operations_by_shape(first)
    read = next(_bytes(first, step), None)
    if operations is None:
        return _NO_OPERATIONS
    if not read or not seconds or not bandwidth:
        return "the record does not hold what it read and how long it took"
    own = pool(found, "latency.matrix_rate").figure.value
    limit = own if first.details.get("multiplied_in") == multiplied_in else rates.get(multiplied_in)
    made = Reached(
        cell, step, point, operations / read, operations / seconds, multiplied_in, bandwidth, limit
    )
    if not all(map(_is_amount, (made.intensity, made.rate, bandwidth, made.roof))):
        return "what its record holds is no amount"
    return made


def _bytes(record: Record, step: str) -> Iterator[float]:
    """What a step has to read at least: the weights, and of a decode step the cache too."""
    read = _finite(record, "latency.decode.read_bytes")
    if read is None:
        return
    if step == "decode":
        yield read
        return
    try:
        point = GridPoint.model_validate(record.item.params)
    except ValueError:
        return
    cache = as_number(record.details.get("cache_bytes"))
    tokens = point.prompt_tokens + point.new_tokens
    if cache is None or min(point.prompt_tokens, point.new_tokens) < 1:
        return
    weights = read - cache * (point.prompt_tokens + point.new_tokens / 2) / tokens
    yield weights * math.ceil(point.prompt_tokens / (point.prefill_chunk or point.prompt_tokens))


def _operations_by_shape(record: Record) -> float | None:
    """Operations of a decode step by the shape of a model that ships; None for any other.

    Records of before they were kept do not hold them.
    """
    shape = _shape(record.cell.model)
    try:
        point = GridPoint.model_validate(record.item.params)
    except ValueError:
        return None
    if shape is None or min(point.batch, point.prompt_tokens, point.new_tokens) < 1:
        return None
    return decode_operations(
        shape, batch=point.batch, prompt=point.prompt_tokens, new=point.new_tokens
    ).total


@lru_cache(maxsize=64)
def _shape(model: ModelRef) -> DecoderShape | None:
    config = shipped_config(model)
    return None if config is None else sizes_of(config)[0]


def _finite(record: Record, name: str) -> float | None:
    value = record.value(name)
    return value if value is not None and _is_amount(value) else None


def _is_amount(value: float) -> bool:
    """Whether it can be drawn: it is positive, and nothing that follows from it overflows."""
    return _LEAST < value < 1 / _LEAST
