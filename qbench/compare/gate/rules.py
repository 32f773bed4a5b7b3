"""The rules of a gate as a suite states them: `perplexity: {max_increase: 1%}`.

The key is a metric's name or a pattern of names; its value one rule, or a list of rules. An amount
with `%` is relative to the old value, one without is in the metric's own unit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema

from qbench.core.errors import Problem
from qbench.core.names import nearest
from qbench.core.spec import Cell, Frozen, Item

BoundKind = Literal["max_increase", "max_drop", "max", "min"]
BOUNDS: tuple[BoundKind, ...] = ("max_increase", "max_drop", "max", "min")
"""The kinds of margin; a rule has exactly one."""

Keys = tuple[str | int, ...]
"""Keys and indices that lead to a value below `gate`."""

_PERCENT = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*%")


class Amount(Frozen):
    """A number as a suite states it."""

    value: float
    relative: bool
    """Whether it was stated with `%`: 1 % is 0.01."""


def _read_amount(value: Any) -> Any:
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value.strip())):
        return Amount(value=float(match[1]) / 100, relative=True)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return Amount(value=float(value), relative=False)
    return value


StatedAmount = Annotated[
    Amount,
    BeforeValidator(_read_amount),
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[-+.\deE]+ ?%$"}]}
    ),
]


class GateRule(Frozen):
    """One rule: what a metric may do, in which cells, against what."""

    metric: str
    """Name or pattern of metrics, such as `perplexity` or `tasks.*`."""
    max_increase: StatedAmount | None = None
    """The most a value may go up: `1%` of what it was, or a number in the metric's unit."""
    max_drop: StatedAmount | None = None
    """The most a value may go down: `1%` of what it was, or a number in the metric's unit."""
    max: StatedAmount | None = None
    """The highest value allowed, whatever it was."""
    min: StatedAmount | None = None
    """The lowest value allowed, whatever it was."""
    cells: tuple[str, ...] = ("*",)
    """Names or patterns of precisions or cells, such as `nf4*`; all unless given."""
    items: tuple[str, ...] = ("*",)
    """Names or patterns of items, such as a text, a task or a point of a grid; all unless given."""
    against: Literal["baseline", "reference"] = "baseline"
    """What a change is counted from: the baseline, or the reference cell of the same run."""
    inconclusive: Literal["fail", "pass"] = "fail"
    """What happens to a rule that the data cannot decide."""
    ceiling: StatedAmount | None = None
    """An improvement beyond this warns: too good is suspicious."""

    @property
    def bound(self) -> tuple[BoundKind, Amount]:
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
        raise ValueError(f"the rule for {self.metric} states no margin")

    def picks(self, cell: Cell, item: Item) -> bool:
        """Whether the rule is about this item of this cell."""
        names = cell.names
        return _any_match(names, self.cells) and _any_match((item.slug,), self.items)

    def matches(self, metric: str, better: str, item: Item) -> bool:
        """Whether the rule is about this metric of this item.

        Names are those of the metric, with its measurement's and its item's in front of it too:
        `tasks.*` are all metrics of tasks; `kl` is `kl.mean`. What a pattern finds beside what is
        meant, such as counts, is left out: a drop matters of what is better higher, an increase of
        what is better lower.
        """
        if metric in {self.metric, f"{self.metric}.mean"}:
            return True
        kind, _ = self.bound
        if {"max_increase": "higher", "max_drop": "lower"}.get(kind) == better:
            return False
        known = (
            metric,
            f"{item.measurement}.{metric}",
            f"{item.measurement}.{item.slug}",
            f"{item.measurement}.{item.slug}.{metric}",
        )
        return better != "neither" and _any_match(known, (self.metric,))


def parse_rules(
    plain: Any, known_metrics: Iterable[str] = ()
) -> tuple[tuple[GateRule, ...], list[tuple[Keys, Problem]]]:
    """The rules of a `gate` section given as plain data, and all that is wrong with it.

    Each problem comes with the keys and indices that lead to its place below `gate`.
    `known_metrics` are the names that a rule without a pattern may have; none are checked where it
    is empty.
    """
    if not isinstance(plain, Mapping) or not plain:
        expected = "metrics with their margins, such as perplexity: {max_increase: 1%}"
        return (), [_wrong((), _words(plain), expected, "remove the line to have no gate")]
    known = tuple(known_metrics)
    rules: list[GateRule] = []
    problems: list[tuple[Keys, Problem]] = []
    for name, stated in plain.items():
        metric = str(name)
        names = (*known, *(one.removesuffix(".mean") for one in known))
        if known and "." not in metric and not any(fnmatchcase(one, metric) for one in names):
            found, remedy = f"the unknown metric '{metric}'", nearest(metric, known)
            expected = "a metric's name or a pattern of names"
            problems.append(_wrong((metric,), found, expected, remedy))
            continue
        several = isinstance(stated, list | tuple)
        for index, one in enumerate(stated if several else (stated,)):
            keys = (metric, index) if several else (metric,)
            rule = _parse_rule(metric, one, keys, problems)
            if rule is not None:
                rules.append(rule)
        if several and not stated:
            problems.append(_wrong((metric,), "an empty list", "at least one rule"))
    return tuple(rules), problems


def rules_schema() -> dict[str, Any]:
    """JSON Schema of the section."""
    whole = GateRule.model_json_schema()
    fields = {key: value for key, value in whole["properties"].items() if key != "metric"}
    for key, field in fields.items():
        field.pop("title", None)
        if key in {"cells", "items"}:
            field["anyOf"] = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
            for gone in ("type", "items"):
                field.pop(gone, None)
    rule = {"type": "object", "properties": fields, "additionalProperties": False}
    return {
        "type": "object",
        "description": "Margins that `qbench gate` compares the results with, by metric.",
        "additionalProperties": {"anyOf": [rule, {"type": "array", "items": rule, "minItems": 1}]},
    }


def _parse_rule(
    metric: str, stated: Any, keys: Keys, problems: list[tuple[Keys, Problem]]
) -> GateRule | None:
    before = len(problems)
    if not isinstance(stated, Mapping):
        expected = "a margin such as {max_increase: 1%}"
        remedy = None
        if isinstance(_read_amount(stated), Amount):
            remedy = f"write {{max_increase: {stated}}} or {{max_drop: {stated}}}"
        problems.append(_wrong(keys, _words(stated), expected, remedy))
        return None
    fields = [name for name in GateRule.model_fields if name != "metric"]
    values: dict[str, Any] = {"metric": metric}
    for name, value in stated.items():
        key = str(name)
        if key not in fields:
            found, remedy = f"the unknown key '{key}'", nearest(key, fields)
            expected = f"one of {', '.join(fields)}"
            problems.append(_wrong((*keys, key), found, expected, remedy))
            continue
        problem = _field_problem(key, value)
        if problem is None:
            values[key] = (
                (value,) if key in {"cells", "items"} and isinstance(value, str) else value
            )
        else:
            problems.append(_wrong((*keys, key), _words(value), *problem))
    bounds = [name for name in BOUNDS if name in stated]
    if len(bounds) != 1:
        found = f"{' and '.join(bounds)} in one rule" if bounds else "a rule without a margin"
        remedy = "write a list of two rules" if bounds else None
        problems.append(_wrong(keys, found, f"one of {', '.join(BOUNDS)}", remedy))
    elif len(problems) == before:
        problems += _bound_problems(bounds[0], values, keys)
    return GateRule(**values) if len(problems) == before else None


def _field_problem(key: str, value: Any) -> tuple[str, str | None] | None:
    """What was expected of a value, and the remedy; None if it is right."""
    if key in {*BOUNDS, "ceiling"}:
        return _amount_problem(key, value)
    if key in {"cells", "items"}:
        names = [value] if isinstance(value, str) else value
        listed = isinstance(names, list | tuple) and len(names) > 0
        if listed and all(isinstance(name, str) and name for name in names):
            return None
        return "a name or pattern such as nf4*, or a list of them", None
    choices = {"against": ("baseline", "reference"), "inconclusive": ("fail", "pass")}[key]
    right = value in choices
    return None if right else (f"one of {', '.join(choices)}", nearest(str(value), choices))


def _amount_problem(key: str, value: Any) -> tuple[str, str | None] | None:
    amount = _read_amount(value)
    if not isinstance(amount, Amount):
        quoted = isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value)
        remedy = f"write {value} without quotes, or {value}%" if quoted else None
        return "a number such as 0.01, or a share such as 1%", remedy
    if amount.value < 0 and key not in {"max", "min"}:
        return "a number of at least 0", f"write {str(value).lstrip('-')}"
    return None


def _bound_problems(kind: str, values: dict[str, Any], keys: Keys) -> list[tuple[Keys, Problem]]:
    """What does not fit together within a rule."""
    amount = _read_amount(values[kind])
    place = (*keys, kind)
    if kind in {"max", "min"} and amount.relative:
        expected, remedy = "a number in the metric's own unit", "1% would be a share of nothing"
        return [_wrong(place, _words(values[kind]), expected, remedy)]
    if kind == "max_drop" and amount.relative and amount.value >= 1:
        expected = "less than 100%: nothing can drop by more"
        return [_wrong(place, _words(values[kind]), expected)]
    if "ceiling" not in values:
        return []
    ceiling = _read_amount(values["ceiling"])
    if kind in {"max", "min"}:
        expected = "no ceiling: it is about a change, and the rule about the value itself"
    elif ceiling.relative != amount.relative:
        expected = f"a ceiling {'with' if amount.relative else 'without'} %, as {kind} has it"
    else:
        return []
    return [_wrong((*keys, "ceiling"), _words(values["ceiling"]), expected)]


def _wrong(
    keys: Keys, found: str, expected: str, remedy: str | None = None
) -> tuple[Keys, Problem]:
    place = "gate" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return keys, Problem(place, found, expected, remedy)


def _any_match(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _words(value: Any) -> str:
    if value is None:
        return "nothing (an empty value)"
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    return f"the text '{value}'" if isinstance(value, str) else f"{str(value).lower()}"
