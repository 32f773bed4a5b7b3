"""The outcome of a gate as markdown for the summary of a GitHub job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.page import Page, Words
from qbench.report.gate.page import gate_page
from qbench.report.markdown import render as as_markdown

if TYPE_CHECKING:
    from qbench.report.format import Gated

LARGEST_BYTES = 1_000_000
"""GitHub refuses the summary of a step beyond 1 MiB."""


def render(gated: Gated) -> str:
    """The page, below the headings of the summary; of a page too long for it, the answer."""
    page = gate_page(gated.outcome)
    text = as_markdown(page, top=2)
    if len(text.encode()) <= LARGEST_BYTES:
        return text
    short = (Words(gated.outcome.summary), Words("Too long to show here."))
    return as_markdown(Page(page.title, short), top=2)
