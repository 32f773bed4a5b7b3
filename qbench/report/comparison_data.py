"""A comparison for programs: its differences as rows, with every interval, verdict and margin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.report.field_names import names_in_words
from qbench.report.suspects import span_data

if TYPE_CHECKING:
    from qbench.compare.compare import Comparison, Row
    from qbench.compare.differences import Difference


def comparison_data(comparison: Comparison, method: str) -> dict[str, Any]:
    """The whole; `method` says how it was decided."""
    return {
        "new": comparison.new,
        "old": comparison.old,
        "differences": comparison_rows(comparison),
        "conditions": [
            {"condition": one.name, "new": one.new, "old": one.old} for one in comparison.conditions
        ],
        "between": None if comparison.span is None else span_data(comparison.span),
        "tests": comparison.tests,
        "method": method,
    }


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One for each metric, or item that could not be compared; relative changes are ratios less 1.

    `level` is that of all intervals of a row; `flips` is None but for scores of right and wrong.
    """
    alpha = comparison.sampling.alpha
    return [
        {
            "model": row.cell.model,
            "cell": row.cell.label,
            "measurement": row.item.measurement,
            "item": row.item.slug,
            "metric": row.metric or None,
            "also_called": names_in_words(row.metric),
            "unit": row.unit or None,
            "better": row.better,
            **_sides(row, alpha),
            **_change(row),
            "level": 1 - alpha,
            "verdict": row.verdict,
            "reason": row.mark.reason,
            "equivalent_within": row.allowance.amount,
            "flips": _flips(row, alpha),
        }
        for row in comparison.rows
    ]


def _sides(row: Row, alpha: float) -> dict[str, Any]:
    """Both sides' figures; of what is scored by item with their own intervals."""
    found: dict[str, Any] = {}
    sides = row.levels or (None, None)
    for name, one in zip(("new", "old"), sides, strict=True):
        low, high = _ends(one, alpha)
        value = None if row.difference is None else getattr(row.difference, name)
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return found


def _change(row: Row) -> dict[str, Any]:
    found = row.difference
    return {
        "relative": None if found is None else found.relative,
        "difference": None if found is None else found.plain,
        "difference_low": row.mark.low,
        "difference_high": row.mark.high,
    }


def _flips(row: Row, alpha: float) -> dict[str, Any] | None:
    if row.flips is None:
        return None
    found: dict[str, Any] = {
        "items": row.flips.items,
        "right_to_wrong": row.flips.lost,
        "wrong_to_right": row.flips.gained,
    }
    for name, share in (("flips", row.flips.flips), ("changed", row.flips.changed)):
        low, high = _ends(share, alpha)
        found |= {name: share.new, f"{name}_low": low, f"{name}_high": high}
    return {**found, "changed_reason": row.flips.changed.reason}


def _ends(found: Difference | None, alpha: float) -> tuple[float | None, float | None]:
    return (None, None) if found is None else found.ends(alpha / 2)
