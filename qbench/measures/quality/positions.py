"""Loss and divergence by how far into its window a token stands: what a long context changes.

A token that is scored at place `n` of its window was predicted from the `n` tokens before it. The
places are taken in ranges that double: below 16, 16 to 31, 32 to 63 …
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qbench.measures.quality.scoring import Scores
    from qbench.measures.quality.windows import Window

FIRST_END = 16
"""Where the first range of places ends."""


def by_position(
    scores: Scores, windows: list[Window], *, in_answer: bool = False
) -> dict[str, Any]:
    """Sums over the tokens of each range: their number, loss and, against a reference, KL.

    `in_answer`: places are counted from the first scored token, which stands at 0.

    As a part of a record's details: lists of equal length by `from` (the first place of a range),
    `tokens`, `nll` and `kl` in nats, the last None without a reference.
    """
    import torch

    if scores.token_nll is None:
        return {}
    places = torch.cat(
        [
            torch.arange(one.scored) if in_answer else torch.arange(one.first_scored, len(one.ids))
            for one in windows
        ]
    )
    starts = [0, FIRST_END]
    while starts[-1] * 2 <= int(places.max()):
        starts.append(starts[-1] * 2)
    ranges = torch.bucketize(places, torch.tensor(starts[1:]), right=True)
    count = torch.bincount(ranges, minlength=len(starts))
    kept = [at for at, tokens in enumerate(count.tolist()) if tokens]

    def summed(values: torch.Tensor | None) -> list[float] | None:
        if values is None:
            return None
        sums = torch.bincount(ranges, weights=values.double(), minlength=len(starts)).tolist()
        return [sums[at] for at in kept]

    return {
        "by_position": {
            "from": [starts[at] for at in kept],
            "tokens": [int(count[at]) for at in kept],
            "nll": summed(scores.token_nll),
            "kl": summed(scores.token_kl),
        }
    }
