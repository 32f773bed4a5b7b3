"""From which number of rows on something is slower than what it is held against."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Crossover:
    """Where a ratio of times rises above 1 for good, over the numbers of rows that were measured.

    `from`: slower from `rows` on; `always`: at all of them; `never`: at none, or not at the most.
    """

    kind: Literal["from", "always", "never"]
    fewest: int
    """The fewest rows that were measured."""
    most: int
    rows: int | None = None
    """The fewest measured rows such that it is slower there and at all that are more; of `from`."""
    before: int | None = None
    """The measured number of rows below that, at which it is not slower."""
    about: float | None = None
    """Where the ratio is 1 between these two, by a straight line on logarithmic axes."""
    earlier: tuple[int, ...] = ()
    """Fewer rows at which it is slower all the same."""
    up_to: int | None = None
    """Of `never`: the most rows up to which it is slower at every number, if there are any such
    and it is not slower at any other."""

    @property
    def reason(self) -> str | None:
        """Why there is no number of rows; None where there is one."""
        if self.kind == "always":
            return f"slower at every number of rows that was measured ({self.measured})"
        if self.kind == "never":
            return f"not slower at the most rows that were measured ({self.measured})"
        return None

    @property
    def measured(self) -> str:
        """What was measured, in words."""
        return f"{self.fewest}" if self.fewest == self.most else f"{self.fewest} to {self.most}"


def crossover(ratios: Mapping[int, float]) -> Crossover | None:
    """By the ratio of times at each number of rows; equally fast is not slower.

    None where nothing was measured. Ratios are positive and finite.
    """
    if not ratios:
        return None
    rows = sorted(ratios)
    slower = [ratios[each] > 1 for each in rows]
    fewest, most = rows[0], rows[-1]
    if all(slower):
        return Crossover("always", fewest, most)
    last = max(at for at, one in enumerate(slower) if not one)
    earlier = tuple(each for each, one in zip(rows[:last], slower, strict=False) if one)
    if last == len(rows) - 1:
        first = earlier != () and all(slower[: len(earlier)])
        up_to = rows[len(earlier) - 1] if first else None
        return Crossover("never", fewest, most, earlier=earlier, up_to=up_to)
    before, after = rows[last], rows[last + 1]
    low, high = math.log(ratios[before]), math.log(ratios[after])
    share = -low / (high - low)
    about = before * (after / before) ** share
    return Crossover("from", fewest, most, after, before, about, earlier)
