"""What the records say in a few sentences, and no more than they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.units import counted
from qbench.report.failures import is_whole
from qbench.report.figures import pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords, Selection, TableRecords
    from qbench.core.page import Row
    from qbench.report.decision import Decision

_CELLS_TO_COMPARE = 2
_PROCESSES_FOR_SPREAD = 2
_NAMED = 3
"""Cells that a sentence leaves out by name; more are counted."""


def summarise(records: TableRecords, decision: Decision) -> str:
    """One paragraph on one decision table."""
    sentences = [
        _what_was_measured(records),
        _smallest(decision),
        _fastest(records, decision, "latency.prefill", "prefill"),
        _fastest(records, decision, "latency.decode", "decode"),
        *(_perplexity(decision, slug) for slug in decision.texts),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def passed_over(selection: Selection) -> list[str]:
    """What the report leaves out of the records it was given."""
    notes = []
    if selection.older:
        notes.append(
            f"{counted(selection.older, 'older record')} of the same items "
            "(or of other conditions) passed over for newer ones."
        )
    return [*notes, *left_out(selection)]


def left_out(selection: Selection) -> list[str]:
    """The records that are left out as their numbers mean something else, or another model."""
    notes = [
        f"{counted(number, 'record')} of protocol {version} left out: numbers of protocol "
        f"{selection.protocol} and others are not comparable. Run the suite again to replace them."
        for version, number in selection.other_protocols
    ]
    if selection.other_weights:
        notes.append(
            f"{counted(selection.other_weights, 'record')} of a model of the same name with other "
            "weights left out: each cell shows those of its newest record. Run the suite again to "
            "replace them, or keep the two apart with another `name`."
        )
    return notes


def _what_was_measured(records: TableRecords) -> str:
    cells = records.cells
    whole = [cell for cell in cells if is_whole(records, cell)]
    none = [cell for cell in cells if all(record.status != "ok" for record in cell.records)]
    partly = [cell for cell in cells if cell not in whole and cell not in none]
    text = f"{counted(len(cells), 'cell')} of {records.model} on {records.device}"
    if len(whole) == len(cells):
        return f"{text}, all measured."
    parts = [f"{len(whole)} measured in full"]
    if partly:
        parts.append(f"{_listed(partly)} in part")
    if none:
        parts.append(f"{_listed(none)} not at all")
    return f"{text}: {', '.join(parts)} (reasons below)."


def _smallest(decision: Decision) -> str:
    figures = decision.table.column(decision.size)
    rows = [row for row, figure in zip(decision.table.rows, figures, strict=True) if figure.best]
    if not rows:
        return ""
    scale = decision.table.scale(_index(decision, decision.size))
    size = next(figure.value for figure in figures if figure.best)
    base = _reference_value(decision, decision.size)
    if size is None:
        return ""
    text = f"Smallest: {_and([row.label for row in rows])} with {scale.with_unit(size)}"
    if base and base != size:
        text += f", {100 * size / base:.1f} % of {decision.reference}'s {scale.with_unit(base)}"
    return text + _cost(decision, rows) + "."


def _cost(decision: Decision, rows: Sequence[Row]) -> str:
    """What the only best row costs in perplexity, where that was compared."""
    if len(rows) != 1 or len(decision.texts) != 1:
        return ""
    index = _index(decision, f"change:{decision.texts[0]}")
    change = rows[0].figures[index] if index >= 0 else None
    if change is None or change.value is None:
        return ""
    scale = decision.table.scale(index)
    return f", at {scale.with_unit(change.value)} perplexity"


def _fastest(records: TableRecords, decision: Decision, metric: str, name: str) -> str:
    """The lowest median, and who cannot be told from it: whose processes overlap with its own."""
    point = decision.latency_point
    if point is None:
        return ""
    pooled = {
        cell.label: pool(cell.of("latency", point.item.slug), metric) for cell in records.cells
    }
    figures = {label: one.figure.value for label, one in pooled.items()}
    emulated = [label for label, one in pooled.items() if one.figure.unlike_served]
    known = {
        label: value
        for label, value in figures.items()
        if value is not None and label not in emulated
    }
    if len(known) < _CELLS_TO_COMPARE:
        return ""
    first = min(known, key=lambda label: known[label])
    scale = decision.table.scale(_index(decision, metric))
    text = f"Lowest {name} time: {first} with {scale.with_unit(known[first])}"
    base = known.get(decision.reference or "")
    if base and first != decision.reference:
        text += f" against {decision.reference}'s {scale.with_unit(base)}"
    highest = pooled[first].highest
    level = [
        label
        for label in known
        if label != first and highest is not None and (pooled[label].lowest or 0) <= highest
    ]
    text += " (it carries a warning)" if pooled[first].figure.warned else ""
    if emulated:
        out = _and(emulated) if len(emulated) <= _NAMED else f"{len(emulated)} cells"
        text += f" ({out} left out: not as served)"
    if min(pooled[label].succeeded for label in known) < _PROCESSES_FOR_SPREAD:
        return text + "; with one process a cell, the spread between processes is unknown."
    if level:
        return text + f", not told apart from {_and(level)}: their processes overlap."
    return text + ", apart from every other cell's processes."


def _perplexity(decision: Decision, slug: str) -> str:
    index = _index(decision, f"change:{slug}")
    if index < 0:
        return ""
    table = decision.table
    scale = table.scale(index)
    changes = [(row.label, row.figures[index]) for row in table.rows]
    known = [(figure.value, label, figure) for label, figure in changes if figure.value is not None]
    if not known:
        return ""
    name = table.columns[index - 1].title
    name = name[0].upper() + name[1:]
    known.sort(key=lambda one: one[0])
    (low, low_label, _), (high, high_label, _) = known[0], known[-1]
    text = f"{name} against {decision.reference}: "
    if len(known) == 1:
        text += f"{scale.with_unit(high)} for {high_label}"
    else:
        text += f"from {scale.with_unit(low)} ({low_label}) to {scale.with_unit(high)}"
        text += f" ({high_label})"
    unsure = [label for _, label, figure in known if figure.uncertain]
    if unsure:
        text += f"; for {_and(unsure)} the 95 % interval includes no change"
    return text + "."


def _index(decision: Decision, key: str) -> int:
    keys = [column.key for column in decision.table.columns]
    return keys.index(key) if key in keys else -1


def _reference_value(decision: Decision, key: str) -> float | None:
    figures = decision.table.column(key)
    pairs = zip(decision.table.rows, figures, strict=True)
    return next((figure.value for row, figure in pairs if row.reference), None)


def _listed(cells: Sequence[CellRecords]) -> str:
    return _and([cell.label for cell in cells])


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
