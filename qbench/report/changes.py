"""Change of perplexity against the reference, with the interval that comparison and gate have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.comparison.bootstrap import Sampling
from qbench.comparison.comparability import Obstacle
from qbench.comparison.marks import one_change
from qbench.report.figures import finite_value

if TYPE_CHECKING:
    from qbench.record import Record


@dataclass(frozen=True)
class Change:
    """Perplexity of a cell over that of the reference, less 1."""

    ratio: float | None
    """None where it cannot be told; `reason` says why."""
    low: float | None = None
    """Lower end of the 95 % interval; None where the windows do not allow one."""
    high: float | None = None
    reason: str | None = None

    @property
    def uncertain(self) -> bool:
        """Whether the interval includes no change."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high


def perplexity_change(cell: Record | None, reference: Record | None) -> Change:
    """The change between two records of the same text and protocol."""
    if cell is None or reference is None:
        who = "the reference was not measured on this text" if reference is None else "not measured"
        return Change(None, reason=who)
    own, base = _perplexity(cell), _perplexity(reference)
    if not own or not base:
        who = "the reference's" if own else "the cell's"
        return Change(None, reason=f"there is no perplexity in {who} record")
    if finite_value(cell.metric("tokens")) != finite_value(reference.metric("tokens")):
        return Change(None, reason="the reference was measured on other tokens")
    found = one_change([cell], [reference], "perplexity", Sampling(), same_run=True)
    if isinstance(found, Obstacle):
        return Change(None, reason=found.reason)
    ratio = own / base - 1
    if found.estimate is None:
        return Change(ratio, reason=found.reason)
    tail = Sampling().alpha / 2
    low, high = (found.shown(found.estimate.limit(share)) for share in (tail, 1 - tail))
    return Change(ratio, low, high)


def _perplexity(record: Record) -> float | None:
    return finite_value(record.metric("perplexity")) if record.status == "ok" else None
