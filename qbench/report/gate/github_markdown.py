"""The outcome of a gate as markdown for GitHub: a job's summary, a comment on a pull request."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.report.gate.page import gate_page
from qbench.report.markdown import render as as_markdown

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbench.report.format import Gated

LARGEST_BYTES = 1_000_000
"""GitHub refuses the summary of a step beyond 1 MiB."""
LARGEST_COMMENT = 60_000
"""GitHub refuses a comment beyond 65,536 characters; the rest is for links around it."""
_LENGTHS = (None, 100, 30, 10, 3, 0)
"""How long the page's lists may be: the first with which all of it fits is taken."""
_MENTION = re.compile(r"(?<!\w)@(?=\w)")


def render(gated: Gated) -> str:
    """The page, below the headings of the summary; of a page too long for it, the first lines."""
    return _within(lambda text: len(text.encode()) <= LARGEST_BYTES, gated, top=2)


def render_comment(gated: Gated) -> str:
    """The same for a comment, with the suite's name, since a request may have several.

    A name in a record that reads as that of a GitHub user (`@name`) notifies nobody.
    """
    return _within(lambda text: len(text) <= LARGEST_COMMENT, gated, top=3, named=True)


def _within(fits: Callable[[str], bool], gated: Gated, *, top: int, named: bool = False) -> str:
    text = ""
    for most in _LENGTHS:
        page = gate_page(gated.outcome, most=most)
        if named:
            page = replace(page, title=f"{page.title}: {gated.suite}")
        text = as_markdown(page, top=top)
        if named:
            text = _MENTION.sub("@\u200b", text)
        if fits(text):
            break
    return text
