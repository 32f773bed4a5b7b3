"""What the machine allows linear layers: bytes and operations against its measured rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.measures.kernels.layers import total
from qbench.measures.kernels.metrics import METRICS
from qbench.measures.loaded import make_metric
from qbench.measures.roofline.latency import multiplied_in
from qbench.measures.roofline.rates import matrix_rate, read_bandwidth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.record import Metric
    from qbench.measures.kernels.layers import LayerSize
    from qbench.measures.loaded import LoadedModel


class Limits:
    """What the machine allows at one number of rows, by arithmetic and its measured rates."""

    def __init__(self, loaded: LoadedModel, sizes: Sequence[LayerSize], rows: int) -> None:
        """Measures the rates, so it must not run while anything is timed."""
        self._sizes = sizes
        self.dtype = multiplied_in(loaded, rows)
        self._bytes = [size.traffic_bytes(rows, loaded.model.dtype.itemsize) for size in sizes]
        self._operations = [size.operations(rows) for size in sizes]
        held = total(sizes, [size.held_bytes for size in sizes])
        self._bandwidth = read_bandwidth(loaded.device, held)
        self._rate = matrix_rate(loaded.device, self.dtype)
        self._reason = self._bandwidth.reason or self._rate.reason

    def of(self, at: int) -> dict[str, Any]:
        """Of one size of layer, for the record."""
        size = self._sizes[at]
        return {
            "held_bytes": size.held_bytes,
            "bytes": self._bytes[at],
            "operations": self._operations[at],
            "floor_s": self._floor_s(at),
        }

    def metrics(self, seconds: float) -> list[Metric]:
        """Of all layers, which took so many seconds."""
        floors = [self._floor_s(at) for at in range(len(self._sizes))]
        known = [floor for floor in floors if floor is not None]
        floor = total(self._sizes, known) if len(known) == len(floors) else None
        found = {
            "bytes": (total(self._sizes, self._bytes), None),
            "operations": (total(self._sizes, self._operations), None),
            "read_bandwidth": (self._bandwidth.per_s, self._bandwidth.reason),
            "matrix_rate": (self._rate.per_s, self._rate.reason),
            "floor": (floor, self._reason),
            "floor_share": (None if floor is None else floor / seconds, self._reason),
        }
        return [
            make_metric(METRICS, f"kernels.{name}", value, reason=reason)
            for name, (value, reason) in found.items()
        ]

    def _floor_s(self, at: int) -> float | None:
        if self._bandwidth.per_s is None or self._rate.per_s is None:
            return None
        return max(self._bytes[at] / self._bandwidth.per_s, self._operations[at] / self._rate.per_s)
