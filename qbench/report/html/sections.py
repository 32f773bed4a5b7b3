"""A page taken apart for its templates: sections with anchors, and what each part shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

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
from qbench.core.untrusted import visible
from qbench.report.html.drawing import Drawn, drawn
from qbench.report.html.tables import TableView, table_view

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.core.page import Line, Page, Part

_LONGEST_ANCHOR = 60
_CODE = re.compile(r"`(?=\S)([^`\n]+)(?<=\S)`")
_FIRST_WORD = re.compile(r"\s*\S+")


@dataclass(frozen=True)
class View:
    """One part: its kind, which chooses its template, and what that shows."""

    kind: str
    text: str = ""
    tone: str = "plain"
    pieces: tuple[tuple[str, str, str], ...] = ()
    """Kind, text and tone of each."""
    items: tuple[View, ...] = ()
    table: TableView | None = None
    picture: Drawn | None = None
    level: int = 0
    anchor: str = ""
    chart: int = 0
    """Which of the page's charts, or of its choosers."""
    description: str = ""


@dataclass
class Section:
    """A heading of level 2 with everything up to the next; the first may have none."""

    title: str
    anchor: str
    parts: list[View] = field(default_factory=list)

    @property
    def inner(self) -> list[View]:
        """The headings one level below, for the table of contents."""
        return [view for view in self.parts if view.anchor and view.level == 3]


@dataclass
class Outline:
    """A whole page."""

    sections: list[Section] = field(default_factory=list)
    charts: list[Any] = field(default_factory=list)
    """Their specifications, in the order of the page."""
    choosers: list[Any] = field(default_factory=list)
    """What each of them decides by."""


def sections_of(page: Page) -> Outline:
    """The page's parts under their headings."""
    reading = _Reading(Outline([Section("", "")]))
    for part in page.parts:
        if isinstance(part, Heading) and part.level <= 2:
            made = Section(visible(part.text), reading.anchor(part.text))
            reading.outline.sections.append(made)
        else:
            reading.outline.sections[-1].parts += reading.views([part])
    outline = reading.outline
    outline.sections = [one for one in outline.sections if one.title or one.parts]
    called = _names(page.parts)
    outline.charts = [_renamed(one, called) for one in outline.charts]
    return outline


def _names(parts: Iterable[Part]) -> dict[str, str]:
    """What the rows of the page's tables are called, by their labels."""
    called: dict[str, str] = {}
    for part in parts:
        if isinstance(part, Fold):
            called |= _names(part.parts)
        if isinstance(part, Table):
            called |= {row.label: row.shown for row in part.rows if row.called}
    return called


def _renamed(value: Any, called: Mapping[str, str]) -> Any:
    """Plain values in which each label is what its row is called."""
    if isinstance(value, str):
        return called.get(value, value)
    if isinstance(value, Mapping):
        return {key: _renamed(one, called) for key, one in value.items()}
    return [_renamed(one, called) for one in value] if isinstance(value, list | tuple) else value


class _Reading:
    """What is known so far of the page: anchors that are taken, charts, the last heading."""

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self._anchors: set[str] = set()
        self._titled = ""

    def anchor(self, text: str) -> str:
        """A name for a heading that no other has; it also names the table that follows."""
        letters = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST_ANCHOR]
        plain = f"at-{letters}".rstrip("-")
        found, at = plain, 2
        while found in self._anchors:
            found, at = f"{plain}--{at}", at + 1
        self._anchors.add(found)
        self._titled = text
        return found

    def views(self, parts: Iterable[Part]) -> list[View]:
        """What is shown of the parts; one that holds nothing is left out."""
        return [view for part in parts if (view := self._view(part)) is not None]

    def _view(self, part: Part) -> View | None:
        match part:
            case Heading(text, level):
                anchor = self.anchor(text)
                return View("heading", visible(text), level=min(level, 6), anchor=anchor)
            case Chart() | Charts():
                return self._chart(part) if isinstance(part, Chart) else self._charts(part)
            case Table():
                name = part.title or self._titled
                return View("table", table=table_view(part, visible(name)))
            case Chooser():
                return self._chooser(part)
            case Fold(title, inner):
                return View("fold", visible(title), items=tuple(self.views(inner)))
            case _:
                return _written(part)

    def _chart(self, part: Chart) -> View:
        self.outline.charts.append(part.spec)
        return View(
            "chart",
            visible(part.title),
            chart=len(self.outline.charts) - 1,
            description=visible(part.description),
            pieces=_pieces(part.caption),
        )

    def _chooser(self, part: Chooser) -> View:
        self.outline.choosers.append(part.data)
        title = visible(part.title)
        at = len(self.outline.choosers) - 1
        return View("chooser", title, chart=at, table=table_view(part.table, title))

    def _charts(self, part: Charts) -> View | None:
        if not part.charts:
            return None
        made = tuple(map(self._chart, part.charts))
        group = View("charts", items=made, pieces=_pieces(part.caption))
        if part.folded:
            return View("fold", visible(part.folded), items=(group,))
        if not part.title:
            return group
        anchor = self.anchor(part.title)
        return replace(group, text=visible(part.title), level=3, anchor=anchor)


def _written(
    part: Words | Notice | Bullets | Code | SideBySide | Picture,
) -> View | None:
    match part:
        case Words(line, tone):
            return View("words", tone=tone, pieces=_pieces(line))
        case Notice(text):
            return View("notice", visible(text))
        case Bullets(items):
            lines = tuple(
                View("words", tone=item.tone, pieces=_pieces(item.line)) for item in items
            )
            return View("bullets", items=lines) if lines else None
        case Code(text, title):
            return View("code", visible(title), description=visible(text))
        case SideBySide():
            return _beside(part)
        case Picture():
            return View("picture", picture=drawn(part))


def _beside(part: SideBySide) -> View:
    """Pairs: before each of the others the text, marked where that one differs from it."""
    if not part.others:
        alone = View("parted", visible(part.title), pieces=_pieces((Mono(part.text),)))
        return View("beside", items=(alone,))
    items = []
    for at, one in enumerate(part.others):
        own = _parted(part.title, one.same, part.text.removeprefix(one.same))
        items.append(own if at == 0 else replace(own, tone="quiet"))
        items.append(_parted(one.title, one.same, one.rest, part.mark))
    return View("beside", items=tuple(items))


def _parted(title: str, same: str, rest: str, mark: str = "") -> View:
    """A text as what is the same, the first word that is not (with the mark), and the rest."""
    word = _FIRST_WORD.match(rest)
    first = word[0] if word else ""
    pieces: Line = (same, Strong(f"{mark}{first}"), Mono(rest[len(first) :]))
    # A model's text, in which a backtick is one.
    return View("parted", visible(title), pieces=tuple(map(_piece, pieces)))


def _pieces(line: Line) -> tuple[tuple[str, str, str], ...]:
    pieces: Sequence[str | Strong | Mono] = (line,) if isinstance(line, str) else line
    return tuple(_piece(part) for piece in pieces for part in _marked(piece))


def _marked(piece: str | Strong | Mono) -> list[str | Mono | Strong]:
    """Words in which what stands between two backticks, such as an option's name, is code."""
    if not isinstance(piece, str) or "`" not in piece:
        return [piece]
    parts = _CODE.split(piece)  # words and code by turns
    return [Mono(part) if at % 2 else part for at, part in enumerate(parts) if part]


def _piece(piece: str | Strong | Mono) -> tuple[str, str, str]:
    if isinstance(piece, Strong):
        return "strong", visible(piece.text), piece.tone
    if isinstance(piece, Mono):
        return "mono", visible(piece.text), "plain"
    return "text", visible(piece), "plain"
