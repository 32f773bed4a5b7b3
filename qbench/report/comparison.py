"""A comparison of two sets of records, for a terminal and as markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.comparison.series_estimates import WHAT_INTERVALS_ARE_ABOUT
from qbench.comparison.verdict import amount_text
from qbench.report.markdown_parts import bullets, escape, words_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from qbench.comparison.compare import Comparison, Row

HEADINGS = ("cell", "metric", "item", "new", "old", "difference", "interval", "verdict")
_SHOWN_ALWAYS = ("real", "undecided")
_PLACES_SHOWN = 4
_STYLES = {
    "better": "green",
    "worse": "bold red",
    "changed": "yellow",
    "undecided": "yellow",
    "equivalent": "dim",
}


MOST_NAME_PARTS = 2
_BESIDE = frozenset(
    {"quantized_share", "nonfinite_share", "kl.rounding", "kl.noise_floor", "kl.max"}
)
"""Metrics of two parts or fewer that are shown only on request."""


def render(
    comparison: Comparison, *, everything: bool = False, undecided: bool = True
) -> RenderableType:
    """For a terminal: the differences, then what could not be compared, then the conditions.

    What is equivalent is counted, and shown only with `everything`; what is undecided is only
    counted without `undecided`.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    # Two lines a row, so that eighty columns hold it: item below metric, interval below difference.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for index, title in enumerate(("cell", "metric, item", "new", "old", "difference", "")):
        table.add_column(title, justify="right" if 2 <= index <= 4 else "left", overflow="fold")
    shown = [
        row
        for row in _compared(comparison, everything=everything)
        if undecided or row.mark.finding != "undecided"
    ]
    for row in shown:
        cell, metric, item, new, old, difference, interval, verdict = _texts(row)
        style = _STYLES.get(row.direction or row.mark.finding, "")
        table.add_row(
            Text(cell),
            Text.assemble(metric, "\n", (item, "dim")),
            Text(new),
            Text(old),
            Text.assemble(difference, "\n", (interval, "dim")),
            Text(verdict, style=style),
        )
    parts: list[RenderableType] = [
        Text(f"{comparison.new} (new) against {comparison.old} (old)", style="bold"),
        *([table] if shown else []),
        Text(summary(comparison)),
    ]
    parts += [Text(f"{reason}: {_first(places)}") for reason, places in obstacles(comparison)]
    if comparison.conditions:
        parts.append(Text("Conditions that differ", style="bold"))
        parts += [
            Text(f"{one.name}: {one.new} (new), {one.old} (old)") for one in comparison.conditions
        ]
    parts.append(Text(method(comparison), style="dim"))
    return Group(*parts)


def markdown(comparison: Comparison, *, everything: bool = True) -> str:
    """The same as a markdown page."""
    blocks = [f"# {escape(comparison.new)} against {escape(comparison.old)}", summary(comparison)]
    if shown := _compared(comparison, everything=everything):
        blocks.append(words_table(HEADINGS, [_texts(row) for row in shown], range(3, 7)))
    if gaps := obstacles(comparison):
        lines = (escape(f"{reason}: {', '.join(places)}") for reason, places in gaps)
        blocks += ["## Not compared", bullets(lines)]
    rows = [(one.name, one.new, one.old) for one in comparison.conditions]
    conditions = words_table(("condition", "new", "old"), rows) if rows else "None."
    blocks += ["## Conditions that differ", conditions, escape(method(comparison))]
    return "\n\n".join(blocks) + "\n"


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
    return (
        f"Intervals of {100 - share:g} %: right and wrong answers exactly (McNemar's test at 0),"
        " windows by paired bootstrap in blocks of neighbours, other items by paired bootstrap"
        f" (BCa, {sampling.resamples:,} resamples, seed {sampling.seed}), times by Welch's t over"
        f" processes. They are about {WHAT_INTERVALS_ARE_ABOUT}. Better, worse or changed: the"
        f" difference is not 0, two-sided. Equivalent: the whole {100 - 2 * share:g} % interval"
        " lies inside the stated margin (±). Claims of each kind are adjusted by Holm over all"
        f" {comparison.tests} differences: that any of them is false has a chance of at most"
        f" {share:g} %."
    )


def obstacles(comparison: Comparison) -> list[tuple[str, list[str]]]:
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
    parts = row.metric.split(".")
    # A throughput is its latency once more.
    return len(parts) <= MOST_NAME_PARTS and row.metric not in _BESIDE and parts[0] != "throughput"


def _texts(row: Row) -> list[str]:
    found, mark = row.difference, row.mark
    if found is None or found.estimate is None or found.new is None or found.old is None:
        return [row.cell.label, row.metric, row.item.slug, *["-"] * 4, mark.finding]
    metric = row.metric if row.unit == "1" else f"{row.metric} ({row.unit})"
    value = found.shown(found.estimate.value)
    interval = "exact"
    if mark.low is not None and mark.high is not None and mark.low != mark.high:
        ends = (amount_text(end, relative=found.relative) for end in (mark.low, mark.high))
        interval = " to ".join(ends)
    verdict = row.direction or mark.finding
    if mark.finding == "equivalent":
        amount = amount_text(row.allowance.amount, relative=row.allowance.relative, signed=False)
        verdict = "equal" if found.equal else f"equivalent (±{amount})"
    return [
        row.cell.label,
        metric,
        row.item.slug,
        _number(found.new),
        _number(found.old),
        amount_text(value, relative=found.relative),
        interval,
        verdict,
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"
