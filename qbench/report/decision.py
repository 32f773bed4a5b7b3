"""The decision table: one row a cell, with what a person chooses a precision by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.compare.comparable import Gap
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.items import (
    batch_told,
    describe_point,
    first_point,
    first_windows,
    items,
    text_titles,
)
from qbench.compare.marks import one_change
from qbench.compare.served import LINEAR_BITS, MODEL_BITS, SERVED, STATIC, headline, stored_wider
from qbench.core.page import Column, Figure, Table
from qbench.report.best import RecordSignificance
from qbench.report.cell_row import cell_row
from qbench.report.costs import GENERATED, price_column, price_figure
from qbench.report.field_names import with_field_names
from qbench.report.figures import (
    NOT_MEASURED,
    REFERENCE_WORD,
    figure_of,
    mark_best,
    with_interval,
)
from qbench.report.kv_cache import (
    CACHE,
    DECODED_KL,
    cache_columns,
    first_decoded,
    has_quantized_cache,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.compare.price import Price
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.record import Record
    from qbench.report.best import Source

_METRICS = {"kl": "kl.mean", "decoded.kl": DECODED_KL, GENERATED: "latency.decode"}
"""What a column is of whose key is no metric's name."""
ENERGY = "latency.energy"
_PEAK, _COUNTED = "memory.peak", "memory.peak.inference"
_BYTES = (
    Column(
        MODEL_BITS,
        "bits/weight",
        "number",
        "lower",
        "bits of the static bytes ÷ logical weights: embeddings and head included",
        decimals=3,
    ),
    Column(
        LINEAR_BITS,
        "linear bits/weight",
        "number",
        "lower",
        "the same of the linear layers alone, with their quantization state: embeddings and head,"
        " which stay in 16 or 32 bits, are much of a small model and little of a large one",
        decimals=3,
    ),
    Column(
        STATIC,
        "static",
        "bytes",
        "lower",
        "bytes that the loaded model keeps: parameters, buffers and quantization state",
    ),
)
_AS_SERVED = (
    "; of codes at their own width, as the format is served, where they are simulated in more here"
)
_IN_BYTES = "at the width that they are held in here, which the peak is of, too"
_HELD = {MODEL_BITS: "bits held here", STATIC: "held here"}
"""What stands beside it where the codes are simulated; of the linear layers the details tell."""


_SIZES = frozenset({STATIC, SERVED[STATIC]})


@dataclass(frozen=True)
class Decision:
    """The decision table of one model on one device."""

    reference: str | None
    """Label of the reference's row; None if it left no record."""
    table: Table
    latency_point: Record | None
    """Says the grid point that the latencies stand for; the others are in the details."""
    memory_point: Record | None
    texts: tuple[str, ...]
    """Slugs of the quality items, in the order of their columns."""
    size: str = STATIC
    """Key of the column that says how large a cell is."""


def decision_table(records: TableRecords, price: Price | None = None) -> Decision:
    """The decision table of one model's cells; with `price` there is a column of that."""
    reference = records.reference
    held_against = reference.label if reference else _original_of(records)
    latency_point = first_point(records.cells, "latency")
    memory_point = first_point(records.cells, "memory")
    texts = first_windows(items(records, "quality"))
    decoded = first_decoded(records)
    diverged = {slug for slug in texts if _is_diverged(records, slug)}
    peaks = _peaks(records, memory_point)
    byte_columns = _byte_columns(records)
    energy = _is_told(records, latency_point, ENERGY)
    priced = price_column(records, price, latency_point)
    columns = [
        *byte_columns,
        *(_peak_column(name, memory_point) for name in peaks),
        *_latency_columns(latency_point),
        *([_energy_column(latency_point)] if energy else []),
        *([priced] if priced else []),
        *_quality_columns(records, texts, held_against, diverged),
        *cache_columns(records, decoded, held_against),
    ]
    rows = []
    for cell in records.cells:
        figures = [
            *(_size_figure(cell, column) for column in byte_columns),
            *(_figure(cell, "memory", memory_point, name) for name in peaks),
            _figure(cell, "latency", latency_point, "latency.prefill"),
            _figure(cell, "latency", latency_point, "latency.decode"),
            *([_figure(cell, "latency", latency_point, ENERGY)] if energy else []),
            *([price_figure(records, cell, price, latency_point)] if priced else []),
        ]
        for text in texts.values():
            figures.append(_figure(cell, "quality", text, "perplexity"))
            if reference:
                figures.append(change_figure(cell, reference, text.item.slug))
            if held_against and text.item.slug in diverged:
                figures.append(_divergence_figure(cell, text))
        if has_quantized_cache(records):
            figures.append(_figure(cell, "memory", memory_point, CACHE))
        if decoded is not None:
            figures.append(_divergence_figure(cell, decoded, "decoded", DECODED_KL))
        rows.append(cell_row(cell, tuple(figures), faulty=cell.faulty))
    plain = with_field_names(
        Table(records.model, "precision", tuple(columns), tuple(rows)),
        latency_point.item.params if latency_point else None,
    )
    points = {"memory": memory_point, "latency": latency_point, "decoded": decoded}
    table = mark_best(plain, _significance(records, plain, points))
    return Decision(
        reference=reference.label if reference else None,
        table=table,
        latency_point=latency_point,
        memory_point=memory_point,
        texts=tuple(texts),
        size=headline(STATIC, records.cells),
    )


def _byte_columns(records: TableRecords) -> list[Column]:
    """Bits and bytes of the format as it is served, and what is held here where that is more."""
    found = []
    for column in _BYTES:
        first = headline(column.key, records.cells)
        if first == column.key:
            found.append(column)
            continue
        words = column.definition
        found.append(replace(column, key=first, definition=words + _AS_SERVED))
        if column.key in _HELD:
            title, words = _HELD[column.key], f"{column.title} of simulated codes, {_IN_BYTES}"
            found.append(replace(column, title=title, better="neither", definition=words))
    return found


def _significance(
    records: TableRecords, table: Table, points: Mapping[str, Record | None]
) -> RecordSignificance:
    """What is known of the chance in the table's figures; of some measurements at one point."""
    sources: dict[str, Source] = {}
    for column in table.columns:
        key, _, text = column.key.partition(":")
        key = _METRICS.get(key, key)
        measurement = "quality" if text else column.key.partition(".")[0]
        measurement = "latency" if column.key == GENERATED else measurement
        if key in _SIZES or measurement not in {"quality", *points}:
            measurement = "footprint"
        point = points.get(measurement)
        slug = text or (point.item.slug if point else None)
        sources[column.key] = (measurement, slug, key)

    def change(cell: CellRecords, slug: str) -> Figure:
        return change_figure(cell, records.reference, slug)

    return RecordSignificance(records.cells, sources, change)


def _peaks(records: TableRecords, point: Record | None) -> tuple[str, ...]:
    """The peaks that are shown: on a CPU the one that is decided by, then the resident size."""
    if point is None or point.environment.device_type == "cuda":
        return (_PEAK,)
    found = (one for cell in records.cells for one in cell.of("memory", point.item.slug))
    return (_COUNTED, _PEAK) if any(one.metric(_COUNTED) for one in found) else (_PEAK,)


def _original_of(records: TableRecords) -> str | None:
    """The model that a quantized checkpoint was made of, and compared with, if it is stated."""
    found = (record.cell.model.original for cell in records.cells for record in cell.records)
    return next((original for original in found if original is not None), None)


def change_figure(
    cell: CellRecords,
    reference: CellRecords | None,
    slug: str,
    of: tuple[str, str] = ("quality", "perplexity"),
) -> Figure:
    """Perplexity of a cell on one text over the reference's, less 1, with its 95 % interval.

    `of` names the measurement and its metric.
    The interval is that of the table of differences: paired, over blocks of neighbouring windows.
    """
    if cell.reference:
        return Figure(word=REFERENCE_WORD)
    measurement, metric = of
    sides = cell.of(measurement, slug), reference.of(measurement, slug) if reference else []
    found = one_change(*sides, metric, Sampling(), same_run=True)
    if isinstance(found, Gap):
        return Figure(word=NOT_MEASURED, reason=found.reason)
    figure = figure_of(found)
    if figure.low is None or figure.high is None:
        return figure
    return replace(figure, uncertain=figure.low <= 0 <= figure.high)


def _figure(cell: CellRecords, measurement: str, point: Record | None, metric_name: str) -> Figure:
    found = cell.of(measurement, point.item.slug if point else None)
    return with_interval(found, metric_name)


def _size_figure(cell: CellRecords, column: Column) -> Figure:
    """Bytes or bits; what is held here of simulated codes alone."""
    if column.better == "neither" and not stored_wider([cell]):
        return Figure(word="")
    return _figure(cell, "footprint", None, column.key)


def _is_diverged(records: TableRecords, slug: str) -> bool:
    """Whether any cell was compared with the reference on that text."""
    found = (record for cell in records.cells for record in cell.of("quality", slug))
    return any(record.metric("kl.mean") is not None for record in found)


def _divergence_figure(
    cell: CellRecords, text: Record, measurement: str = "quality", metric: str = "kl.mean"
) -> Figure:
    if cell.reference:
        return Figure(word=REFERENCE_WORD)
    return _figure(cell, measurement, text, metric)


def _peak_column(name: str, point: Record | None) -> Column:
    if name == _COUNTED:
        text = "live bytes of all tensors at the highest of prefill and decode"
        return Column(name, "peak", "bytes", "lower", text + _at(point))
    text = (
        "highest memory above the level before the model was loaded, over load, idle, prefill"
        " and decode"
    )
    if point is None:
        return Column(name, "peak", "bytes", "lower", text)
    if point.environment.device_type == "cuda":
        return Column(name, "peak", "bytes", "lower", f"{text}, of the allocator{_at(point)}")
    text += ", resident size of the process: another in each, so that nothing is decided by it"
    return Column(name, "peak RSS", "bytes", "lower", text + _at(point))


def _latency_columns(point: Record | None) -> list[Column]:
    pooled = "; the median over processes of each process's median" + _at(point)
    return [
        Column(
            "latency.prefill",
            "prefill",
            "seconds",
            "lower",
            "time of one forward pass over the prompt" + pooled,
        ),
        Column(
            "latency.decode",
            "decode/token",
            "seconds",
            "lower",
            "time for each new token of the whole batch, with a key-value cache" + pooled,
        ),
    ]


def _energy_column(point: Record | None) -> Column:
    text = (
        "joules for each new token over prefill and decode, of the whole GPU or of all processors;"
        " the median over processes"
    )
    return Column(ENERGY, "J/token", "number", "lower", text + _at(point))


def _is_told(records: TableRecords, point: Record | None, metric: str) -> bool:
    """Whether any cell has a value of it at a point of latency's grid."""
    slug = point.item.slug if point else None
    found = (record for cell in records.cells for record in cell.of("latency", slug))
    return any(record.value(metric) is not None for record in found)


def _quality_columns(
    records: TableRecords, texts: dict[str, Record], held_against: str | None, diverged: set[str]
) -> list[Column]:
    titles = text_titles(texts)
    reference = records.reference.label if records.reference else None
    columns = []
    for slug, record in texts.items():
        named = f" {titles[slug]}" if len(texts) > 1 else ""
        columns.append(
            Column(
                f"perplexity:{slug}",
                f"perplexity{named}",
                "number",
                "lower",
                f"exp of the mean loss a token{_on(record, titles[slug])}"
                f"{batch_told(records, record)}",
                decimals=4,
            )
        )
        if reference:
            columns.append(
                Column(
                    f"change:{slug}",
                    f"change{named}",
                    "change",
                    "neither",
                    f"perplexity ÷ that of {reference}, less 1",
                )
            )
        if held_against and slug in diverged:
            columns.append(
                Column(
                    f"kl:{slug}",
                    f"KL{named}",
                    "number",
                    "lower",
                    f"mean divergence a token of the predictions from {held_against}'s, in nats:"
                    " damage that perplexity can hide",
                    decimals=5,
                )
            )
    return columns


def _at(point: Record | None) -> str:
    return f"; at {describe_point(point)}" if point else ""


def _on(record: Record, title: str) -> str:
    window = record.item.params.get("window")
    protocol = record.item.params.get("protocol")
    windows = f", windows of {window} tokens" if window else ""
    return f", on {title}{windows}" + (f", protocol {protocol}" if protocol else "")
