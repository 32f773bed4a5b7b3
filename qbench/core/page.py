"""What every page consists of, before it is shown anywhere: words, lists, typed tables, pictures.

A report, a plan, a comparison, the outcome of a gate, an explanation are each a `Page`; a format
renders any of them. Texts are plain: a renderer writes them so that they are shown as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from qbench.core.units import Scale, choose_scale

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.core.record import Better
    from qbench.core.units import Display

Tone = Literal["plain", "quiet", "loud", "good", "warned", "bad"]
"""What a text is to a reader; where there are colours, they follow from it."""


@dataclass(frozen=True)
class Strong:
    """Words in a line that are to be seen first."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Mono:
    """A command, a sign or a key in a line, as it would be typed."""

    text: str


Line: TypeAlias = "str | tuple[str | Strong | Mono, ...]"
"""A text, of pieces where some of it is marked."""


@dataclass(frozen=True)
class Heading:
    """Begins a section; the page's title has level 1."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    line: Line
    tone: Tone = "plain"


@dataclass(frozen=True)
class Notice:
    """What must not be overlooked."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of lines."""

    items: tuple[Words, ...]


@dataclass(frozen=True)
class Code:
    """Text as it was written: a log, or what a model generated."""

    text: str
    title: str = ""
    """Says what it is."""


@dataclass(frozen=True)
class Picture:
    """A histogram of weights over an axis, with the levels that they can be held at."""

    counts: tuple[int, ...]
    """Weights in `picture.BINS` equal steps of the axis."""
    low: float
    high: float
    marks: tuple[float, ...] = ()
    """Places of the axis to mark; none where they would lie closer than characters."""


INTERVAL_LEVEL = 0.95
"""Of the intervals of figures."""
_UNITS: dict[str, str] = {"bytes": "B", "seconds": "s", "percent": "1", "change": "1"}


@dataclass(frozen=True)
class Chart:
    """A picture of numbers that a table of the page has too; shown where pictures can be.

    The page adds what is the same for all: the width, the colours of light and dark, the fonts.
    """

    title: str
    description: str
    """What it shows, in a sentence, for whoever does not see it."""
    spec: Mapping[str, Any]
    """A Vega-Lite specification with its data. Names and texts stand in the data's values alone:
    fields and expressions are fixed words, so that no text is taken for a part of them."""
    caption: str = ""
    """How to read it; shown with it alone."""


@dataclass(frozen=True)
class Charts:
    """Pictures of one kind: in a row where there is room, below one another where there is not."""

    charts: tuple[Chart, ...]
    caption: str = ""
    """How to read them; shown with them alone."""
    folded: str = ""
    """What they are opened by; empty where they are shown at once."""
    title: str = ""
    """Stands above them, as a heading of level 3; empty where another heading does, or a fold."""


@dataclass(frozen=True)
class Parted:
    """A text that begins as another does."""

    title: str
    same: str
    """The beginning that both have."""
    rest: str
    """From the first difference on; empty where only what is not shown differs."""


@dataclass(frozen=True)
class SideBySide:
    """A text, and others beside it with their first difference from it marked."""

    title: str
    text: str
    others: tuple[Parted, ...]
    mark: str
    """Stands before the first difference where there is nothing else to mark it by."""

    @property
    def codes(self) -> tuple[Code, ...]:
        """The texts below one another, the others with the mark."""
        others = (Code(f"{one.same}{self.mark}{one.rest}", one.title) for one in self.others)
        return (Code(self.text, self.title), *others)


@dataclass(frozen=True)
class Column:
    """What the figures below one heading are."""

    key: str
    """Name of the metric, or of what was derived from it."""
    title: str
    display: Display
    better: Better = "neither"
    definition: str = ""
    """For the legend."""
    decimals: int | None = None
    """Fixed number of decimals; None to choose by the values."""
    shares_unit: bool = False
    """Whether its unit is the same as that of the table's other columns that share."""
    right: bool | None = None
    """Whether it is aligned to the right; None: as its display is."""
    below: str = ""
    """Key of the column under whose figures these stand where there is little room."""
    intervals: bool = False
    """Whether the interval of each figure is written behind it."""
    also_called: tuple[str, ...] = ()
    """What other tools and papers call it."""
    told_at_0: bool = False
    """Whether a 0 in every row says something, as of one point among several it does."""
    spare: int = 0
    """Columns above 0 are left out where a terminal has no room for all, the highest first."""

    @property
    def unit(self) -> str | None:
        """Unit of its values: `B`, `s`, `1` for shares and ratios; None where the title says it."""
        return _UNITS.get(self.display)

    @property
    def meaning(self) -> str:
        """For the legend: what else it is called, and its definition."""
        others = f"also called {', '.join(self.also_called)}" if self.also_called else ""
        return "; ".join(text for text in (others, self.definition) if text)

    @property
    def to_the_right(self) -> bool:
        """Whether it is aligned to the right."""
        words = self.display in ("text", "mark", "estimate")
        return not words if self.right is None else self.right


@dataclass(frozen=True)
class Figure:
    """What stands in one place of a table: a number, or the word that stands for it."""

    value: float | None = None
    word: str | None = None
    """Shown in place of a number: a status, `n/a`, `-`, a number with its unit or its verdict, or
    the text of a text column."""
    reason: str | None = None
    """Why there is no number, or no interval of it."""
    best: bool = False
    warned: bool = False
    """Whether a record behind it carries a warning, or only some of its processes succeeded."""
    unlike_served: str | None = None
    """Of a time: why it is not that of its format as it is served, a sentence."""
    uncertain: bool = False
    """Whether it is a change whose 95 % interval includes no change."""
    spread: float | None = None
    """Standard deviation over the seeds, where the number is their mean."""
    low: float | None = None
    """Ends of the 95 % interval, where one is known."""
    high: float | None = None
    tone: Tone = "plain"
    detail: str = ""
    """What is told of it where it is asked for, in words: its interval, what warned of it."""
    verdict: str | None = None
    """What is said of a difference: `better`, `equivalent`, `undecided` …"""
    margin: float | None = None
    """How far from 0 a difference may be and still be called equivalent, as the value is counted:
    a share where that is relative, else in the metric's unit."""


def interval_behind(figure: Figure, column: Column, scale: Scale) -> str:
    """The interval as it is written behind a number, where the column has it so: ` (1.2 to 1.4)`.

    None is written of a figure whose interval is not known, or that is exact.
    """
    if not column.intervals or figure.low is None or figure.high is None:
        return ""
    if figure.low == figure.high:
        return ""
    return f" ({scale.text(figure.low)} to {scale.text(figure.high)})"


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    label: str
    reference: bool
    figures: tuple[Figure, ...]
    faulty: bool = False
    """Whether its cell has layers that do not compute what they hold: it is no choice."""
    called: str | None = None
    """What a page calls it, where the label alone could be taken for something else."""

    @property
    def shown(self) -> str:
        """What stands in front of it where there is room."""
        return self.called or self.label


@dataclass(frozen=True)
class Table:
    """Columns, and rows with a figure for each column."""

    title: str
    """Shown by the heading above it, if at all."""
    stub: str
    """Heading of the row labels."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    stub_right: bool = False
    """Whether the labels are aligned to the right, as numbers are."""

    def column(self, key: str) -> list[Figure]:
        """The figures of the first column of that key; empty if there is none."""
        for index, column in enumerate(self.columns):
            if column.key == key:
                return [row.figures[index] for row in self.rows]
        return []

    def with_columns(self, kept: Sequence[int]) -> Table:
        """The same rows with the columns at these indices alone."""
        return replace(
            self,
            columns=tuple(self.columns[index] for index in kept),
            rows=tuple(
                replace(row, figures=tuple(row.figures[index] for index in kept))
                for row in self.rows
            ),
        )

    def scale(self, index: int) -> Scale:
        """How the numbers of the column at this index are written."""
        column = self.columns[index]
        own = self._values(index)
        sharing = [
            value
            for other, each in enumerate(self.columns)
            if each.shares_unit and each.display == column.display
            for value in self._values(other)
        ]
        unit_of = sharing if column.shares_unit else None
        if not own and not sharing:
            return Scale("", 1.0, 0)  # no number, no unit
        if column.intervals and not any(own):
            own += [row.figures[index].high or 0.0 for row in self.rows]  # how far from 0 it may be
        return choose_scale(own, column.display, decimals=column.decimals, unit_of=unit_of)

    def _values(self, index: int) -> list[float]:
        """The numbers that are written as such."""
        figures = [row.figures[index] for row in self.rows]
        return [
            figure.value for figure in figures if figure.value is not None and figure.word is None
        ]


@dataclass(frozen=True)
class Chooser:
    """A choice of one row of a table under limits, which a reader may change where that can be."""

    title: str
    table: Table
    """The choice as it stands, the best first: what is shown where nothing can be changed."""
    data: Mapping[str, Any]
    """What it is decided by, in plain values:

    - `noun`: what one of them is;
    - `axes`: of each quantity `key`, `title`, `short`, `display`, `unit`, `better` (`lower`,
      `higher`), `kind` (`cost`, `quality`), `changes` (whether it is one from the reference), and
      how a picture's axis writes it: `symbol`, `divisor`;
    - `cells`: `label`, `reference`, `faulty`, `warned` (a sentence), and by key `ranges` (value,
      low and high end of the interval, and why something of these is null) and `needed`: what more
      data would decide;
    - `rows`: which cell stands in each row of the table;
    - `limits`: the bound by key; `minimize`: a key.
    """


@dataclass(frozen=True)
class Fold:
    """Parts that are not needed at first."""

    title: str
    parts: tuple[Part, ...]


Part: TypeAlias = (
    "Heading | Words | Notice | Bullets | Code | SideBySide | Picture | Chart | Charts | Table"
    " | Chooser | Fold"
)


@dataclass(frozen=True)
class Page:
    """Everything that is told of one thing."""

    title: str
    parts: tuple[Part, ...]
    data: Mapping[str, Any] = field(default_factory=dict)
    """The same for programs: plain values by documented keys, None for what is missing."""
    packed: str = ""
    """A line that stands in the file and is not shown; see `qbench.core.packed_records`."""


def bullets(lines: Iterable[Line], tone: Tone = "plain") -> Bullets:
    """A list of lines of one tone."""
    return Bullets(tuple(Words(line, tone) for line in lines))


def words_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Sequence[int] = (),
    title: str = "",
) -> Table:
    """A table of texts; the columns with these indices are aligned to the right."""
    columns = tuple(
        Column(heading, heading, "text", right=at in right)
        for at, heading in enumerate(headings[1:], 1)
    )
    made = tuple(
        Row(label, reference=False, figures=tuple(Figure(word=word) for word in words))
        for label, *words in rows
    )
    return Table(title, headings[0], columns, made, stub_right=0 in right)
