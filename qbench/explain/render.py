"""An explanation for a terminal, as markdown and as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from qbench.explain.picture import draw
from qbench.report.markdown_parts import bullets, escape, words_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from qbench.explain.explanation import Explanation, Grid


def render(explanation: Explanation, width: int) -> RenderableType:
    """For a terminal of `width` characters."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(explanation.title, style="bold")]
    for section in explanation.sections:
        parts += [Text(""), Text(section.title, style="bold cyan")]
        parts += [Text(line) for line in section.lines]
        if section.grid is not None:
            parts.append(_table(section.grid))
        if section.picture is not None:
            # A picture that is wrapped is none: what does not fit is cut.
            lines = draw(section.picture, width)
            parts += [Text(line, no_wrap=True, overflow="crop") for line in lines]
        parts += [Text(note, style="dim") for note in section.notes]
    return Group(*parts)


def markdown(explanation: Explanation) -> str:
    """The same as a markdown page."""
    blocks = [f"# {escape(explanation.title)}"]
    for section in explanation.sections:
        blocks.append(f"## {escape(section.title)}")
        if section.lines:
            blocks.append(bullets(escape(line) for line in section.lines))
        if section.grid is not None:
            grid = section.grid
            blocks.append(words_table(grid.headings, grid.rows, grid.right))
        if section.picture is not None:
            blocks.append("\n".join(("```text", *draw(section.picture), "```")))
        blocks += [escape(note) for note in section.notes]
    return "\n\n".join(blocks) + "\n"


def as_json(explanation: Explanation) -> str:
    """The figures of an explanation, for programs."""
    return json.dumps(explanation.figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


PAGES = {"markdown": markdown, "json": as_json}
"""The formats beside the terminal's, by the name of `--format`."""


def _table(grid: Grid) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold")
    for index, heading in enumerate(grid.headings):
        justify = "right" if index in grid.right else "left"
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table
