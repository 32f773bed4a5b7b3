"""The sections of an explanation, as parts of its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from qbench.core.page import Heading, Words, bullets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.core.page import Part, Picture, Table

Section: TypeAlias = "tuple[Part, ...]"


def section(
    title: str,
    lines: Iterable[str] = (),
    table: Table | None = None,
    picture: Picture | None = None,
    notes: Iterable[str] = (),
) -> Section:
    """Sentences below a title, then a table, then a picture, then notes."""
    sentences = bullets(lines)
    parts: list[Part | None] = [
        Heading(title),
        sentences if sentences.items else None,
        table,
        picture,
        *(Words(note, "quiet") for note in notes),
    ]
    return tuple(part for part in parts if part is not None)


def joined(*sections: Section) -> Section:
    """The parts of all sections, one after another."""
    return tuple(part for each in sections for part in each)
