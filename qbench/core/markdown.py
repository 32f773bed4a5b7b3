"""Parts of markdown pages: text that is shown as it is, and tables aligned in their source."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def escape(text: str) -> str:
    """Text that markdown shows as it is, on one line and within one cell of a table."""
    line = " ".join(text.split())
    line = re.sub(r"([\\`*|])", r"\\\1", line)
    line = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", line)
    line = re.sub(r"&(?=#|\w+;)", "&amp;", line)
    line = re.sub(r"~(?=~)", r"\\~", line)
    line = re.sub(r"^(?=#{1,6}(?: |$)|>)", r"\\", line)
    # only what could open a tag: "<0.001" is shown as it is
    line = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line)
    # a link, one that is named elsewhere, and such a name
    return re.sub(r"\](?=\[|:)", r"\\]", line.replace("](", "]\\("))


def aligned(
    headings: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> str:
    """A table of what is markdown already, its columns aligned in the source."""
    widths = [max(3, *map(len, column)) for column in zip(headings, *lines, strict=True)]
    rule = [
        "-" * (width - 1) + ":" if index in right else "-" * width
        for index, width in enumerate(widths)
    ]
    padded = [
        [
            text.rjust(width) if index in right else text.ljust(width)
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in [list(headings), rule, *lines]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
