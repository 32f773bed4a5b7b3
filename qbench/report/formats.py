"""From what was found to what a person or a program reads: pages, tables and files.

A format is a function in a module of its own and one line in the table below; a package outside
adds one through the entry point `qbench.reports`. Nothing here loads torch.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from qbench.core.errors import UsageError
from qbench.core.names import did_you_mean
from qbench.core.plugins import with_plugins
from qbench.report import as_json, benchmark_json, delimited, markdown, terminal
from qbench.report.format import Format, Subject
from qbench.report.gate import github_markdown, junit, workflow_commands
from qbench.report.overview import overview_page
from qbench.report.report_page import report_page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.stated import Stated
    from qbench.core.page import Page
    from qbench.core.record import Record
    from qbench.report.format import Source


def html(page: Page) -> str:
    """The page for a browser; what it is made with is loaded for it alone."""
    from qbench.report.html.render import render

    return render(page)


OWN = (
    Format("text", ".txt", "as a terminal shows it", page=terminal.as_text, on_screen=True),
    Format("markdown", ".md", "the whole page", page=markdown.render, written=True),
    Format("html", ".html", "the whole page, for a browser", page=html, written=True),
    Format(
        "json",
        ".json",
        "for programs",
        page=as_json.page_json,
        records=as_json.render,
        stated=as_json.render,
    ),
    Format(
        "csv",
        ".csv",
        "one row a metric",
        records=delimited.render,
        stated=delimited.render,
        rows=delimited.rows_csv,
    ),
    Format(
        "benchmark-json",
        ".benchmark.json",
        "latencies, for pytest-benchmark",
        records=benchmark_json.render,
    ),
    Format("junit", ".xml", "test results, for CI systems", gate=junit.render),
    Format("step-summary", ".md", "for the summary of a GitHub job", gate=github_markdown.render),
    Format(
        "comment",
        ".md",
        "for a comment on a GitHub pull request",
        gate=github_markdown.render_comment,
    ),
    Format(
        "annotations",
        ".txt",
        "GitHub's workflow commands",
        gate=workflow_commands.render,
        commands=True,
    ),
)
TEXT = OWN[0]


@cache
def formats() -> dict[str, Format]:
    """All formats by name, qbench's own first.

    Raises `UsageError` for a plug-in that is none.
    """
    return with_plugins("qbench.reports", Format, OWN)


def written_formats() -> list[Format]:
    """Those that `run` and `report` write files of."""
    return [form for form in formats().values() if form.written]


def find_format(name: str, *sources: Source, option: str = "--format") -> Format:
    """The format of that name that can be made of one of the sources; `option` asked for it.

    Raises `UsageError`, which names those that can, for any other name.
    """
    fitting = [one for one, form in formats().items() if any(map(form.takes, sources))]
    if name in fitting:
        return formats()[name]
    near = did_you_mean(name, fitting)
    message = f"{option}: found {name!r}; expected one of {', '.join(fitting)}"
    raise UsageError(f"{message}; {near}" if near else message)


def report_subject(
    records: Sequence[Record], stated: Mapping[str, Stated] | None = None
) -> Subject:
    """The report on records of any suites, with what each of them states, by its name.

    Its page is made once, for however many formats.
    """
    return Subject(
        cache(lambda: report_page(records, stated)),
        lambda: overview_page(records, stated),
        records=records,
        stated=stated or {},
    )
