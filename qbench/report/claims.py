"""The ledger of claims as a page: what each suite's records say of them, and who claims them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.claims.verdicts import VERDICTS, judge_claims
from qbench.compare.comparable import Gap
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.series_estimates import WHAT_INTERVALS_ARE_ABOUT, with_what_is_together
from qbench.core.page import Column, Figure, Fold, Heading, Page, Row, Table, Words, bullets
from qbench.core.units import counted
from qbench.measures.field_names import definitions, taken_by
from qbench.report.claims_data import claims_data
from qbench.report.claims_words import (
    figure_words,
    interval_words,
    rule_words,
    what_it_is_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.claims.claim import Check, Claim
    from qbench.compare.claims.verdicts import Judged, VerdictName
    from qbench.compare.selection import TableRecords
    from qbench.core.page import Part, Tone

TITLE = "Claims of the field, held against records"
_TONES: dict[VerdictName, Tone] = {
    "holds": "good",
    "does not hold": "bad",
    "undecided": "warned",
    "not testable": "quiet",
}
_COLUMNS = (
    Column("verdict", "verdict", "text"),
    Column("figure", "figure", "estimate", right=True),
    Column("interval", "95 % interval", "text", below="figure"),
    Column("of", "of", "text", below="verdict"),
    Column("expected", "true if", "text", below="figure"),
    Column("why", "why", "text"),
)


@dataclass(frozen=True)
class Held:
    """The claims as the records of one table have them."""

    table: TableRecords
    judged: tuple[Judged, ...]

    @property
    def place(self) -> str:
        """The model and the device, whichever suite it was."""
        return f"{self.table.model} on {self.table.device}"

    @property
    def tested(self) -> tuple[Judged, ...]:
        """Those that the records tell of."""
        return tuple(one for one in self.judged if one.verdict != "not testable")


def hold_against(claims: Sequence[Claim], tables: Sequence[TableRecords]) -> tuple[Held, ...]:
    """The claims held against each table, in the order of models, devices and suites."""
    ordered = sorted(tables, key=lambda one: (one.model, one.device, one.suite))
    return tuple(
        Held(table, tuple(judge_claims(claims, table, taken_by=taken_by()))) for table in ordered
    )


def claims_page(claims: Sequence[Claim], held: Sequence[Held], notes: Sequence[str] = ()) -> Page:
    """The whole: the ledger, what each table's records say, the claims with their sources."""
    parts: list[Part] = [*_summary(claims, held), _ledger(claims, held)]
    for one in held:
        parts += [Heading(one.table.title), *_section(one, every=True)]
    parts += [
        Heading("The claims"),
        Fold("Who claims what, and the rule that it comes down to", (_sources(claims),)),
        Words(method(held)),
        bullets(notes),
    ]
    return Page(TITLE, tuple(parts), claims_data(claims, held, method(held)))


def claims_on_screen(
    claims: Sequence[Claim], held: Sequence[Held], notes: Sequence[str] = ()
) -> Page:
    """What was tested, a table for each suite; what was not is counted."""
    parts: list[Part] = []
    for one in held:
        parts += [Heading(one.table.title), *_section(one, every=False)]
    parts += [
        bullets(notes, "quiet"),
        Words(method(held), "quiet"),
        *_summary(claims, held),
    ]
    return Page(TITLE, tuple(parts))


def _summary(claims: Sequence[Claim], held: Sequence[Held]) -> tuple[Part, Part]:
    """How many claims there are, and of each suite how many of each verdict."""
    lines = (f"{one.table.title}: {_counts(one.judged)}" for one in held)
    return Words(f"{counted(len(claims), 'claim')}, held against the records of"), bullets(lines)


def method(held: Sequence[Held]) -> str:
    """How it was decided."""
    share = 100 * Sampling().alpha
    units = {
        found.figure.unit
        for one in held
        for judged in one.tested
        for found in judged.figures
        if not isinstance(found.figure, Gap)
    }
    told = (
        "A claim is a range that a figure must lie in. It holds where the whole"
        f" {100 - share:g} % interval of each of its figures lies inside, does not hold where"
        " that of one lies outside, and is undecided else: that no difference was found is no proof"
        " that there is none. Windows and items are compared in pairs by bootstrap, right and wrong"
        " answers exactly, times by Welch's t over processes, seeds by the spread between them;"
        f" bytes and bits are exact. Intervals are about {WHAT_INTERVALS_ARE_ABOUT}. Verdicts are"
        " adjusted by Holm over all claims of a suite on a device: that any that holds, or any that"
        f" does not, is false has a chance of at most {share:g} % each. A verdict is about"
        " the model and the device of the records: others may show another."
    )
    return with_what_is_together(told, units)


def _counts(judged: Sequence[Judged]) -> str:
    counts = Counter(one.verdict for one in judged)
    many: dict[VerdictName, str] = {"holds": "hold", "does not hold": "do not hold"}
    words = (
        f"{counts[one]} {one if counts[one] == 1 else many.get(one, one)}"
        for one in VERDICTS
        if counts[one]
    )
    return ", ".join(words)


def _ledger(claims: Sequence[Claim], held: Sequence[Held]) -> Table:
    """A row for each claim, a column for each model on a device: the verdicts of all its suites."""
    places = list(dict.fromkeys(one.place for one in held))
    columns = (*(Column(place, place, "mark") for place in places), _SOURCE)
    rows = []
    for at, claim in enumerate(claims):
        figures = [
            _verdicts([one.judged[at].verdict for one in held if one.place == place])
            for place in places
        ]
        source = Figure(word=claim.source.words)
        rows.append(Row(claim.claim, reference=False, figures=(*figures, source)))
    return Table("", "claim", columns, tuple(rows))


_SOURCE = Column("source", "source", "text")


def _verdicts(found: Sequence[VerdictName]) -> Figure:
    """The verdicts of several suites: each that there is, counted where they differ."""
    told = [one for one in found if one != "not testable"]
    counts: Counter[VerdictName] = Counter(told)
    if not told:
        return Figure(word="not testable", tone="quiet")
    names = [one for one in VERDICTS if counts[one]]
    if len(names) == 1:
        return Figure(word=names[0], tone=_TONES[names[0]])
    words = (f"{one} in {counted(counts[one], 'suite')}" for one in names)
    return Figure(word=", ".join(words), tone="warned")


def _section(one: Held, *, every: bool) -> list[Part]:
    parts: list[Part] = []
    if one.tested:
        rows = tuple(_row(judged) for judged in one.tested)
        parts.append(Table("", "claim", _COLUMNS, rows))
    reasons: dict[str, list[str]] = {}
    for judged in one.judged:
        if judged.verdict == "not testable":
            reasons.setdefault(judged.reason, []).append(judged.claim.name)
    if not reasons:
        return parts
    number = sum(map(len, reasons.values()))
    if not every:
        told = "the page (--format markdown) says why of each"
        return [*parts, Words(f"{number} not testable from these records; {told}.", "quiet")]
    lines = (f"{reason}: {', '.join(names)}" for reason, names in reasons.items())
    return [*parts, Fold(f"{number} not testable from these records", (bullets(lines),))]


def _row(judged: Judged) -> Row:
    found = judged.deciding
    if found is None:
        raise ValueError(f"{judged.claim.name} has no figure")
    which = "outside" if judged.verdict == "does not hold" else "least certain"
    number = len(judged.figures)
    said = judged.reason if judged.verdict == "undecided" else ""
    why = "; ".join([*([said] if said else []), *([f"{which} of {number}"] if number > 1 else [])])
    figures = (
        Figure(word=judged.verdict, tone=_TONES[judged.verdict]),
        figure_words(found),
        Figure(word=interval_words(found)),
        Figure(word=what_it_is_of(found)),
        Figure(word=rule_words(found.check, found.unit)),
        Figure(word=why),
    )
    return Row(judged.claim.claim, reference=False, figures=figures)


def _sources(claims: Sequence[Claim]) -> Table:
    columns = (
        Column("name", "name", "text"),
        _SOURCE,
        Column("found", "found there", "text"),
        Column("rule", "rule", "text"),
        Column("about", "about", "text"),
        Column("note", "note", "text"),
    )
    rows = []
    for claim in claims:
        rules = "; and ".join(
            f"{check.figure} of {check.of.words}"
            + (f" against {check.against.words}" if check.against else "")
            + f": {rule_words(check, _unit(check))}"
            for check in claim.checks
        )
        words = (
            claim.name,
            claim.source.words,
            claim.source.figure or "",
            rules,
            _about(claim),
            claim.note or "",
        )
        rows.append(
            Row(claim.claim, reference=False, figures=tuple(Figure(word=word) for word in words))
        )
    return Table("", "claim", columns, tuple(rows))


def _unit(check: Check) -> str:
    """The unit that the metric has, where it is known."""
    known = definitions().get(check.metric)
    return "1" if known is None else known.unit


def _about(claim: Claim) -> str:
    """The devices and models that it is about, where these are not all."""
    parts = [] if claim.device is None else [f"device {claim.device}"]
    if claim.weights is not None:
        parts.append("{:.3g} to {:.3g} weights".format(*claim.weights))
    return ", ".join(parts)
