"""Any page for a terminal of 40 columns and more."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from qbench.core.page import (
    Bullets,
    Chart,
    Charts,
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
)
from qbench.core.picture import draw
from qbench.report.terminal_tables import STYLES, Fitted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console, ConsoleOptions, RenderableType

    from qbench.core.page import Line, Page, Part, Tone

_FILE_WIDTH = 100
"""Columns of a page that is written to a file."""


def render(page: Page) -> RenderableType:
    """The page; what stands apart is apart by an empty line."""
    return Group(Text(page.title, style="bold"), *_shown(page.parts, after_heading=True))


def as_text(page: Page) -> str:
    """The page as it is without colours."""
    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=_FILE_WIDTH, color_system=None).print(render(page))
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def _shown(parts: Iterable[Part], *, after_heading: bool) -> Iterator[RenderableType]:
    for part in parts:
        if isinstance(part, Chart | Charts) or (isinstance(part, Bullets) and not part.items):
            continue  # a chart's numbers stand in a table
        if not after_heading:
            yield Text("")
        yield from _part(part)
        after_heading = isinstance(part, Heading)


def _part(part: Part) -> Iterator[RenderableType]:
    match part:
        case Heading(text):
            yield Text(text, style="bold")
        case Words(line, tone):
            yield _line(line, tone)
        case Notice(text):
            yield Text(text, style="bold yellow")
        case Bullets(items):
            yield from (_line(item.line, item.tone) for item in items)
        case Code(text, title):
            yield Text(f"{title}:\n{text}" if title else text)
        case SideBySide():
            yield from _shown(part.codes, after_heading=True)
        case Picture():
            yield _Drawn(part)
        case (Table() as table) | Chooser(table=table):
            yield Fitted(table)
        case Fold(title, inner):
            yield Text(title, style="bold")
            yield from _shown(inner, after_heading=True)


def _line(line: Line, tone: Tone) -> Text:
    pieces = (line,) if isinstance(line, str) else line
    return Text.assemble(*map(_piece, pieces), style=STYLES[tone])


def _piece(piece: str | Strong | Mono) -> str | tuple[str, str]:
    if isinstance(piece, Strong):
        return piece.text, STYLES["loud" if piece.tone == "plain" else piece.tone]
    return piece.text if isinstance(piece, Mono) else piece


class _Drawn:
    """A picture as wide as there is room; one that is wrapped is none, what does not fit is cut."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line in draw(self.picture, options.max_width):
            yield Text(line, no_wrap=True, overflow="crop")
