"""Verdicts in pictures: a colour and a shape each, so that either alone tells them apart."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Sign(NamedTuple):
    """How a verdict is drawn, and written in a caption."""

    colour: str
    shape: str
    letter: str


# The colours are told apart with any kind of colour blindness (Okabe and Ito).
BETTER = Sign("#009e73", "triangle-up", "▲")
WORSE = Sign("#d55e00", "triangle-down", "▼")
CHANGED = Sign("#cc79a7", "diamond", "◆")
ALIKE = Sign("#0072b2", "circle", "●")
EQUAL = Sign("#56b4e9", "square", "■")
OPEN = Sign("#8c8c8c", "cross", "✚")


def verdict_channels(signs: Mapping[str, Sign]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The channels of colour and of shape for the field `verdict`."""
    colours, shapes = (
        {
            "field": "verdict",
            "type": "nominal",
            "legend": None,
            "scale": {"domain": list(signs), "range": values},
        }
        for values in (
            [sign.colour for sign in signs.values()],
            [sign.shape for sign in signs.values()],
        )
    )
    return colours, shapes


def signs_in_words(signs: Mapping[str, Sign]) -> str:
    """The signs with what they mean, for a caption."""
    return ", ".join(f"{sign.letter} {name}" for name, sign in signs.items())


def counted_verdicts(verdicts: Iterable[str]) -> str:
    """How many there are of each: `3 better, 1 undecided`."""
    return ", ".join(f"{number} {verdict}" for verdict, number in Counter(verdicts).items())
