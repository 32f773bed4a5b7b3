"""Pages as a reader gets them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console

from qbench.report import markdown, terminal
from qbench.report.formats import OWN, formats, report_subject
from qbench.report.overview import overview_page
from qbench.report.report_page import report_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.page import Page
    from qbench.core.record import Record


REPORT_FORMATS = [one.name for one in OWN if one.takes("page") or one.takes("records")]
"""Names of those that a report can be written in."""


def written_as(name: str, records: Sequence[Record]) -> str:
    """The report in the format of that name."""
    found = formats()[name].render(report_subject(records))
    return found if isinstance(found, str) else found.decode()


def whole_report(records: Sequence[Record]) -> str:
    """The report as markdown."""
    return markdown.render(report_page(records))


def on_terminal(page: Page, width: int) -> str:
    """A page on a terminal of so many columns, without colours."""
    written = io.StringIO()
    Console(file=written, width=width, force_terminal=False).print(terminal.render(page))
    return written.getvalue()


def short_report(records: Sequence[Record], width: int) -> str:
    """The report on a terminal."""
    return on_terminal(overview_page(records), width)
