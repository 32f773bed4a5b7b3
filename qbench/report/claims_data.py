"""The ledger of claims for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.compare.comparable import Gap
from qbench.report.claims_words import LEVEL_TAIL, rule_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.claims.claim import Claim
    from qbench.compare.claims.found import Found
    from qbench.report.claims import Held


def claims_data(claims: Sequence[Claim], held: Sequence[Held], method: str) -> dict[str, Any]:
    """The claims with their sources, and a verdict for each of them in each table.

    A verdict has the figure that decides, and all its `figures`.
    """
    return {
        "claims": [
            {
                "name": claim.name,
                "claim": claim.claim,
                "source": claim.source.model_dump(),
                "device": claim.device,
                "weights": claim.weights,
                "note": claim.note,
            }
            for claim in claims
        ],
        "verdicts": [
            row | {"figures": [_figure(found) for found in judged.figures]}
            for row, judged in zip(
                claims_rows(held), (each for one in held for each in one.judged), strict=True
            )
        ],
        "method": method,
    }


def claims_rows(held: Sequence[Held]) -> list[dict[str, Any]]:
    """One for each claim in each table, with the figure that decides."""
    return [
        {
            "suite": one.table.suite,
            "device": one.table.device,
            "model": one.table.model,
            "claim": judged.claim.name,
            "verdict": judged.verdict,
            "reason": judged.reason,
            **(_figure(judged.deciding) if judged.deciding else dict.fromkeys(_FIGURE)),
            "number_of_figures": len(judged.figures),
        }
        for one in held
        for judged in one.judged
    ]


_FIGURE = (
    "metric",
    "cells",
    "measurement",
    "item",
    "unit",
    "relative",
    "figure",
    "low",
    "high",
    "expected",
)


def _figure(found: Found) -> dict[str, Any]:
    """A figure with its 95 % interval; ratios less 1 where it is relative."""
    figure = found.figure
    known = None if isinstance(figure, Gap) else figure
    low, high = (None, None) if known is None else known.ends(LEVEL_TAIL)
    values = (
        found.check.figure,
        found.cells,
        found.item.measurement,
        found.item.slug,
        found.unit,
        None if known is None else known.relative,
        None if known is None else known.plain,
        low,
        high,
        rule_words(found.check, found.unit),
    )
    return dict(zip(_FIGURE, values, strict=True))
