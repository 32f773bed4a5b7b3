"""From records to what a person or a program reads: pages, tables and files.

A report format is a module with a `render` function and one line in the table below. Everything
is made from records alone, and never loads torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.report import as_json, benchmark_json, delimited, markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qbench.record import Record


@dataclass(frozen=True)
class Format:
    """A way to write a report to a file."""

    render: Callable[[Sequence[Record]], str]
    suffix: str
    """Of the file's name, with its point."""


FORMATS: dict[str, Format] = {
    "markdown": Format(markdown.render, ".md"),
    "csv": Format(delimited.render, ".csv"),
    "json": Format(as_json.render, ".json"),
    "benchmark-json": Format(benchmark_json.render, ".benchmark.json"),
}
