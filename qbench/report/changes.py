"""Change of perplexity against the reference, with an interval paired over the windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.report.figures import finite_value

if TYPE_CHECKING:
    from qbench.record import Record

FEWEST_WINDOWS = 20
"""Below this many windows the normal approximation of the interval means little."""
_Z95 = 1.959964


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
    if reference is None:
        return Change(None, reason="the reference was not measured on this text")
    if cell is None:
        return Change(None, reason="not measured")
    own, base = _perplexity(cell), _perplexity(reference)
    if not own or not base:
        who = "the reference's" if own else "the cell's"
        return Change(None, reason=f"there is no perplexity in {who} record")
    reason = _incomparable(cell, reference)
    if reason:
        return Change(None, reason=reason)
    low, high = _interval(cell, reference)
    return Change(own / base - 1, low, high)


def _perplexity(record: Record) -> float | None:
    return finite_value(record.metric("perplexity")) if record.status == "ok" else None


def _incomparable(cell: Record, reference: Record) -> str | None:
    tokens = [finite_value(record.metric("tokens")) for record in (cell, reference)]
    if tokens[0] != tokens[1] or cell.item.asked != reference.item.asked:
        return "the reference was measured on other tokens or parameters"
    if fingerprint(cell) != fingerprint(reference):
        return "the reference was measured on other weights of this model"
    return None


def fingerprint(record: Record) -> str | None:
    """Fingerprint of the model's files; None in a record that does not say."""
    model = record.identity.get("model")
    found = model.get("fingerprint") if isinstance(model, dict) else None
    return None if found is None else str(found)


def _interval(cell: Record, reference: Record) -> tuple[float | None, float | None]:
    """95 % interval of the ratio less 1: delta method for a ratio of sums, the window the unit.

    With d and n the difference of the summed losses and the tokens of a window, the change of the
    log-perplexity is sum(d) / sum(n), its variance W / (W - 1) * sum((d - change * n)^2) / sum(n)^2
    (Cochran, Sampling Techniques, 1977, section 2.11).
    """
    counts = cell.series.get("window_tokens")
    own, base = cell.series.get("window_nll"), reference.series.get("window_nll")
    if not counts or not own or not base or counts != reference.series.get("window_tokens"):
        return None, None
    windows = len(counts)
    if windows < FEWEST_WINDOWS or len(own) != windows or len(base) != windows:
        return None, None
    differences = [a - b for a, b in zip(own, base, strict=True)]
    tokens = sum(counts)
    if not tokens or not all(map(math.isfinite, differences)):
        return None, None
    change = sum(differences) / tokens
    residuals = (d - change * n for d, n in zip(differences, counts, strict=True))
    squares = sum(residual**2 for residual in residuals)
    half_width = _Z95 * math.sqrt(windows / (windows - 1) * squares) / tokens
    return math.expm1(change - half_width), math.expm1(change + half_width)
