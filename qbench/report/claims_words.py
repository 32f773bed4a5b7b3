"""What is said of a claim's figure: the number with its unit, its interval, what it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.comparable import Gap
from qbench.compare.verdicts import amount_text
from qbench.core.page import Figure
from qbench.core.units import DISPLAYS, choose_scale

if TYPE_CHECKING:
    from qbench.compare.claims.claim import Check
    from qbench.compare.claims.found import Found
    from qbench.compare.gate.rules import Amount

LEVEL_TAIL = 0.025
"""What a 95 % interval leaves out on either side."""


def figure_words(found: Found) -> Figure:
    """The figure as it stands in a table, with its interval for those who ask."""
    figure = found.figure
    if isinstance(figure, Gap) or figure.plain is None:
        return Figure(word="-", reason=figure.reason)
    low, high = figure.ends(LEVEL_TAIL)
    word = _number(found, figure.plain)
    return Figure(figure.plain, word, low=low, high=high, reason=figure.reason)


def interval_words(found: Found) -> str:
    """The 95 % interval; that a figure is exact; nothing where its chance is not known."""
    figure = found.figure
    if isinstance(figure, Gap) or figure.estimate is None:
        return "not known"
    low, high = figure.ends(LEVEL_TAIL)
    if low is None or high is None:
        return "not known"
    if low == high:
        return "exact"
    return f"{_number(found, low)} to {_number(found, high)}"


def what_it_is_of(found: Found) -> str:
    """The metric, the cells and the item."""
    return f"{found.check.figure} of {found.cells}, {found.item.measurement} {found.item.slug}"


def rule_words(check: Check, unit: str) -> str:
    """The range, in words: `below 0`, `within ±0.5 %`; `unit` is that of the figure."""
    expect = check.expect

    def amount(one: Amount, *, signed: bool = check.against is not None) -> str:
        if one.relative:
            return amount_text(one.value, relative=True, signed=signed)
        return _with_unit(one.value, unit, check, signed=signed)

    if expect.within is not None:
        return f"within ±{amount(expect.within, signed=False)}"
    if expect.between is not None:
        return " to ".join(map(amount, expect.between))
    if expect.below is not None:
        return f"below {amount(expect.below)}"
    return "" if expect.above is None else f"above {amount(expect.above)}"


def _number(found: Found, value: float) -> str:
    figure, check = found.figure, found.check
    signed = check.against is not None
    if not isinstance(figure, Gap) and figure.relative:
        return amount_text(value, relative=True, signed=signed)
    return _with_unit(value, found.unit, check, signed=signed)


def _with_unit(value: float, unit: str, check: Check, *, signed: bool) -> str:
    if value == 0:
        return "0"
    if unit not in DISPLAYS or check.per is not None:
        text = amount_text(value, relative=False, signed=signed)
        return text if unit == "1" else f"{text} {unit}"
    sign = "-" if value < 0 else "+" if signed else ""
    return sign + choose_scale([abs(value)], DISPLAYS[unit]).with_unit(abs(value))
