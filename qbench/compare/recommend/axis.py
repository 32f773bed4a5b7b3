"""One quantity that a cell is chosen by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from qbench.core.units import Display


@dataclass(frozen=True)
class Axis:
    """A quantity to choose by."""

    key: str
    """Such as `bytes`, `decode`, `perplexity:<text>`, `kl:<text>`, `tasks.<task>.<metric>`."""
    title: str
    """With the point of the grid, the text or the task that it is of."""
    short: str
    """A few words: without what is alike for all, the point or the only text."""
    display: Display
    unit: str
    """`B`, `s`, `J`, `1` for a share or a score, `nat`; of a price `USD per 1M tokens`, `USD`, or
    `per 1M tokens` and nothing where no currency was given."""
    better: Literal["lower", "higher"]
    kind: Literal["quality", "cost"]
    measurement: str
    item: str | None
    """Slug of the item that it is read from; None where the measurement has only one, or none."""
    metric: str
    of_change: bool = False
    """Whether it is the change from the reference."""
    factor: float = 1.0
    """What the metric is multiplied by."""
    inverse: bool = False
    """Whether it is the factor over the metric: of a rate."""
    by_devices: bool = False
    """Whether it counts as many times as there are devices that the cell ran on."""
    unknown: str | None = None
    """Why nothing is known of it, of any cell."""


def cost_axis(
    key: str,
    title: str,
    short: str,
    display: Display,
    unit: str,
    measurement: str,
    item: str | None,
    metric: str,
    factor: float = 1.0,
) -> Axis:
    """A cost of which less is better; `item` is the slug of the point that it is read at."""
    return Axis(
        key,
        title,
        short,
        display,
        unit,
        better="lower",
        kind="cost",
        measurement=measurement,
        item=item,
        metric=metric,
        factor=factor,
    )
