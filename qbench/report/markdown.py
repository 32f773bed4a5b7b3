"""Any page as markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qbench.core.page import (
    Bullets,
    Chooser,
    Code,
    Fold,
    Heading,
    Mono,
    Notice,
    Picture,
    SideBySide,
    Strong,
    Table,
    Words,
    interval_behind,
)
from qbench.core.picture import draw

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.core.page import Column, Figure, Line, Page, Part
    from qbench.core.units import Scale


def render(page: Page, *, top: int = 1) -> str:
    """The page; its title is a heading of the level `top`."""
    blocks = [_heading(page.title, top), *_blocks(page.parts, top)]
    if page.packed:
        blocks.append(f"<!-- {page.packed} -->")
    return "\n\n".join(blocks) + "\n"


def _blocks(parts: Iterable[Part], top: int) -> list[str]:
    """What stands apart on the page; a part that holds nothing is left out."""
    return [block for part in parts for block in _block(part, top) if block]


def _block(part: Part, top: int) -> list[str]:
    found: list[str] = []  # of charts, whose numbers stand in tables
    match part:
        case Heading(text, level):
            found = [_heading(text, top + level - 1)]
        case Words(line):
            found = [_line(line)]
        case Notice(text):
            found = [f"> **{escape(text)}**"]
        case Bullets(items):
            found = ["\n".join(f"- {_line(item.line)}" for item in items)]
        case Code(text, title):
            found = [f"{escape(title)}:" if title else "", _fenced(text)]
        case SideBySide():
            found = _blocks(part.codes, top)
        case Picture():
            found = [_fenced("\n".join(draw(part)))]
        case (Table() as table) | Chooser(table=table):
            found = [_table(table)]
        case Fold(title, inner):
            summary = f"<details><summary>{escape(title)}</summary>"
            found = [summary, *_blocks(inner, top), "</details>"]
    return found


def _heading(text: str, level: int) -> str:
    return f"{'#' * level} {escape(text)}"


def _line(line: Line) -> str:
    if isinstance(line, str):
        return escape(line)
    return "".join(_piece(piece) for piece in line)


def _piece(piece: str | Strong | Mono) -> str:
    if isinstance(piece, Mono):
        return f"`{piece.text}`"
    if isinstance(piece, Strong):
        return f"**{escape(piece.text)}**"
    if not piece.strip():
        return piece
    # what stands at the ends of a piece holds it apart from its neighbours
    start, end = (" " if edge.isspace() else "" for edge in (piece[:1], piece[-1:]))
    return f"{start}{escape(piece)}{end}"


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _table(table: Table) -> str:
    """Its columns are aligned in the source."""
    scales = [table.scale(index) for index in range(len(table.columns))]
    headings = [escape(table.stub)]
    headings += [
        escape(heading(column, scale)) for column, scale in zip(table.columns, scales, strict=True)
    ]
    lines = []
    for row in table.rows:
        label = escape(row.shown) + (" (reference)" if row.reference else "")
        cells = zip(row.figures, table.columns, scales, strict=True)
        lines.append([label, *(_figure(*cell) for cell in cells)])
    right = [at for at, column in enumerate(table.columns, 1) if column.to_the_right]
    right += [0] if table.stub_right else []
    return _aligned(headings, lines, right)


def heading(column: Column, scale: Scale) -> str:
    """A column's title with its unit."""
    return f"{column.title} ({scale.symbol})" if scale.symbol else column.title


def figure_words(figure: Figure, column: Column, scale: Scale) -> str:
    """What stands for a figure, as plain text: its number with what is written behind it."""
    if figure.word is not None or figure.value is None:
        return figure.word or ""
    return _number(figure, column, scale) + _marks(figure)


def _figure(figure: Figure, column: Column, scale: Scale) -> str:
    if figure.word is not None or figure.value is None or not figure.best:
        return escape(figure_words(figure, column, scale))
    return f"**{_number(figure, column, scale)}**{_marks(figure)}"


def _number(figure: Figure, column: Column, scale: Scale) -> str:
    text = scale.text(figure.value or 0.0)
    if figure.spread and not scale.is_nothing(figure.spread):
        text = f"{text} ± {scale.text(figure.spread)}"
    return text + interval_behind(figure, column, scale)


def _marks(figure: Figure) -> str:
    marks = {" ≈": figure.uncertain, " ≠": figure.unlike_served, " †": figure.warned}
    return "".join(mark for mark, is_so in marks.items() if is_so)


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


def _aligned(
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
