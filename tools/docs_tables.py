"""Fills tables of metrics and options into the pages of docs/, from the program's own tables.

A line `<!-- metrics: latency -->` becomes the metrics of that measurement with unit, direction and
formula; `<!-- options: measures latency -->` becomes the options of that entry of a table
(`measures`, `methods` or `precisions`). mkdocs calls `on_page_markdown` for each page.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qbench.finetune import methods
from qbench.measures import measures
from qbench.precisions import precisions

if TYPE_CHECKING:
    from collections.abc import Iterable

_MARK = re.compile(r"<!-- (metrics|options): ([\w -]+?) -->")
_TABLES = {"measures": measures, "methods": methods, "precisions": precisions}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its marks filled in. Raises KeyError for a name that qbench does not have."""
    return _MARK.sub(_filled, markdown)


def _filled(mark: re.Match[str]) -> str:
    if mark[1] == "metrics":
        return metrics_table(mark[2])
    table, name = mark[2].split()
    return options_table(table, name)


def metrics_table(measurement: str) -> str:
    """The metrics of a measurement: name, unit, which way is better, formula."""
    return _table(
        ("metric", "unit", "better", "formula"),
        (
            (f"`{metric.name}`", metric.unit, metric.better, metric.formula)
            for metric in measures()[measurement].metrics
        ),
    )


def options_table(table: str, name: str) -> str:
    """The options of a measurement, a method or a precision: name, default, meaning."""
    return _table(
        ("option", "default", "meaning"),
        (
            (f"`{option}`", f"`{_default(field.get_default(call_default_factory=True))}`", text)
            for option, field in _TABLES[table]()[name].options.model_fields.items()
            if (text := field.description)
        ),
    )


def _default(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(_default(one) for one in value) or "none"
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """One line, in which nothing but what stands between backticks is taken as it is."""
    parts = " ".join(text.replace("|", "\\|").split()).split("`")
    plain = [re.sub(r"([<*_])", r"\\\1", part) for part in parts[::2]]
    parts[::2] = plain
    return "`".join(parts)
