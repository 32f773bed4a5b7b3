"""What a format is: a function from a page, from a report's records or from a gate to a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qbench.compare.gate.gate import GateOutcome
    from qbench.compare.stated import Stated
    from qbench.core.page import Page
    from qbench.core.record import Record

Source = Literal["page", "records", "rows", "gate"]
"""What a format can be made of. Everything has a page; a report has records, a comparison and a
gate have rows, a gate an outcome too."""


class Gated(NamedTuple):
    """The outcome of a gate, with the suite that it is of."""

    outcome: GateOutcome
    suite: str
    file: str
    """The suite's, as it was named on the command line."""


@dataclass(frozen=True)
class Subject:
    """What is shown."""

    page: Callable[[], Page]
    """Makes the whole page."""
    on_screen: Callable[[], Page] | None = None
    """Makes the page that a screen has room for, where that is another one."""
    records: Sequence[Record] | None = None
    """Of a report."""
    stated: Mapping[str, Stated] = field(default_factory=dict)
    """What suites state about the reading of the records, by name."""
    rows: Callable[[], Sequence[Mapping[str, Any]]] | None = None
    """Of a comparison or a gate: one for each difference or check, as its JSON has them."""
    gated: Gated | None = None
    """Of a gate."""


@dataclass(frozen=True)
class Format:
    """A way to write what was found: any page, the records of a report, rows, or a gate.

    One function of the four is enough; the more particular one goes before `page`.
    """

    name: str
    """As `--format` has it."""
    suffix: str
    """Of a file's name, with its point."""
    summary: str
    """One line on what it is."""
    page: Callable[[Page], str | bytes] | None = None
    records: Callable[[Sequence[Record]], str | bytes] | None = None
    stated: Callable[[Sequence[Record], Mapping[str, Stated]], str | bytes] | None = None
    """Of a report's records with what each suite states of their reading; goes before `records`."""
    rows: Callable[[Sequence[Mapping[str, Any]]], str | bytes] | None = None
    gate: Callable[[Gated], str | bytes] | None = None
    on_screen: bool = False
    """Whether it is given what a screen has room for, and not the whole page."""
    commands: bool = False
    """Whether its lines are to be obeyed by the machine that runs a workflow."""
    written: bool = False
    """Whether `run` and `report` write a file of it unless another format is asked for."""

    @property
    def of_records(self) -> bool:
        """Whether it is given a report's records themselves, the older ones too."""
        return self.records is not None or self.stated is not None

    def takes(self, source: Source) -> bool:
        """Whether it can be made of that."""
        return getattr(self, source) is not None

    def render(self, subject: Subject) -> str | bytes:
        """The subject in this format; raises `ValueError` for one that it does not take."""
        if self.gate is not None and subject.gated is not None:
            return self.gate(subject.gated)
        if self.stated is not None and subject.records is not None:
            return self.stated(subject.records, subject.stated)
        if self.records is not None and subject.records is not None:
            return self.records(subject.records)
        if self.rows is not None and subject.rows is not None:
            return self.rows(subject.rows())
        if self.page is None:
            raise ValueError(f"{self.name} does not take what is shown")
        return self.page(self.page_of(subject))

    def page_of(self, subject: Subject) -> Page:
        """The page of the subject that this format is made of."""
        if self.on_screen and subject.on_screen is not None:
            return subject.on_screen()
        return subject.page()
