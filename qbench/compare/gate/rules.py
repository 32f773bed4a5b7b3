"""The rules of a gate as a suite states them: `perplexity: {max_increase: 1%}`.

The key is a metric's name or a pattern of names; its value one rule, or a list of rules. An amount
with `%` is relative to the old value, one without is in the metric's own unit.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from qbench.compare.flips import score_of
from qbench.core.aliases import Also
from qbench.core.quantities import is_number, share_of
from qbench.core.reading import (
    STRICT,
    InvalidValueError,
    NotNull,
    OneOrMore,
    expects,
    invalid_below,
)
from qbench.core.spec import Cell, Frozen, Item
from qbench.precisions.names import picks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qbench.compare.verdicts import MarginKind

BOUNDS: tuple[MarginKind, ...] = ("max_increase", "max_drop", "max", "min")
"""The kinds of margin; a rule has exactly one."""
LEVELS = ("max", "min")
"""Bounds that limit the value itself, and need nothing to compare it with."""


class Amount(Frozen):
    """A number as a suite states it."""

    value: float
    relative: bool
    """Whether it was stated with `%`: 1 % is 0.01."""


_AMOUNT = "a number such as 0.01, or a share such as 1%"


def _read_amount(value: object) -> Amount:
    if isinstance(value, Amount):
        return value
    if isinstance(value, str) and (share := share_of(value)) is not None:
        return Amount(value=share, relative=True)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return Amount(value=float(value), relative=False)
    quoted = isinstance(value, str) and is_number(value)
    raise InvalidValueError(
        _AMOUNT, remedy=f"write {value} without quotes, or {value}%" if quoted else None
    )


def _not_negative(amount: Amount) -> Amount:
    if amount.value < 0:
        meant = f"{-100 * amount.value:g}%" if amount.relative else f"{-amount.value:g}"
        raise InvalidValueError("a number of at least 0", remedy=f"write {meant}")
    return amount


StatedAmount = Annotated[
    Amount,
    BeforeValidator(_read_amount),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[-+.\deE]+ ?%$"}],
            "errorMessage": _AMOUNT,
        }
    ),
]
Change = Annotated[StatedAmount, AfterValidator(_not_negative)]
Patterns = Annotated[
    tuple[Annotated[str, expects("a name or pattern such as nf4*", min_length=1)], ...],
    OneOrMore("a name or pattern such as nf4*", "remove the line to take all"),
]


class RuleEntry(Frozen):
    """What a suite says of a metric: what it may do, in which cells, against what."""

    model_config = STRICT

    max_increase: Annotated[Change | None, NotNull()] = None
    """The most a value may go up: `1%` of what it was, or a number in the metric's unit."""
    max_drop: Annotated[Change | None, NotNull(), Also("max_decrease")] = None
    """The most a value may go down: `1%` of what it was, or a number in the metric's unit."""
    max: Annotated[StatedAmount | None, NotNull()] = None
    """The highest value allowed, whatever it was."""
    min: Annotated[StatedAmount | None, NotNull()] = None
    """The lowest value allowed, whatever it was."""
    cells: Patterns = ("*",)
    """Names or patterns of precisions or cells, such as `nf4*`; all unless given."""
    items: Patterns = ("*",)
    """Names or patterns of items, such as a text, a task or a point of a grid; all unless given."""
    against: Literal["baseline", "reference"] = "baseline"
    """What a change is counted from: the baseline, or the reference cell of the same run."""
    inconclusive: Literal["fail", "pass"] = "fail"
    """What happens to a rule that the data cannot decide."""
    ceiling: Annotated[Change | None, NotNull()] = None
    """An improvement beyond this warns: too good is suspicious."""

    @model_validator(mode="before")
    @classmethod
    def _check_form(cls, value: object) -> object:
        if isinstance(value, dict):
            return value
        margin = isinstance(value, str) and share_of(value) is not None
        remedy = None
        if margin or (isinstance(value, int | float) and not isinstance(value, bool)):
            remedy = f"write {{max_increase: {value}}} or {{max_drop: {value}}}"
        raise InvalidValueError("a margin such as {max_increase: 1%}", remedy=remedy)

    @model_validator(mode="after")
    def _check_bound(self) -> Self:
        bounds = [kind for kind in BOUNDS if getattr(self, kind) is not None]
        if len(bounds) != 1:
            found = f"{' and '.join(bounds)} in one rule" if bounds else "a rule without a margin"
            remedy = "write a list of two rules" if bounds else None
            raise InvalidValueError(f"one of {', '.join(BOUNDS)}", found, remedy)
        kind, amount = self.bound
        of_value = kind in LEVELS
        if of_value and amount.relative:
            remedy = "1% would be a share of nothing"
            raise invalid_below(
                (kind,), InvalidValueError("a number in the metric's own unit", remedy=remedy)
            )
        if kind == "max_drop" and amount.relative and amount.value >= 1:
            raise invalid_below(
                (kind,), InvalidValueError("less than 100%: nothing can drop by more")
            )
        if self.ceiling is not None and of_value:
            expected = "no ceiling: it is about a change, and the rule about the value itself"
            raise invalid_below(("ceiling",), InvalidValueError(expected))
        if self.ceiling is not None and self.ceiling.relative != amount.relative:
            expected = f"a ceiling {'with' if amount.relative else 'without'} %, as {kind} has it"
            raise invalid_below(("ceiling",), InvalidValueError(expected))
        return self

    @property
    def bound(self) -> tuple[MarginKind, Amount]:
        """The kind of margin and its amount."""
        stated = {
            "max_increase": self.max_increase,
            "max_drop": self.max_drop,
            "max": self.max,
            "min": self.min,
        }
        for kind in BOUNDS:
            amount = stated[kind]
            if amount is not None:
                return kind, amount
        raise ValueError("a rule without a margin")


class GateRule(RuleEntry):
    """One rule of a gate."""

    metric: str
    """Name or pattern of metrics, such as `perplexity` or `tasks.*`."""

    def picks(self, cell: Cell, item: Item) -> bool:
        """Whether the rule is about this item of this cell."""
        picked = any(picks(pattern, cell.names) for pattern in self.cells)
        return picked and _any_match((item.slug,), self.items)

    @property
    def counts_flips(self) -> bool:
        """Whether it limits flips or changed answers, which are counted from another side."""
        return score_of(self.metric) is not None

    @property
    def counted_from(self) -> str | None:
        """What the figure is counted from; None for a rule about the value itself."""
        return self.against if self.counts_flips or self.bound[0] not in LEVELS else None

    def matches(self, metric: str, better: str, item: Item) -> bool:
        """Whether the rule is about this metric of this item.

        Names are those of the metric, with its measurement's and its item's in front of it too:
        `tasks.*` are all metrics of tasks; `kl` is `kl.mean`. What a pattern finds beside what is
        meant, such as counts, is left out: a drop matters of what is better higher, an increase of
        what is better lower. Flips and changed answers are found where the rule ends in them:
        `tasks.hellaswag.flips` are those of all its scores.
        """
        derived = score_of(metric)
        if derived is not None and not self.metric.endswith(f".{derived[1]}"):
            return False
        if metric in {self.metric, f"{self.metric}.mean"}:
            return True
        kind, _ = self.bound
        if {"max_increase": "higher", "max_drop": "lower"}.get(kind) == better:
            return False
        of_all: tuple[str, ...] = ()
        if derived is not None:
            score, share = derived
            of_all = (
                f"{item.measurement}.{item.slug}.{share}",
                f"{score.rpartition('.')[0]}.{share}",
            )
        known = (
            metric,
            f"{item.measurement}.{metric}",
            f"{item.measurement}.{item.slug}",
            f"{item.measurement}.{item.slug}.{metric}",
            *of_all,
        )
        return better != "neither" and _any_match(known, (self.metric,))


def _check_section(value: object) -> object:
    if isinstance(value, dict) and value:
        return value
    expected = "metrics with their margins, such as perplexity: {max_increase: 1%}"
    raise InvalidValueError(expected, remedy="remove the line to have no gate")


RuleSection = Annotated[
    dict[
        str,
        Annotated[
            tuple[RuleEntry, ...], OneOrMore("one rule such as {max_increase: 1%}", "add one")
        ],
    ],
    Field(min_length=1),
    BeforeValidator(_check_section),
]
"""The section `gate` of a suite: a rule, or a list of rules, by the metric's name or a pattern."""


def rules_of(section: Mapping[str, Iterable[RuleEntry]]) -> tuple[GateRule, ...]:
    """The rules of the section, one after the other."""
    return tuple(
        GateRule(metric=metric, **{name: getattr(entry, name) for name in entry.model_fields_set})
        for metric, every in section.items()
        for entry in every
    )


def _any_match(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)
