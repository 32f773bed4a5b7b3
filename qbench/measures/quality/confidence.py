"""Divergence by how sure the reference is: whether what a cell changes is what was decided.

The reference is as sure as the highest probability that it gives to any token in a place, whichever
token is the text's. A KL that stands where it is not sure changes little of what is written; one
where it is sure changes answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from qbench.measures.quality.scoring import Scores

EDGES = (0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
"""Probabilities that part the ranges; the first begins at 0, the last ends at 1."""


def by_confidence(scores: Scores) -> dict[str, Any]:
    """Sums over the tokens of each range: their number, KL, change of p(true) and same top tokens.

    As a part of a record's details: lists of equal length by `from` (where a range begins),
    `tokens`, `kl` in nats, `change`, and `same_top`. Ranges without a token are left out; nothing
    without a reference.
    """
    import torch

    if (
        scores.token_confidence is None
        or scores.token_kl is None
        or scores.token_change is None
        or scores.token_same_top is None
    ):
        return {}
    edges = torch.tensor(EDGES, dtype=torch.float64)
    ranges = torch.bucketize(scores.token_confidence, edges, right=True)
    size = len(EDGES) + 1
    count = torch.bincount(ranges, minlength=size).tolist()
    kept = [at for at, tokens in enumerate(count) if tokens]

    def summed(values: torch.Tensor) -> list[float]:
        sums = torch.bincount(ranges, weights=values, minlength=size).tolist()
        return [sums[at] for at in kept]

    return {
        "by_confidence": {
            "from": [(0.0, *EDGES)[at] for at in kept],
            "tokens": [count[at] for at in kept],
            "kl": summed(scores.token_kl),
            "change": summed(scores.token_change),
            "same_top": summed(scores.token_same_top),
        }
    }
