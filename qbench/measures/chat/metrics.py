"""What is told of a cell on the reference's answers, and where its own greedy text would part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.record import MetricDefinition
from qbench.measures.quality.divergence import named_after

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.measures.quality.scoring import Scores
    from qbench.measures.quality.windows import Window

PREFIX = "chat."
DIVERGENCES = named_after(PREFIX, "on the reference's answers")
SAME_TEXT, PARTS_AT = "chat.same_text", "chat.parts_at"
METRICS = (
    MetricDefinition(
        name="chat.perplexity",
        unit="1",
        better="lower",
        title="perplexity of the reference's answers",
        formula="as perplexity, over the tokens of the answers alone, their ends included",
    ),
    MetricDefinition(
        name="chat.tokens",
        unit="1",
        varies_by="nothing",
        better="neither",
        title="tokens of the answers",
        formula="tokens that the reference wrote, end tokens included",
    ),
    *DIVERGENCES,
    MetricDefinition(
        name=SAME_TEXT,
        unit="1",
        better="higher",
        title="answers that greedy text would not leave",
        formula="share of the answers each of whose tokens the cell puts first after those before"
        " it, so that its own greedy text would be the same",
    ),
    MetricDefinition(
        name=PARTS_AT,
        unit="1",
        better="higher",
        title="equal tokens before greedy text parts, median",
        formula="least number of tokens by which half of the answers have parted, by the estimate"
        " of Kaplan and Meier (1958): an answer that ends without parting is known up to its end"
        " alone",
    ),
)


def parting_places(scores: Scores, windows: Sequence[Window]) -> list[int | None]:
    """Of each answer, the number of tokens before the first that the cell does not put first.

    None where it puts first each of them, and so would have written the same.
    """
    if scores.token_true_top is None:
        raise ValueError("the answers were not scored against the reference")
    places: list[int | None] = []
    start = 0
    for window in windows:
        same = scores.token_true_top[start : start + window.scored].tolist()
        places.append(next((at for at, one in enumerate(same) if not one), None))
        start += window.scored
    return places


def survival(places: Sequence[int | None], lengths: Sequence[int]) -> list[tuple[int, float]]:
    """By numbers of equal tokens, the share of answers that have not parted after as many.

    Of each number at which one parts, in their order; the estimate of Kaplan and Meier (J. Amer.
    Statist. Assoc. 53, 1958), in which an answer that ends without parting tells nothing of later
    places. `lengths` are the answers' tokens.
    """
    share = 1.0
    found = []
    for at in sorted({place for place in places if place is not None}):
        known = sum(
            length > at and (place is None or place >= at)
            for place, length in zip(places, lengths, strict=True)
        )
        share *= 1 - sum(place == at for place in places) / known
        found.append((at, share))
    return found


def median_place(places: Sequence[int | None], lengths: Sequence[int]) -> int | None:
    """The least number of equal tokens by which half of the answers have parted; None for none."""
    half = 0.5 + 1e-12
    return next((at for at, share in survival(places, lengths) if share <= half), None)
