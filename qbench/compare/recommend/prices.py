"""What was measured at the price of an hour: a million tokens, and a training.

The device is paid for all the time and does nothing else: the price of a token is that of the time
that it took, at the measured throughput of one batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.items import describe_point
from qbench.compare.price import hour_of, in_currency
from qbench.compare.recommend.axis import Axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.price import Price
    from qbench.compare.selection import CellRecords
    from qbench.core.record import Record

PROMPT, GENERATED, TRAINING = "price.prompt", "price", "price.training"
SERVED = "price.served"
"""Keys of the axes."""
_MILLION, _HOUR_S = 1e6, 3600.0
_A_MILLION = "per 1M tokens"
_STEPS = (
    (PROMPT, "prompt tokens", "prefill", ("batch", "prompt_tokens")),
    (GENERATED, "generated tokens", "decode", ("batch",)),
)
"""Of each price of tokens: what they are, what is timed, and how many one time is of."""


def token_prices(
    price: Price | None, cells: Sequence[CellRecords], point: Record | None
) -> tuple[Axis, Axis]:
    """Prices of a million prompt tokens and of a million generated ones at a point of the grid."""
    prompt, generated = (_of_step(price, cells, point, *step) for step in _STEPS)
    return prompt, generated


def served_price(price: Price | None, cells: Sequence[CellRecords], point: Record) -> Axis:
    """The price of a million tokens that a server generated under a load, prompts and all."""
    return _axis(
        price,
        cells,
        SERVED,
        f"price of a million tokens that were generated behind a server: {point.item.slug}; the"
        " reading of the prompts is in it",
        "price/1M served",
        measurement="serving",
        item=point.item.slug,
        metric="serving.output_throughput",
        hours=_MILLION / _HOUR_S,
        inverse=True,
    )


def training_price(price: Price | None, cells: Sequence[CellRecords]) -> Axis:
    """The price of a training: of the time of all its steps; evaluation and loading are apart."""
    return _axis(
        price,
        cells,
        TRAINING,
        "price of a training (all steps; evaluation and loading apart)",
        "price of a training",
        unit="",
        measurement="training",
        item=None,
        metric="training.total_time",
        hours=1 / _HOUR_S,
    )


def _of_step(
    price: Price | None,
    cells: Sequence[CellRecords],
    point: Record | None,
    key: str,
    tokens: str,
    step: str,
    counted: tuple[str, ...],
) -> Axis:
    unknown = None
    at_once = 1.0
    for name in counted if point else ():
        size = point.item.params.get(name) if point else None
        if isinstance(size, int) and size > 0:
            at_once *= size
        else:
            unknown = f"the records do not say how many tokens were timed: no `{name}`"
    at = f" at {describe_point(point)}" if point else ""
    return _axis(
        price,
        cells,
        key,
        f"price of a million {tokens}{at}",
        f"price/1M {tokens.partition(' ')[0]}",
        measurement="latency",
        item=point.item.slug if point else "",
        metric=f"latency.{step}",
        hours=_MILLION / _HOUR_S / at_once,
        unknown=unknown,
    )


def _axis(
    price: Price | None,
    cells: Sequence[CellRecords],
    key: str,
    title: str,
    short: str,
    *,
    unit: str = _A_MILLION,
    measurement: str,
    item: str | None,
    metric: str,
    hours: float,
    inverse: bool = False,
    unknown: str | None = None,
) -> Axis:
    """A price as an axis: `hours` are those of a device for each unit of the metric."""
    hour, no_hour = _hour(price, cells)
    currency = "" if price is None or price.currency is None else price.currency
    return Axis(
        key,
        in_currency(title, price),
        in_currency(short, price),
        "number",
        f"{currency} {unit}".strip(),
        better="lower",
        kind="cost",
        measurement=measurement,
        item=item,
        metric=metric,
        factor=(hour or 0.0) * hours,
        inverse=inverse,
        by_devices=True,
        unknown=unknown or no_hour,
    )


def _hour(price: Price | None, cells: Sequence[CellRecords]) -> tuple[float | None, str | None]:
    """Of one device of those that the cells ran on, and why it is not known."""
    if price is None:
        return None, "no price of an hour was given"
    on = next((record.environment for cell in cells for record in cell.records), None)
    if on is None:
        return None, "not measured"
    hour, reason = hour_of(price, on)
    return hour, reason or None
