"""A comparison of two sets of records as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.items import TASKS
from qbench.compare.series_estimates import WHAT_INTERVALS_ARE_ABOUT, with_what_is_together
from qbench.compare.verdicts import amount_text, interval_text
from qbench.core.page import Column, Figure, Heading, Page, Table, Words, bullets, words_table
from qbench.core.page import Row as TableRow
from qbench.core.units import LARGEST_WRITTEN_OUT
from qbench.report.charts.comparison import comparison_charts
from qbench.report.comparison_data import comparison_data
from qbench.report.field_names import called_elsewhere
from qbench.report.flips import HOW_FLIPS_ARE_COUNTED, flips_table
from qbench.report.suspects import span_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.compare import Comparison, Row
    from qbench.core.page import Part, Tone

_COLUMNS = (
    Column("metric", "metric", "text"),
    Column("item", "item", "text", below="metric"),
    Column("new", "new", "number"),
    Column("old", "old", "number"),
    Column("difference", "difference", "estimate", right=True),
    Column("interval", "interval", "text", right=True, below="difference"),
    Column("verdict", "verdict", "text"),
)
_SHOWN_ALWAYS = ("real", "undecided")
_PLACES_SHOWN = 4
_TONES: dict[str, Tone] = {
    "better": "good",
    "worse": "bad",
    "changed": "warned",
    "undecided": "warned",
    "equivalent": "quiet",
}
MOST_NAME_PARTS = 2
_BESIDE = frozenset(
    {"quantized_share", "nonfinite_share", "kl.rounding", "kl.noise_floor", "kl.max"}
)
"""Metrics of two parts or fewer that are shown only on request."""


def comparison_page(comparison: Comparison) -> Page:
    """The whole: every metric that was compared, what was not, the conditions and the method."""
    parts: list[Part] = [Words(summary(comparison))]
    if shown := _compared(comparison, everything=True):
        drawn = comparison_charts([row for row in shown if _is_headline(row)])
        parts += [*drawn, _table(shown), *_names(shown)]
    if flipped := flips_table(comparison.rows):
        parts += [Heading(flipped.title), flipped, Words(HOW_FLIPS_ARE_COUNTED)]
    if gaps := find_gaps(comparison):
        lines = (f"{reason}: {', '.join(places)}" for reason, places in gaps)
        parts += [Heading("Not compared"), bullets(lines)]
    rows = [(one.name, one.new, one.old) for one in comparison.conditions]
    headings = ("condition", "new", "old")
    parts += [
        Heading("Conditions that differ"),
        words_table(headings, rows) if rows else Words("None."),
        *span_parts(comparison.span),
        Words(method(comparison)),
    ]
    title = f"{comparison.new} against {comparison.old}"
    return Page(title, tuple(parts), comparison_data(comparison, method(comparison)))


def comparison_on_screen(
    comparison: Comparison, *, everything: bool = False, undecided: bool = True
) -> Page:
    """The differences, then what could not be compared, then the conditions.

    What is equivalent is counted, and shown only with `everything`; what is undecided is only
    counted without `undecided`.
    """
    shown = [
        row
        for row in _compared(comparison, everything=everything)
        if undecided or row.mark.finding != "undecided"
    ]
    gaps = (f"{reason}: {_first(places)}" for reason, places in find_gaps(comparison))
    parts: list[Part] = [
        *([_table(shown), *_names(shown)] if shown else []),
        *([flipped] if (flipped := flips_table(comparison.rows, everything=everything)) else []),
        bullets([summary(comparison), *gaps]),
    ]
    if comparison.conditions:
        lines = (f"{one.name}: {one.new} (new), {one.old} (old)" for one in comparison.conditions)
        parts += [Heading("Conditions that differ"), bullets(lines)]
    parts += span_parts(comparison.span)
    title = f"{comparison.new} (new) against {comparison.old} (old)"
    return Page(title, (*parts, Words(method(comparison), "quiet")))


def summary(comparison: Comparison) -> str:
    """How many differences there are of each kind, in a sentence."""
    counts: dict[str, int] = {}
    for row in comparison.rows:
        name = row.direction or row.mark.finding
        counts[name] = counts.get(name, 0) + 1
    if not counts:
        return "Nothing to compare."
    return ", ".join(f"{count} {name}" for name, count in counts.items()) + "."


def method(comparison: Comparison) -> str:
    """How it was decided."""
    sampling = comparison.sampling
    share = 100 * sampling.alpha
    units = {row.difference.unit for row in comparison.rows if row.difference is not None}
    told = (
        f"Intervals of {100 - share:g} %: right and wrong answers exactly (McNemar's test at 0),"
        " windows by paired bootstrap in blocks of neighbours, other items by paired bootstrap"
        f" (BCa, {sampling.resamples:,} resamples, seed {sampling.seed}), times by Welch's t over"
        f" processes. They are about {WHAT_INTERVALS_ARE_ABOUT}. Better, worse or changed: the"
        f" difference is not 0, two-sided. Equivalent: the whole {100 - 2 * share:g} % interval"
        " lies inside the stated margin (±). Claims of each kind are adjusted by Holm over all"
        f" {comparison.tests} differences: that any of them is false has a chance of at most"
        f" {share:g} %."
    )
    return with_what_is_together(told, units)


def find_gaps(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """What was not compared, by reason, with the places."""
    found: dict[str, dict[str, None]] = {}
    for row in comparison.rows:
        if row.mark.finding in {"missing", "incomparable", "not applicable"}:
            reason = f"{row.mark.finding}: {row.mark.reason}"
            place = f"{row.cell.label} {row.item.measurement} {row.item.slug}"
            found.setdefault(reason, {})[place] = None
        elif row.difference is not None and row.difference.estimate is None:
            place = f"{row.cell.label} {row.metric} {row.item.slug}"
            found.setdefault(f"undecided: {row.mark.reason}", {})[place] = None
    return [(reason, list(places)) for reason, places in found.items()]


def _names(rows: Sequence[Row]) -> list[Part]:
    """What else the metrics of the table are called."""
    return [Words(text, "quiet") for text in called_elsewhere((row.metric, None) for row in rows)]


def _first(places: list[str]) -> str:
    """The first few; the page has them all."""
    more = len(places) - _PLACES_SHOWN
    shown = ", ".join(places[:_PLACES_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown


def _compared(comparison: Comparison, *, everything: bool) -> list[Row]:
    return [
        row
        for row in comparison.rows
        if row.difference is not None
        and row.difference.estimate is not None
        and (everything or (row.mark.finding in _SHOWN_ALWAYS and _is_headline(row)))
    ]


def _is_headline(row: Row) -> bool:
    """Whether a person decides by the metric: not a part, a percentile or a plain count."""
    if row.item.measurement in TASKS:
        return True
    parts = row.metric.split(".")
    # A throughput is its latency once more.
    return len(parts) <= MOST_NAME_PARTS and row.metric not in _BESIDE and parts[0] != "throughput"


def _table(rows: Sequence[Row]) -> Table:
    return Table("", "cell", _COLUMNS, tuple(map(_line, rows)))


def _line(row: Row) -> TableRow:
    """A row that was compared."""
    found, mark = row.difference, row.mark
    value = None if found is None or found.estimate is None else found.plain
    if found is None or value is None or found.new is None or found.old is None:
        raise ValueError(f"{row.metric} of {row.cell.label} was not compared")
    exact = mark.low == mark.high
    interval = interval_text(mark.low, mark.high, relative=found.relative)
    verdict = row.direction or mark.finding
    tone = _TONES.get(verdict, "plain")
    if mark.finding == "equivalent":
        amount = amount_text(row.allowance.amount, relative=row.allowance.relative, signed=False)
        verdict = "equal" if found.equal else f"equivalent (±{amount})"
    figures = (
        Figure(word=row.metric if row.unit == "1" else f"{row.metric} ({row.unit})"),
        Figure(word=row.item.slug),
        Figure(found.new, _number(found.new)),
        Figure(found.old, _number(found.old)),
        Figure(value, amount_text(value, relative=found.relative), low=mark.low, high=mark.high),
        Figure(word="exact" if exact else interval),
        Figure(word=verdict, tone=tone),
    )
    return TableRow(row.cell.label, reference=False, figures=figures)


def _number(value: float) -> str:
    return (
        f"{value:,.0f}"
        if float(value).is_integer() and abs(value) < LARGEST_WRITTEN_OUT
        else f"{value:.4g}"
    )
