"""A histogram on a logarithmic axis: its bins are the same in every record."""

from __future__ import annotations

from typing import Any

from qbench.core.unchecked import as_list, as_mapping, as_number

LOWEST, HIGHEST = -9, 2
"""Powers of ten between which the bins lie."""
A_DECADE = 4
"""Bins between two powers of ten."""
EDGES = tuple(10 ** (LOWEST + at / A_DECADE) for at in range((HIGHEST - LOWEST) * A_DECADE + 1))


_AXIS = {"lowest": LOWEST, "highest": HIGHEST, "a_decade": A_DECADE}


def stored(counts: list[int]) -> dict[str, Any]:
    """How a record keeps it: the counts from below the first edge to beyond the last."""
    return {**_AXIS, "counts": counts}


def counts_of(found: Any) -> list[float] | None:
    """The counts that a record keeps; None for none, or those of other bins."""
    held = as_mapping(found)
    counts = [as_number(each) for each in as_list(held.get("counts"))]
    known = [count for count in counts if count is not None and count >= 0]
    if any(held.get(key) != value for key, value in _AXIS.items()):
        return None
    return known if len(known) == len(counts) == len(EDGES) + 1 and any(known) else None
