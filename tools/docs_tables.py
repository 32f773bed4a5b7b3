"""Fills tables from the program itself into the pages of docs/; mkdocs calls it for each page.

<!-- metrics: latency -->               a measurement's metrics: unit, direction, formula …
<!-- options: measures latency -->      the options of one entry of `measures`, `methods` …
<!-- options: methods lora, full -->    those that `full` does not have in the same way
<!-- names: precisions -->              the names of all entries, what each is and what it needs
<!-- action: inputs -->                 the inputs of action.yml, or its outputs
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from qbench.finetune import methods
from qbench.measures import measures
from qbench.measures.field_names import field_names
from qbench.precisions import precisions
from qbench.precisions.names import other_names
from qbench.report.listed_entry import option_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

_MARK = re.compile(r"<!-- (metrics|options|names|action): ([\w -]+?)(?:, ([\w-]+))? -->")
_ACTION = Path(__file__).parents[1] / "action.yml"
_ABSENT = {True: "must be given", False: "–"}
_TABLES = {"measures": measures, "methods": methods, "precisions": precisions}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its marks filled in. Raises KeyError for a name that qbench does not have."""
    return _MARK.sub(_filled, markdown)


def _filled(mark: re.Match[str]) -> str:
    if mark[1] == "metrics":
        return metrics_table(mark[2])
    if mark[1] == "names":
        return names_table(mark[2])
    if mark[1] == "action":
        return action_table(mark[2])
    table, _, name = mark[2].partition(" ")
    return options_table(table, name, beside=mark[3])


def metrics_table(measurement: str) -> str:
    """The metrics of a measurement: name, unit, which way is better, formula, other names."""
    return _table(
        ("metric", "unit", "better", "formula", "also called"),
        (
            (
                f"`{metric.name}`",
                metric.unit,
                metric.better,
                metric.formula,
                ", ".join(field_names(metric.name)) or "–",
            )
            for metric in measures()[measurement].metrics
        ),
    )


def names_table(table: str) -> str:
    """All entries of a table: name, what it is, which packages it needs; other names below."""
    held = precisions() if table == "precisions" else {}
    found = ((name, other_names(one)) for name, one in held.items())
    also = {name: f". Also: {', '.join(others)}" for name, others in found if others}
    return _table(
        ("name", "what it is", "needs"),
        (
            (f"`{name}`", entry.summary + also.get(name, ""), ", ".join(entry.needs) or "–")
            for name, entry in _TABLES[table]().items()
        ),
    )


def action_table(which: str) -> str:
    """The inputs or the outputs of the composite action: name, default, meaning."""
    entries = yaml.safe_load(_ACTION.read_text(encoding="utf-8"))[which].items()
    if which == "outputs":
        return _table(
            ("output", "meaning"), ((f"`{name}`", one["description"]) for name, one in entries)
        )
    return _table(
        ("input", "default", "meaning"),
        (
            (
                f"`{name}`",
                f"`{one['default']}`" if one.get("default") else _ABSENT["required" in one],
                one["description"],
            )
            for name, one in entries
        ),
    )


def options_table(table: str, name: str, *, beside: str | None = None) -> str:
    """The options of one entry: name, default, meaning; without what `beside` has in common."""
    common = _options(table, beside) if beside else []
    rows = [row for row in _options(table, name) if row not in common]
    return _table(("option", "default", "meaning"), rows)


def _options(table: str, name: str) -> list[tuple[str, str, str]]:
    return [
        (f"`{option}`", f"`{default}`", f"{text} Also: {_quoted(also)}." if also else text)
        for option, default, text, also in option_rows(_TABLES[table]()[name].options)
    ]


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """One line, in which nothing but what stands between backticks is taken as it is."""
    parts = " ".join(text.replace("|", "\\|").split()).split("`")
    parts[::2] = [re.sub(r"([<*_])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)
