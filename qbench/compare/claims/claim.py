"""A claim as data: who says it and where, and the rule over records that it comes down to.

A rule is about one metric of some cells: its value, or its change from other cells, and the range
that it must lie in for the claim to be true.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from qbench.compare.gate.rules import Amount, StatedAmount
from qbench.core.reading import STRICT, InvalidValueError, NotNull, OneOrMore, expects
from qbench.core.spec import Deployment, Frozen

REFERENCE = "reference"
"""In the place of cells: the suite's reference."""
_SIDE = (
    "a precision such as nf4, `reference`, or what the cells are, such as {method: lora, base: nf4}"
)
_RANGE = "one of {below: 0}, {above: 0}, {within: 1%}, {between: [0.3, 0.4]}"
_PAIR = "two numbers, the smaller one first"

Text = Annotated[str, expects("a text", pattern=r"\S")]
Choices = dict[str, Any]


class Source(Frozen):
    """Who claims it."""

    model_config = STRICT

    work: Text
    """Authors, year and title."""
    arxiv: Annotated[str | None, NotNull(), expects("an arXiv id", pattern=r"^\d{4}\.\d{5}$")] = (
        None
    )
    url: Annotated[str | None, NotNull(), expects("an address", pattern=r"^https?://\S+$")] = None
    where: Annotated[str | None, NotNull()] = None
    """The table, figure or section."""
    figure: Annotated[str | None, NotNull()] = None
    """What it found there, in its own figures."""

    @property
    def words(self) -> str:
        """All of it in one line."""
        place = f"arXiv {self.arxiv}" if self.arxiv else self.url
        return ", ".join(part for part in (self.work, place, self.where) if part)


def _read_side(value: object) -> object:
    if isinstance(value, str) and value.strip():
        return {REFERENCE: True} if value == REFERENCE else {"precision": value}
    if not isinstance(value, dict) or not value:
        raise InvalidValueError(_SIDE)
    return value


class Side(Frozen):
    """Cells, by what they are.

    What is not stated may be anything; but cells that are tuned, or have a quantized cache, are
    meant only where that is stated.
    """

    model_config = STRICT

    reference: bool = False
    """The suite's reference cell."""
    precision: Annotated[str | None, NotNull()] = None
    """What the cells are held in, or served in: any name of a precision."""
    options: Choices = Field(default_factory=dict)
    """Options of that precision, each with the value that it must have, or a list of values."""
    kv_cache: Annotated[str | None, NotNull()] = None
    """The kind of quantized cache; the model's own type unless given."""
    method: Annotated[str | None, NotNull()] = None
    """How the model is tuned; not at all unless given."""
    base: Annotated[str | None, NotNull()] = None
    """The precision that it is tuned in."""
    tuned: Choices = Field(default_factory=dict)
    """Options of the method, as `options`."""
    deploy: Annotated[Deployment | None, NotNull()] = None
    """How the tuned model is served; as the arm is scored unless given."""

    @model_validator(mode="after")
    def _check_tuning(self) -> Self:
        only = {"base": self.base, "tuned": self.tuned, "deploy": self.deploy}
        stray = next((name for name, value in only.items() if value), None)
        if stray is not None and self.method is None:
            found = f"`{stray}` without a method"
            raise InvalidValueError("a `method` beside it", found, "add `method: lora`")
        return self

    @property
    def words(self) -> str:
        """The cells in words."""
        if self.reference:
            return "the reference"
        chosen = ", ".join(
            f"{name.replace('_', ' ')} {_listed(value)}"
            for name, value in (self.options | self.tuned).items()
        )
        own = [self.precision or ("a precision with" if chosen else "any cell")]
        if self.method is not None:
            own = [f"{self.method} on {self.base}" if self.base else self.method]
            own += [f"served in {self.precision}"] if self.precision else []
            own += [str(self.deploy)] if self.deploy else []
        own += [f"with a cache in {self.kv_cache}"] if self.kv_cache else []
        bare = self.precision is None and self.method is None
        return " ".join([*own, *([chosen if bare else f"({chosen})"] if chosen else [])])


def _listed(value: object) -> str:
    if isinstance(value, list | tuple):
        return " or ".join(str(one) for one in value)
    return "none" if value is None else str(value)


class Range(Frozen):
    """Where a figure lies if the claim is true. One of these."""

    model_config = STRICT

    below: Annotated[StatedAmount | None, NotNull()] = None
    above: Annotated[StatedAmount | None, NotNull()] = None
    within: Annotated[StatedAmount | None, NotNull()] = None
    """How far from 0 a change may be, either way."""
    between: Annotated[
        tuple[StatedAmount, StatedAmount] | None,
        BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
        NotNull(),
        expects(_PAIR),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _check_form(cls, value: object) -> object:
        if not isinstance(value, dict) or len(value) != 1:
            raise InvalidValueError(_RANGE)
        return value

    @model_validator(mode="after")
    def _check_amounts(self) -> Self:
        if len({one.relative for one in self.amounts}) > 1:
            raise InvalidValueError("both ends with %, or both without")
        low, high = self.ends
        if low is not None and high is not None and low > high:
            raise InvalidValueError(_PAIR if self.within is None else "a number of at least 0")
        return self

    @property
    def amounts(self) -> tuple[Amount, ...]:
        """What is stated."""
        stated = (self.below, self.above, self.within, *(self.between or ()))
        return tuple(one for one in stated if one is not None)

    @property
    def relative(self) -> bool | None:
        """Whether it is a share of the other side's value; None where it is 0, which is both."""
        if any(one.relative for one in self.amounts):
            return True
        return False if any(one.value for one in self.amounts) else None

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """The ends of the range; None where it has none.

        Those of `below` and `above` lie outside it, the others inside.
        """
        if self.within is not None:
            return -self.within.value, self.within.value
        if self.between is not None:
            return self.between[0].value, self.between[1].value
        low = None if self.above is None else self.above.value
        return low, None if self.below is None else self.below.value

    @property
    def open(self) -> bool:
        """Whether what lies on its end lies outside."""
        return self.below is not None or self.above is not None


class Check(Frozen):
    """One comparison that a claim comes down to; it is made for all the cells that it is about."""

    model_config = STRICT

    metric: Text
    """The metric's name."""
    plus: Annotated[tuple[Text, ...], OneOrMore("one metric", "remove the line")] = ()
    """More metrics of the same record, whose sum with it is meant."""
    per: Annotated[str | None, NotNull()] = None
    """Another metric of the same record that it is divided by."""
    of: Annotated[Side, BeforeValidator(_read_side)]
    """The cells that it is about."""
    against: Annotated[Side | None, BeforeValidator(_read_side), NotNull()] = None
    """What a change is counted from, the cell most alike; the value itself is meant unless
    given."""
    at: Choices = Field(default_factory=dict)
    """Parameters of the items, such as `{batch: 1}`; all items unless given."""
    expect: Annotated[Range, expects(_RANGE)]
    """Where the value, or the change, lies if the claim is true."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.against is None and (self.expect.relative or self.expect.within is not None):
            expected = "`against` beside it: a share, or `within`, is about a change"
            raise InvalidValueError(expected, "a range of changes without another side")
        return self

    @property
    def figure(self) -> str:
        """What it is about: the metric, or what is made of it."""
        sum_of = " + ".join((self.metric, *self.plus))
        if self.per is None:
            return sum_of
        return f"({sum_of}) / {self.per}" if self.plus else f"{sum_of} / {self.per}"


Sizes = Annotated[
    tuple[float, float] | None,
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    NotNull(),
    expects(_PAIR),
]


def _ordered(sizes: tuple[float, float] | None) -> tuple[float, float] | None:
    if sizes is not None and not (0 <= sizes[0] < sizes[1] and math.isfinite(sizes[1])):
        raise InvalidValueError(_PAIR)
    return sizes


class Claim(Frozen):
    """What someone claims, with the checks that must all hold for it to be true."""

    model_config = STRICT

    name: Annotated[str, expects("a name of letters, digits and -", pattern=r"^[\w.-]+$")]
    """Short and unique: for programs."""
    claim: Text
    """The claim in plain words."""
    source: Source
    checks: Annotated[tuple[Check, ...], OneOrMore("one check", "add a check")]
    device: Annotated[Literal["cpu", "cuda"] | None, NotNull()] = None
    """The kind of device that it is about; any unless given."""
    weights: Annotated[Sizes, AfterValidator(_ordered)] = None
    """The fewest and the most weights of the models that it is about; any unless given."""
    note: Annotated[str | None, NotNull()] = None
    """What a reader must know of the rule: where it is weaker or stronger than the claim."""


class LedgerFile(Frozen):
    """A file of claims."""

    model_config = STRICT

    claims: Annotated[tuple[Claim, ...], OneOrMore("one claim", "add a claim")]
