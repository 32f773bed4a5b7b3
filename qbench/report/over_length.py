"""What grows with the context: each figure of a cell at all the lengths that it was measured at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.items import items, text_name
from qbench.core.page import Column, Figure, Table
from qbench.core.unchecked import as_list, as_mapping, as_number
from qbench.report.cell_row import cell_row
from qbench.report.figures import NOT_MEASURED, pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.record import Record
    from qbench.core.units import Display

TITLE = "Over the length of the context"
_FEWEST = 2
"""Lengths below which nothing can be seen over them."""


@dataclass(frozen=True)
class _Told:
    """A figure that is told over lengths."""

    metric: str
    title: str
    display: Display
    decimals: int | None = None


@dataclass(frozen=True)
class _Lengths:
    """A measurement whose items differ in a length."""

    measurement: str
    length: str
    """The parameter that is the length."""
    axis: str
    same: tuple[str, ...]
    """The parameters in which they must not differ."""
    figures: tuple[_Told, ...]


_PROMPT = "prompt tokens"
_MEASURED = (
    _Lengths(
        "latency",
        "prompt_tokens",
        _PROMPT,
        ("batch", "new_tokens", "forward", "compile_mode", "attention"),
        (
            _Told("latency.prefill", "Prefill", "seconds"),
            _Told("latency.decode", "Decode of a token", "seconds"),
        ),
    ),
    _Lengths(
        "memory",
        "prompt_tokens",
        _PROMPT,
        ("batch", "new_tokens", "forward", "compile_mode", "attention"),
        (
            _Told("memory.peak.inference", "Peak of inference", "bytes"),
            _Told("memory.kv_cache", "KV cache", "bytes"),
        ),
    ),
    _Lengths(
        "quality",
        "window",
        "tokens a window",
        ("text", "protocol", "limit", "against"),
        (
            _Told("perplexity", "Perplexity", "number", 4),
            _Told("kl.mean", "KL mean", "number", 6),
        ),
    ),
    _Lengths(
        "decoded",
        "prompt_tokens",
        _PROMPT,
        ("text", "new_tokens", "limit"),
        (
            _Told("decoded.perplexity", "Perplexity of decoded positions", "number", 4),
            _Told("decoded.kl.mean", "KL mean of decoded positions", "number", 6),
        ),
    ),
    _Lengths(
        "chat",
        "prompt_tokens",
        _PROMPT,
        ("text", "new_tokens", "chat_template", "temperature", "document", "decoded", "against"),
        (
            _Told("chat.kl.mean", "KL mean on answers", "number", 6),
            _Told("chat.same_text", "Answers that never part", "percent", 1),
        ),
    ),
    _Lengths(
        "needle",
        "length",
        "tokens of a prompt",
        ("text", "new_tokens", "depths", "needles", "value", "seed", "chat_template"),
        (
            _Told("needle.retrieval", "Needles found", "percent", 0),
            _Told("needle.loss", "Loss of the needles' values", "number", 4),
        ),
    ),
)


@dataclass(frozen=True)
class OverLength:
    """One figure of each cell at several lengths."""

    title: str
    axis: str
    """What the lengths are."""
    what: str
    """What the figure is."""
    display: Display
    decimals: int | None
    lengths: tuple[int, ...]
    rows: tuple[tuple[CellRecords, tuple[Figure, ...]], ...]

    @property
    def table(self) -> Table:
        """A row a cell, a column a length."""
        columns = [
            Column(
                f"length.{length}",
                f"{length:,}",
                self.display,
                decimals=self.decimals,
                shares_unit=True,
                told_at_0=True,
            )
            for length in self.lengths
        ]
        rows = tuple(cell_row(cell, figures) for cell, figures in self.rows)
        return Table(self.title, "precision", tuple(columns), rows)


def over_length(records: TableRecords) -> list[OverLength]:
    """Every figure that was measured at two lengths or more, of the smallest batch."""
    found = [
        one
        for measured in _MEASURED
        for told in measured.figures
        if (one := _over(records, measured, told)) is not None
    ]
    return [*found, *_by_position(records)]


def _over(records: TableRecords, measured: _Lengths, told: _Told) -> OverLength | None:
    for group in _groups(records, measured):
        kept = {
            length: record
            for length, record in sorted(group.items())
            if any(
                pool(found, told.metric).figure.value is not None
                for cell in records.cells
                if (found := cell.of(measured.measurement, record.item.slug))
            )
        }
        if len(kept) < _FEWEST:
            continue
        rows = [
            (cell, figures)
            for cell in records.cells
            if (figures := _figures(cell, measured.measurement, list(kept.values()), told.metric))
        ]
        same = _same(next(iter(kept.values())), measured.measurement)
        title = f"{told.title}, by {measured.axis}: {same}"
        return OverLength(
            title,
            measured.axis,
            told.title,
            told.display,
            told.decimals,
            tuple(kept),
            tuple(rows),
        )
    return None


def _groups(records: TableRecords, measured: _Lengths) -> list[dict[int, Record]]:
    """Items that differ in their length alone, the smallest first, by that length."""
    groups: dict[str, dict[int, Record]] = {}
    for record in items(records, measured.measurement).values():
        params = record.item.params
        length = params.get(measured.length)
        if isinstance(length, int):
            key = repr([params.get(name) for name in measured.same])
            groups.setdefault(key, {}).setdefault(length, record)
    return list(groups.values())


def _figures(
    cell: CellRecords, measurement: str, points: Sequence[Record], metric: str
) -> tuple[Figure, ...]:
    """At each of the points; empty where the cell has none of them."""
    found = [cell.of(measurement, point.item.slug) for point in points]
    if not any(found):
        return ()
    return tuple(pool(one, metric).figure if one else Figure(word=NOT_MEASURED) for one in found)


def _same(record: Record, measurement: str) -> str:
    """What all the points of a group have in common, in words."""
    params = record.item.params
    if measurement in {"quality", "needle"}:
        return text_name(record)
    if measurement == "decoded":
        return f"{text_name(record)}, {params.get('new_tokens')} tokens decoded after each"
    if measurement == "chat":
        return f"{text_name(record)}, answers of at most {params.get('new_tokens')} tokens"
    forward = params.get("forward")
    also = "" if forward is None else f", {forward}"
    return f"batch {params.get('batch')}, {params.get('new_tokens')} new tokens{also}"


def _by_position(records: TableRecords) -> list[OverLength]:
    """Of the longest windows of the first text: what tokens lose, by how many were before them."""
    groups = _groups(records, next(one for one in _MEASURED if one.measurement == "quality"))
    if not groups:
        return []
    record = groups[0][max(groups[0])]
    told = (
        ("nll", "Perplexity", 4, math.exp),
        ("kl", "KL mean", 6, float),
    )
    found = []
    for key, what, decimals, of_mean in told:
        by_cell = {}
        for cell in records.cells:
            of_cell = means_by_place(cell.of("quality", record.item.slug), key)
            if of_cell:
                by_cell[cell.label] = (cell, of_cell)
        starts = sorted({start for _, means in by_cell.values() for start in means})
        if len(starts) < _FEWEST:
            continue
        rows = tuple(
            (
                cell,
                tuple(
                    Figure(of_mean(means[start])) if start in means else Figure(word=NOT_MEASURED)
                    for start in starts
                ),
            )
            for cell, means in by_cell.values()
        )
        axis = "tokens before it, at least"
        title = (
            f"{what}, by {axis}: {text_name(record)}, windows of {record.item.params.get('window')}"
        )
        found.append(OverLength(title, axis, what, "number", decimals, tuple(starts), rows))
    return found


def means_by_place(found: Sequence[Record], key: str) -> dict[int, float]:
    """By the first place of each range, the mean over its tokens; empty where it is not known."""
    for record in found:
        told = as_mapping(record.details.get("by_position"))
        starts, tokens, sums = (as_list(told.get(name)) for name in ("from", "tokens", key))
        means = {
            int(start): total / count
            for at, number, value in zip(starts, tokens, sums, strict=False)
            if (start := as_number(at)) is not None
            and (count := as_number(number))
            and (total := as_number(value)) is not None
        }
        if record.status == "ok" and means:
            return means
    return {}
