"""Names as a person wrote them: the nearest of those that there are, and long ones shortened."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LIKENESS = 0.5
"""Of difflib's ratio: one letter that is wrong in a word of two is still found."""


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """The nearest of the names, whatever its case; None if none is near."""
    by_fold = {known.casefold(): known for known in names}
    close = get_close_matches(name.casefold(), by_fold, n=1, cutoff=_LIKENESS)
    return by_fold[close[0]] if close else None


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    """Asks for the nearest of the names, whatever its case; None if none is near."""
    nearest = nearest_name(name, names)
    return None if nearest is None else f"did you mean '{nearest}'?"


def what_there_is(name: str, names: Iterable[str]) -> str:
    """Ends a message: the nearest of the names, and all of them."""
    known = list(names)
    if not known:
        return "there is none in this installation"
    near = did_you_mean(name, known)
    return f"{f'{near} ' if near else ''}There is {', '.join(known)}"


def shortened(text: str, longest: int = 60) -> str:
    """The text in one printable line, its middle left out when it is long."""
    line = "".join(mark if mark.isprintable() else " " for mark in text)
    if len(line) <= longest:
        return line
    half = (longest - 1) // 2
    return f"{line[:half]}…{line[-half:]}"
