"""What a million tokens and a training cost, where an hour of the device has a price.

It is the measured time, as it stands in the other tables, at the price of the hour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.compare.items import describe_point, items
from qbench.compare.price import hour_of, in_currency
from qbench.compare.recommend.prices import GENERATED as AXIS_GENERATED
from qbench.compare.recommend.prices import (
    PROMPT,
    SERVED,
    TRAINING,
    served_price,
    token_prices,
    training_price,
)
from qbench.compare.recommend.ranges import factor_of
from qbench.core.page import Column, Figure, Heading, Row, Table, Words, bullets
from qbench.report.cell_row import cell_row
from qbench.report.figures import NOT_MEASURED, over_seeds, with_interval
from qbench.report.legend import legend_of_marks, missing_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.compare.price import Price
    from qbench.compare.recommend.axis import Axis
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.compare.tuned.arms import Arm
    from qbench.core.page import Part
    from qbench.core.record import Record

TITLE = "What it costs"
GENERATED = "price.generated"
"""Of a column and of an export; the axis that is chosen by has the shorter name."""
_RATE = {
    PROMPT: "throughput.prefill",
    AXIS_GENERATED: "throughput.decode",
    SERVED: "serving.output_throughput",
}
_WHAT = {
    PROMPT: "1M prompt tokens",
    AXIS_GENERATED: "1M generated tokens",
    SERVED: "1M tokens behind a server",
}


@dataclass(frozen=True)
class Cost:
    """What something of one cell costs at one point."""

    axis: Axis
    point: Record
    figure: Figure

    @property
    def name(self) -> str:
        """As exports have it."""
        return _name(self.axis)


def token_costs(records: TableRecords, cell: CellRecords, price: Price) -> list[Cost]:
    """What tokens of a cell cost at each point of the latency grid, and behind each server."""
    return [
        Cost(axis, point, _priced(axis, found))
        for point, axes in _points(records, price)
        if (found := cell.of(point.item.measurement, point.item.slug))
        for axis in axes
    ]


def _points(records: TableRecords, price: Price) -> Iterator[tuple[Record, tuple[Axis, ...]]]:
    """Each point at which tokens were timed, with what of them is priced there."""
    for point in items(records, "latency").values():
        yield point, token_prices(price, records.cells, point)
    for point in items(records, "serving").values():
        yield point, (served_price(price, records.cells, point),)


def _name(axis: Axis) -> str:
    return GENERATED if axis.key == AXIS_GENERATED else axis.key


def price_column(records: TableRecords, price: Price | None, point: Record | None) -> Column | None:
    """That of generated tokens at a point, for a table of other things; None without a price."""
    if price is None or point is None:
        return None
    _, axis = token_prices(price, records.cells, point)
    title = in_currency(f"price/1M at batch {point.item.params.get('batch', '?')}", price)
    column = Column(GENERATED, title, "number", "lower", axis.title)
    figures = [price_figure(records, cell, price, point) for cell in records.cells]
    return None if axis.unknown else _fine((column,), [figures])[0]


def price_figure(
    records: TableRecords, cell: CellRecords, price: Price | None, point: Record | None
) -> Figure:
    """The figure of a cell in that column."""
    if price is None or point is None:
        return Figure(word=NOT_MEASURED)
    _, axis = token_prices(price, records.cells, point)
    return _priced(axis, cell.of("latency", point.item.slug))


def cost_parts(records: TableRecords, price: Price | None) -> list[Part]:
    """The cheapest point of each cell, with what that rests on; nothing without a price."""
    if price is None:
        return []
    table = cheapest_table(records, price)
    if not table.rows:
        return []
    return [
        Heading(TITLE, 3),
        table,
        Words(_rests_on(records, price)),
        bullets([*legend_of_marks(table), *missing_values(table)]),
    ]


def training_cost_parts(arms: Sequence[Arm], price: Price | None) -> list[Part]:
    """What each arm's training costs; nothing without a price."""
    if price is None:
        return []
    table = training_cost_table(arms, price)
    if not table.rows:
        return []
    return [
        Heading(table.title, 3),
        table,
        Words(
            f"{hour_words(arms[0].trainings, price)} It is paid for the time of all steps of one"
            " training, on each GPU that the model lay on. Evaluation, checkpoints, reading the"
            " data, loading the model and tries that were thrown away come on top."
        ),
        bullets([*legend_of_marks(table), *missing_values(table)]),
    ]


def cheapest_table(records: TableRecords, price: Price) -> Table:
    """Of each cell the point at which it is cheapest, of those that were measured."""
    axes = {axis.key: axis for _, several in _points(records, price) for axis in several}
    rows = []
    for cell in records.cells:
        costs = token_costs(records, cell, price)
        if costs:
            figures = [_cheapest(costs, key) for key in axes]
            rows.append(cell_row(cell, tuple(one for pair in figures for one in pair)))
    columns = [column for axis in axes.values() for column in _cheapest_columns(axis, price)]
    columns = _fine(columns, [row.figures for row in rows])
    return Table(TITLE, "precision", tuple(columns), tuple(rows))


def cost_tables(records: TableRecords, price: Price | None) -> list[Table]:
    """One for each point, beside the throughput; none without a price."""
    if price is None:
        return []
    tables = []
    for point, axes in _points(records, price):
        columns = [
            column
            for axis in axes
            for column in (_column(axis, price), Column(_RATE[axis.key], "tokens/s", "number"))
        ]
        rows = [
            cell_row(
                cell,
                tuple(
                    figure
                    for axis in axes
                    for figure in (_priced(axis, found), with_interval(found, _RATE[axis.key]))
                ),
            )
            for cell in records.cells
            if (found := cell.of(point.item.measurement, point.item.slug))
        ]
        columns = _fine(columns, [row.figures for row in rows])
        title = f"{TITLE}: {describe_point(point)}"
        tables.append(Table(title, "precision", tuple(columns), tuple(rows)))
    return tables


def training_cost_table(arms: Sequence[Arm], price: Price) -> Table:
    """One row an arm: the mean over its seeds."""
    axis = training_price(price, [cell for arm in arms for cell in arm.trainings])
    columns = [
        Column(TRAINING, in_currency("a training", price), "number", "lower", axis.title),
        Column(axis.metric, "time of its steps", "seconds"),
    ]
    rows = []
    for arm in arms:
        time = over_seeds(arm.trainings, "training", None, axis.metric)
        trained = [record for cell in arm.trainings for record in cell.of("training")]
        rows.append(Row(arm.name, reference=False, figures=(_times(axis, time, trained), time)))
    kept = [row for row in rows if row.figures[1].value is not None]
    columns = _fine(columns, [row.figures for row in kept])
    return Table(f"{TITLE}: a training", "arm", tuple(columns), tuple(kept))


def _priced(axis: Axis, found: Sequence[Record]) -> Figure:
    """The metric that an axis is of, with its interval, as a price."""
    return _times(axis, with_interval(found, axis.metric), found)


def _times(axis: Axis, figure: Figure, found: Sequence[Record]) -> Figure:
    if figure.value is None:
        return figure
    factor, unknown = factor_of(axis, found)
    if unknown:
        return Figure(word=NOT_MEASURED, reason=unknown)

    def scaled(value: float | None) -> float | None:
        if axis.inverse:
            return factor / value if value else None
        return None if value is None else factor * value

    value = scaled(figure.value)
    if value is None or not 0 < value < math.inf:
        return Figure(word=NOT_MEASURED, reason="what its records hold is no amount")
    ends = (figure.high, figure.low) if axis.inverse else (figure.low, figure.high)
    return replace(
        figure,
        value=value,
        low=scaled(ends[0]),
        high=scaled(ends[1]),
        spread=scaled(figure.spread),
    )


def _cheapest(costs: Sequence[Cost], key: str) -> tuple[Figure, Figure]:
    """The lowest figure of a kind of cost, and the point that it is of."""
    mine = [cost for cost in costs if cost.axis.key == key]
    known = [
        (cost.figure.value, at) for at, cost in enumerate(mine) if cost.figure.value is not None
    ]
    if not known:
        return (mine[0].figure if mine else Figure(word=NOT_MEASURED)), Figure(word="")
    _, at = min(known)
    return mine[at].figure, Figure(word=_briefly(mine[at].point))


def _briefly(point: Record) -> str:
    """A point by its batch and lengths, such as `batch 8, 256 + 16 tokens`."""
    params = point.item.params
    sizes = [params.get(name) for name in ("batch", "prompt_tokens", "new_tokens")]
    if not all(isinstance(size, int) for size in sizes):
        return point.item.slug
    _, _, more = describe_point(point).partition("new tokens")  # how it was run
    return "batch {}, {} + {} tokens{}".format(*sizes, more)


def _cheapest_columns(axis: Axis, price: Price) -> tuple[Column, Column]:
    return (
        _column(axis, price),
        Column(f"{_name(axis)}.point", "cheapest at", "text"),
    )


def _column(axis: Axis, price: Price) -> Column:
    title = in_currency(_WHAT[axis.key], price)
    return Column(_name(axis), title, "number", "lower", axis.title, intervals=True)


def _fine(columns: Sequence[Column], rows: Sequence[Sequence[Figure]]) -> list[Column]:
    """The columns of prices with decimals for two, and for three digits of the smallest price."""
    made = []
    for at, column in enumerate(columns):
        known = [row[at].value for row in rows]
        least = min((value for value in known if value and value > 0), default=1.0)
        digits = 2 - math.floor(math.log10(least))
        is_price = column.key in (PROMPT, GENERATED, SERVED, TRAINING)
        made.append(replace(column, decimals=min(max(2, digits), 9)) if is_price else column)
    return made


def _rests_on(records: TableRecords, price: Price) -> str:
    """What was paid for, and what a price leaves out."""
    text = (
        f"{hour_words(records.every, price)} A million tokens cost the price of the hour over the"
        " tokens that were made in it by the measured throughput, at the cheapest of the points"
        " that were measured; the details have each. This takes the device as full all the time,"
        " with as many requests at once as the point says: idle hours come on top. Intervals are"
        " those of the measured figures."
    )
    if not items(records, "serving"):
        return f"{text} The loop is this library's, not that of a server."
    own = "; the other columns are of this library's own loop" if items(records, "latency") else ""
    return (
        f"{text} Behind a server the tokens are those that it generated under the load, prompts and"
        f" all{own}."
    )


def hour_words(cells: Sequence[CellRecords], price: Price) -> str:
    """Which price of an hour holds for cells of one device."""
    on = next(record.environment for cell in cells for record in cell.records)
    amount, reason = hour_of(price, on)
    if amount is None:
        return f"{reason[:1].upper()}{reason[1:]}."
    of = "GPU" if on.device_type == "cuda" else "machine"
    currency = f" {price.currency}" if price.currency else ""
    return f"An hour of one {of} ({on.device_kind}) costs {amount:g}{currency}, as it was stated."
