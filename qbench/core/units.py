"""Numbers as a person reads them: one unit and one number of decimals for a whole column."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Display = Literal[
    "bytes", "exact", "seconds", "number", "percent", "change", "estimate", "mark", "text"
]
"""What a column holds and how it is shown.

`exact` are whole numbers, `percent` and `change` ratios times 100; `estimate` are numbers with an
interval, shown as words with a verdict; `mark` is one of few words; `text` any, and may be long.
"""

DISPLAYS: dict[str, Display] = {"B": "bytes", "s": "seconds"}
"""How numbers of a metric's unit are shown, where its scale changes with their size."""
LARGEST_WRITTEN_OUT = 1e15
"""From here on a number stands with its power of ten: it has hundreds of digits else."""
_BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
_SECONDS = ((10.0, 1.0, "s"), (1e-3, 1e-3, "ms"), (0.0, 1e-6, "µs"))
_SIGNIFICANT: dict[Display, int] = {
    "bytes": 3,
    "seconds": 3,
    "number": 4,
    "percent": 3,
    "change": 2,
}
_MOST_DECIMALS: dict[Display, int] = {
    "bytes": 3,
    "seconds": 3,
    "number": 4,
    "percent": 2,
    "change": 3,
}


@dataclass(frozen=True)
class Scale:
    """How the numbers of one column are written."""

    symbol: str
    """Unit for the column's heading; empty for a plain number."""
    divisor: float
    """What a number in the metric's own unit is divided by."""
    decimals: int
    signed: bool = False

    def text(self, value: float) -> str:
        """The number without its unit, such as `12.30`; `<0.001` for what would round to 0."""
        if value == 0:
            return "0"
        shown = value / self.divisor
        if abs(shown) >= LARGEST_WRITTEN_OUT:
            return f"{shown:{'+' if self.signed else ''}.3g}"
        if self.signed:
            return f"{shown:+,.{self.decimals}f}"
        least = 10.0**-self.decimals
        if abs(shown) < least / 2:
            return f"<{least:.{self.decimals}f}"
        return f"{shown:,.{self.decimals}f}"

    def is_nothing(self, value: float) -> bool:
        """Whether the number would round to 0."""
        return abs(value / self.divisor) < 10.0**-self.decimals / 2

    def with_unit(self, value: float) -> str:
        """The number with its unit, such as `12.30 MiB`."""
        return f"{self.text(value)} {self.symbol}".rstrip()


def choose_scale(
    values: Iterable[float],
    display: Display,
    *,
    decimals: int | None = None,
    unit_of: Iterable[float] | None = None,
) -> Scale:
    """A scale on which all of a column's values can be compared.

    The largest value decides the unit, the smallest that is not 0 the decimals, so that it keeps
    its significant digits. `decimals` fixes them. `unit_of` are the values that decide the unit
    where several columns share one.
    """
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    largest = max((abs(value) for value in (unit_of or sizes)), default=0.0)
    symbol, divisor = _unit(largest, display)
    if decimals is None:
        shown = (size / divisor for size in sizes)
        known = [size for size in shown if 0 < size < math.inf]  # of what no float can hold: none
        decimals = _decimals(known, display, symbol)
    return Scale(symbol, divisor, decimals, signed=display == "change")


def _unit(largest: float, display: Display) -> tuple[str, float]:
    if display == "bytes":
        divisor, symbol = next((unit for unit in _BYTES if largest >= unit[0]), _BYTES[-1])
        return symbol, float(divisor)
    if display == "seconds":
        _, size_s, symbol = next((unit for unit in _SECONDS if largest >= unit[0]), _SECONDS[-1])
        return symbol, size_s
    if display in ("percent", "change"):
        return "%", 0.01
    return "", 1.0


def _decimals(sizes: list[float], display: Display, symbol: str) -> int:
    whole = display == "number" and all(size.is_integer() for size in sizes)
    if not sizes or display == "exact" or symbol == "B" or whole:
        return 0
    digits_before_point = math.floor(math.log10(min(sizes))) + 1
    wanted = _SIGNIFICANT[display] - digits_before_point
    return max(0, min(wanted, _MOST_DECIMALS[display]))


def counted(number: int, noun: str) -> str:
    """A number with its noun in the singular or the plural: `1 cell`, `2 processes`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith(('s', 'sh', 'ch')) else 's'}"


def format_seconds(seconds: float) -> str:
    """Seconds as `42 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
