"""Rules and records in, an outcome out: does every rule hold?

A check is one rule on one metric of one item of one cell. All checks of a gate are judged together:
see `qbench.compare.verdicts` for what that means for the error of each claim.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.compare.comparable import Gap, condition_changes
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.gate.sides import BothSides, find_change, find_change_over_seeds
from qbench.compare.series_estimates import with_what_is_together
from qbench.compare.verdicts import Margin, Verdict, amount_text, interval_text, judge
from qbench.core.errors import UsageError
from qbench.core.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.comparable import ConditionChange
    from qbench.compare.compare import CellName, ItemName
    from qbench.compare.differences import Difference
    from qbench.compare.gate.against import Against
    from qbench.compare.gate.rules import GateRule
    from qbench.compare.gate.sides import Place
    from qbench.compare.gate.suspects import Suspects
    from qbench.compare.verdicts import VerdictName
    from qbench.core.record import Record
    from qbench.core.spec import Cell, Item

    _Known = dict[tuple[Place, str], Difference | None]

State = Literal["pass", "fail", "error", "skip"]
_STATES: dict[VerdictName, State] = {
    "holds": "pass",
    "improved": "pass",
    "broken": "fail",
    "inconclusive": "fail",
    "missing": "fail",
    "incomparable": "error",
    "not applicable": "skip",
}


@dataclass(frozen=True)
class Check:
    """One rule on one metric of one item of one cell."""

    rule: GateRule
    cell: CellName | None
    """None for a rule that matches nothing; so are `item` and `metric` then."""
    item: ItemName | None
    metric: str | None
    margin: Margin
    verdict: Verdict

    @property
    def state(self) -> State:
        """What the verdict means for the gate; `skip` counts neither way."""
        if self.verdict.name == "inconclusive" and self.rule.inconclusive == "pass":
            return "pass"
        return _STATES[self.verdict.name]

    @property
    def name(self) -> str:
        """Names the check: `nf4: perplexity on stdlib-heldout-w256-default`."""
        if self.cell is None or self.item is None:
            return self.rule.metric
        return f"{self.cell.label}: {self.metric or self.item.measurement} on {self.item.slug}"

    @property
    def allowed(self) -> str:
        """The margin in words, with what it is counted from."""
        counted_from = self.rule.counted_from
        since = f" against the {counted_from}" if counted_from else ""
        return f"{self.margin}{since}"

    @property
    def found(self) -> str:
        """The figure with its interval; a dash where there is none."""
        shown = self.verdict.difference
        if shown is None or shown.new is None:
            return "-"
        if shown.estimate is None:
            return f"{shown.new:.6g}" + ("" if shown.old is None else f", was {shown.old:.6g}")
        value = shown.shown(shown.estimate.value)
        relative, signed = shown.relative, shown.old is not None
        text = amount_text(value, relative=relative, signed=signed)
        low, high = self.verdict.low, self.verdict.high
        if low == high:  # exact
            return text
        return f"{text} ({interval_text(low, high, relative=relative, signed=signed)})"


@dataclass(frozen=True)
class GateOutcome:
    """All checks of a gate, and what they rest on."""

    checks: tuple[Check, ...]
    conditions: tuple[ConditionChange, ...]
    """In which conditions the run differs from the baseline."""
    sampling: Sampling
    against: Against | None = None
    """The baseline; None where there is none."""
    same: int = 0
    """Records of the run that are the baseline's own, as they were not taken again."""
    suspects: Suspects | None = None
    """What may have caused the failures; None where it was not looked for."""

    @property
    def exit_code(self) -> int:
        """0 when all hold, 1 on a regression, 2 when only what cannot be compared is in the way."""
        states = {check.state for check in self.checks}
        if "fail" in states:
            return 1
        return 2 if "error" in states else 0

    @property
    def counts(self) -> Counter[VerdictName]:
        """Checks by verdict."""
        return Counter(check.verdict.name for check in self.checks)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What passes and must be looked at all the same."""
        found = [f"{one.name}: {one.verdict.warning}" for one in self.checks if one.verdict.warning]
        found += [
            f"{one.name}: inconclusive, which this rule lets pass: {one.verdict.reason}"
            for one in self.checks
            if one.verdict.name == "inconclusive" and one.state == "pass"
        ]
        if all(check.state == "skip" for check in self.checks):
            found.append("no rule could be applied here: the gate has decided nothing")
        if self.same:
            found.append(
                f"{self.same} of the run's records are the baseline's own: nothing that their keys"
                " hold has changed since, so they were not taken again; `qbench run SUITE`, with"
                " another folder as --results, takes them again"
            )
        return tuple(found)

    @property
    def tests(self) -> int:
        """Checks that could be decided: what the adjustment is over."""
        found = (check.verdict.difference for check in self.checks)
        return sum(one is not None and one.estimate is not None for one in found)

    @property
    def summary(self) -> str:
        """One line: the answer and the number of checks by verdict."""
        answer = {0: "passed", 1: "failed", 2: "could not be compared"}[self.exit_code]
        counted = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"gate {answer}: {counted}"

    @property
    def method(self) -> str:
        """How it was decided, for those who read the outcome."""
        share = 100 * (1 - self.sampling.alpha)
        differences = (check.verdict.difference for check in self.checks)
        units = {one.unit for one in differences if one is not None}
        told = (
            f"One-sided limits of {share:g} %: exact ones for right and wrong answers, else"
            f" {self.sampling.resamples:,} bootstrap resamples (BCa; of windows in blocks of"
            f" neighbours), seed {self.sampling.seed}."
            " A rule holds when the whole"
            f" {100 - 2 * (100 - share):g} % interval lies inside its margin; it is broken or"
            " improved when the interval lies outside after Holm's adjustment over"
            f" the {self.tests} checks that had an interval."
        )
        return with_what_is_together(told, units)


def run_gate(
    rules: Sequence[GateRule],
    records: Sequence[Record],
    baseline: Sequence[Record] | None,
    *,
    expected: Sequence[tuple[Cell, Item]] = (),
    only: Sequence[str] = (),
    absent: Mapping[Place, str] | None = None,
    against: Against | None = None,
    sampling: Sampling | None = None,
) -> GateOutcome:
    """Holds the records against the rules.

    `records` and `baseline` are the newest of one suite and device each. `expected` are the items
    that the suite asks for: one without a record is missing, which fails. `only` keeps cells whose
    slug, label or precision matches a pattern. `absent` says of items without a record why there is
    none, where that is known. `against` says what the baseline is. Raises `UsageError` for no
    rules, and for a rule against a baseline where there is none.
    """
    if not rules:
        raise UsageError("there are no rules to compare the results with; add `gate:` to the suite")
    needing = [rule.metric for rule in rules if rule.counted_from == "baseline"]
    if baseline is None and needing:
        raise UsageError(
            f"the rules for {', '.join(dict.fromkeys(needing))} are against a baseline and none was"
            " given; name one with --baseline (`qbench baseline SUITE` makes it), or a commit with"
            " --against, or write `against: reference` in the rule"
        )
    sides = BothSides(records, baseline or (), expected, only)
    sampling = sampling or Sampling()
    unjudged = [one for rule in rules for one in _unjudged(rule, sides, sampling, absent or {})]
    verdicts = judge([(one.margin, one.found) for one in unjudged], alpha=sampling.alpha)
    checks = tuple(
        Check(one.rule, one.cell, one.item, one.metric, one.margin, verdict)
        for one, verdict in zip(unjudged, verdicts, strict=True)
    )
    conditions = condition_changes(records, baseline) if baseline and records else []
    taken = {(one.key, one.started_at): one.environment for one in baseline or ()}
    same = sum(taken.get((one.key, one.started_at)) == one.environment for one in records)
    return GateOutcome(checks, tuple(conditions), sampling, against, same)


@dataclass(frozen=True)
class _Unjudged:
    """A check before its verdict, which depends on how many there are."""

    rule: GateRule
    cell: CellName | None
    item: ItemName | None
    metric: str | None
    margin: Margin
    found: Difference | Gap


def _unjudged(
    rule: GateRule, sides: BothSides, sampling: Sampling, absent: Mapping[Place, str]
) -> list[_Unjudged]:
    kind, amount = rule.bound
    ceiling = rule.ceiling.value if rule.ceiling else None
    margin = Margin(kind, amount.value, amount.relative, ceiling)
    unjudged = []
    known: _Known = {}
    for place, metric in sides.asked(rule):
        over_seeds = _over_seeds(rule, sides, place, metric.name, sampling, known)
        if over_seeds is not None:
            arm, first, pooled = over_seeds
            if first == place:
                unjudged.append(_Unjudged(rule, arm, place[1], metric.name, margin, pooled))
            continue
        found = find_change(rule, sides, place, metric.name, sampling)
        if isinstance(found, Gap) and not sides.records_of(place):
            found = _with_reason(found, absent.get(place))
        if found is not None:
            unjudged.append(_Unjudged(rule, *place, metric.name, margin, found))
    if not unjudged:
        names = dict.fromkeys(name for known in sides.metrics.values() for name in known)
        hint = did_you_mean(rule.metric, names) or "`qbench list` shows what is measured"
        nothing = Gap("missing", f"the rule matches no metric of the cells it picks; {hint}")
        unseen = (
            f"{place[1].measurement} {place[1].slug} has no record: {why}"
            for place, why in absent.items()
            if place in sides.items and rule.picks(sides.cells[place[0]], sides.items[place])
        )
        unjudged.append(
            _Unjudged(rule, None, None, None, margin, _with_reason(nothing, next(unseen, None)))
        )
    return unjudged


def _with_reason(gap: Gap, why: str | None) -> Gap:
    if why is None or gap.kind != "missing":
        return gap
    return Gap("missing", f"{gap.reason}; {why}")


def _over_seeds(
    rule: GateRule,
    sides: BothSides,
    place: Place,
    metric: str,
    sampling: Sampling,
    known: _Known,
) -> tuple[CellName, Place, Difference] | None:
    """The arm, its first seed and the change over its seeds; None where there is no such thing.

    `known` are the changes that were worked out for earlier seeds, by the first one and the metric.
    """
    arm, places = sides.seeds(place)
    picked = [one for one in places if rule.picks(sides.cells[one[0]], sides.items[one])]
    if len(picked) < 2:  # one seed has no spread
        return None
    first = picked[0]
    if (first, metric) not in known:
        known[first, metric] = find_change_over_seeds(rule, sides, picked, metric, sampling)
    pooled = known[first, metric]
    return None if pooled is None else (arm, first, pooled)
