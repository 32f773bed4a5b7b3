"""Everything behind the decision table, as tables: bytes, memory, latency, quality, what loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qbench.compare.items import TASKS, against_merged, describe_point, items, text_titles
from qbench.core.page import Column, Figure, Row, Table
from qbench.core.unchecked import as_list
from qbench.core.units import DISPLAYS, choose_scale
from qbench.report.calibration_table import calibration_table
from qbench.report.cell_row import cell_row
from qbench.report.chat import CHAT, chat_table, chat_titles, place_table
from qbench.report.cold_start import cold_start_tables
from qbench.report.confidence import change_table, confidence_table
from qbench.report.decoded import DECODED, decoded_table
from qbench.report.field_names import with_field_names
from qbench.report.figures import NO_VALUE, NOT_MEASURED, finite_value, pool
from qbench.report.generations import generation_tables
from qbench.report.interactions import joint_tables
from qbench.report.kernels import kernel_tables
from qbench.report.latency import TIMED, latency_table
from qbench.report.mix_table import mix_table
from qbench.report.needle import NEEDLE, needle_tables
from qbench.report.over_length import over_length
from qbench.report.quality import divergence_table, quality_table, weight_error_table
from qbench.report.quantiles import divergence_quantiles, window_quantiles
from qbench.report.roofline import roofline_tables
from qbench.report.serving import serving_tables
from qbench.report.tasks import GAINED, LOST, task_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.record import Record

TABLED = frozenset(
    {
        "footprint",
        "memory",
        "latency",
        "kernels",
        "cold_start",
        "serving",
        "quality",
        "decoded",
        NEEDLE,
        "sensitivity",
        "chat",
        "weight_error",
        "generation",
        *TASKS,
        "completion",
        "training",
        "adapters",
    }
)
"""Measurements with tables of their own; the others are listed metric by metric."""
_LIST_SHOWN = 3
_RAN = "attention_ran"
"""Of the records of quality and latency: the attention kernels that were called."""
_APART = frozenset(
    {
        "calibration",
        "nominal_linear_bytes",
        "nominal_other_bytes",
        "unlike_served",
        "held_in",
        "members",
    }
)
"""What was loaded that stands elsewhere: in another table, or below one."""
_TOLD_AT_0 = frozenset({"nonfinite_share", LOST, GAINED, "serving.errors"})
"""Columns of which a 0 in every row is what a reader wants to see."""

_FOOTPRINT = (
    Column("memory.static", "static (bytes)", "exact"),
    Column("memory.static.predicted", "by arithmetic (bytes)", "exact"),
    Column("memory.static.linear", "linear", "bytes", shares_unit=True),
    Column("memory.static.quantization_state", "quant. state", "bytes", shares_unit=True),
    Column("memory.static.embeddings_and_head", "embeddings, head", "bytes", shares_unit=True),
    Column("memory.static.norms", "norms", "bytes", shares_unit=True),
    Column("memory.static.biases", "biases", "bytes", shares_unit=True),
    Column("memory.static.buffers", "buffers", "bytes", shares_unit=True),
    Column("memory.static.adapters", "adapters", "bytes", shares_unit=True),
    Column("memory.static.other", "other", "bytes", shares_unit=True),
)
_WEIGHTS = (
    Column("weights", "logical weights", "exact"),
    Column("quantized_share", "quantized", "percent"),
    Column("bits_per_weight.linear", "bits/weight, linear", "number", decimals=3),
    Column("bits_per_weight.linear.nominal", "linear, if packed", "number", decimals=3),
    Column(
        "bits_per_weight.embeddings_and_head",
        "bits/weight, embeddings and head",
        "number",
        decimals=3,
    ),
    Column("bits_per_weight.model", "bits/weight, model", "number", decimals=3),
    Column("bits_per_weight.nominal", "model, if packed", "number", decimals=3),
    Column("disk_bytes", "on disk", "bytes"),
    Column("load_time", "cold load", "seconds"),
)
_COMPLETION = (
    Column("completion.loss", "loss (nat/token)", "number", decimals=4),
    Column("completion.perplexity", "perplexity", "number", decimals=4),
    Column("completion.tokens", "tokens scored", "exact"),
)
_PHASES = ("load", "idle", "prefill", "decode")


def detail_tables(records: TableRecords) -> list[Table]:
    """The detail tables of one model's cells; a measurement nobody took has none."""
    tables = [
        _metric_table(records, "Bytes by kind", "footprint", _FOOTPRINT),
        _metric_table(records, "Weights, disk and loading", "footprint", _WEIGHTS),
        *(_memory_table(records, record) for record in items(records, "memory").values()),
        *(
            latency_table(records, point, kind)
            for point in items(records, "latency").values()
            for kind in TIMED
        ),
        *(found.table for found in over_length(records)),
        *roofline_tables(records),
        *kernel_tables(records),
        *cold_start_tables(records),
        *serving_tables(records),
        *(
            quality_table(records, slug)
            for slug, record in items(records, "quality").items()
            if not against_merged(record)
        ),
        *(
            window_quantiles(records, slug)
            for slug, record in items(records, "quality").items()
            if not against_merged(record)
        ),
        *(divergence_table(records, slug) for slug in items(records, "quality")),
        *(divergence_quantiles(records, slug) for slug in items(records, "quality")),
        *(decoded_table(records, slug) for slug in items(records, DECODED)),
        *(divergence_quantiles(records, slug, DECODED) for slug in items(records, DECODED)),
        *needle_tables(records),
        *(chat_table(records, slug) for slug in items(records, CHAT)),
        *(place_table(records, slug) for slug in items(records, CHAT)),
        *(
            divergence_quantiles(records, slug, CHAT, text)
            for slug, text in chat_titles(records).items()
        ),
        *joint_tables(records),
        *_divergence_tables(records),
        weight_error_table(records),
        *task_tables(records),
        *_completion_tables(records),
        *generation_tables(records),
        _loaded_table(records),
        calibration_table({cell.label: loaded_details(cell) for cell in records.cells}),
        mix_table({cell.label: loaded_details(cell) for cell in records.cells}),
        _other_table(records),
    ]
    kept = [_without_empty_columns(with_field_names(table)) for table in tables]
    return [table for table in kept if table.rows]


def _metric_table(
    records: TableRecords,
    title: str,
    measurement: str,
    columns: Sequence[Column],
    slug: str | None = None,
) -> Table:
    """A column a metric, of a measurement or of one of its items."""
    rows = []
    for cell in records.cells:
        found = cell.of(measurement, slug)
        if found:
            figures = tuple(pool(found, column.key).figure for column in columns)
            rows.append(cell_row(cell, figures))
    return Table(title, "precision", tuple(columns), tuple(rows))


def _memory_table(records: TableRecords, point: Record) -> Table:
    columns = [Column("memory.peak", "peak", "bytes", shares_unit=True)]
    for kind, prefix in (("", "memory.peak"), ("reserved, ", "memory.reserved")):
        columns += [
            Column(f"{prefix}.{phase}", f"{kind}{phase}", "bytes", shares_unit=True)
            for phase in _PHASES
        ]
    columns += [
        Column("memory.kv_cache", "KV cache (bytes)", "exact"),
        Column("memory.kv_cache.predicted", "by arithmetic (bytes)", "exact"),
    ]
    title = f"Peak memory by phase: {describe_point(point)}"
    return _metric_table(records, title, "memory", columns, point.item.slug)


def _divergence_tables(records: TableRecords) -> list[Table]:
    """Of each text and set of answers: what p(true) changed by, and KL by the reference's own."""
    titles = {
        "quality": text_titles(items(records, "quality")),
        DECODED: {
            slug: f"decoded positions of {text}"
            for slug, text in text_titles(items(records, DECODED)).items()
        },
        CHAT: chat_titles(records),
    }
    return [
        table
        for measurement, found in titles.items()
        for slug, text in found.items()
        for table in (
            change_table(records, slug, measurement, text),
            confidence_table(records, slug, measurement, text),
        )
    ]


def _completion_tables(records: TableRecords) -> list[Table]:
    """The loss on the test split of the data that the suite tunes on."""
    return [
        _metric_table(
            records, f"Completions of the tuning data: {slug}", "completion", _COMPLETION, slug
        )
        for slug in items(records, "completion")
    ]


def _loaded_table(records: TableRecords) -> Table:
    loaded = [(cell, loaded_details(cell)) for cell in records.cells]
    keys = dict.fromkeys(key for _, found in loaded for key in found if key not in _APART)
    columns = tuple(Column(key, key.replace("_", " "), "text") for key in keys)
    rows = tuple(
        cell_row(cell, (Figure(word=describe_loaded(key, found.get(key))) for key in keys))
        for cell, found in loaded
        if found
    )
    return Table("What was loaded, verified", "precision", columns, rows)


def loaded_details(cell: CellRecords) -> dict[str, Any]:
    """What was found in the loaded model, from the first record that tells."""
    for record in cell.records:
        loaded = record.details.get("loaded")
        if isinstance(loaded, dict) and loaded:
            ran = {str(name) for one in cell.records for name in as_list(one.details.get(_RAN))}
            return {**loaded, **({_RAN: sorted(ran)} if ran else {})}
    return {}


def describe_loaded(key: str, value: Any) -> str:
    """A value of what was loaded in a few words; lists are cut short with their length."""
    if value is None:
        return NOT_MEASURED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{100 * value:.1f} %" if key.endswith("share") else f"{value:.3g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(str(each) for each in value[:_LIST_SHOWN])
        more = len(value) - _LIST_SHOWN
        return f"{shown} and {more} more" if more > 0 else shown or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {describe_loaded(name, each)}" for name, each in value.items())
    return str(value)


def _other_table(records: TableRecords) -> Table:
    """Measurements without a table of their own: one row a metric."""
    rows = []
    for cell in records.cells:
        for record in cell.records:
            if record.item.measurement in TABLED:
                continue
            what = f"{record.item.measurement} {record.item.slug}"
            what += f" (process {record.item.repeat + 1})" if record.item.repeat else ""
            if not record.metrics:
                rows.append(_words_row(cell, (what, "", record.status)))
            for metric in record.metrics:
                value = _value_text(finite_value(metric), metric.unit)
                rows.append(_words_row(cell, (what, metric.name, value)))
    columns = tuple(Column(name, name, "text") for name in ("measurement", "metric", "value"))
    return Table("Other measurements", "precision", columns, tuple(rows))


def _words_row(cell: CellRecords, words: Sequence[str]) -> Row:
    return cell_row(cell, tuple(Figure(word=word) for word in words))


def _value_text(value: float | None, unit: str) -> str:
    if value is None:
        return NO_VALUE
    scale = choose_scale([value], DISPLAYS.get(unit, "number"))
    plain = unit in DISPLAYS or unit == "1"
    return scale.with_unit(value) if plain else f"{scale.text(value)} {unit}"


def _without_empty_columns(table: Table) -> Table:
    """Drops columns that are 0 or without a number in every row, and so say nothing."""
    kept = table.with_columns(
        [index for index in range(len(table.columns)) if _says_something(table, index)]
    )
    numbers = any(column.display != "text" for column in table.columns)
    if numbers and all(column.display == "text" for column in kept.columns):
        return replace(table, columns=(), rows=())
    return kept


def _says_something(table: Table, index: int) -> bool:
    figures = [row.figures[index] for row in table.rows]
    column = table.columns[index]
    if column.display == "text":
        return any(figure.word != NOT_MEASURED for figure in figures)
    if column.intervals and any(figure.reason for figure in figures):
        return True
    if column.intervals or column.told_at_0 or column.key in _TOLD_AT_0:
        return any(figure.value is not None for figure in figures)
    return any(figure.value for figure in figures)
