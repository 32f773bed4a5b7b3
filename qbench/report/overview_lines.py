"""What failed, was skipped and is warned of, for a terminal: one line for each kind."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qbench.core.page import Strong, Words
from qbench.core.units import counted
from qbench.report.failures import failures, in_one_text, pattern_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.compare.selection import Selection
    from qbench.core.page import Tone
    from qbench.report.failures import Failure

_WIDTH = 80
_NAMES_WIDTH = 20
"""Of the cells named; that there are more is counted."""
_REASON_LINES = 3
_NOT_RUN = ("skipped", "missing")
_REST = re.compile(r"[:;]\s.*|\s\(.*|\.\s.*", re.DOTALL)
"""What follows the words that say what is the case: its numbers, why it matters, what to do."""


def overview_lines(selection: Selection) -> list[Words]:
    """A line a kind: the cells, what is the case, and of how many records. The page tells more."""
    return [*_failure_lines(failures(selection)), *_warning_lines(selection)]


def _failure_lines(found: Iterable[Failure]) -> list[Words]:
    """What was not run is told in one line; what failed with the whole of its reason."""
    kinds: dict[tuple[str, str | None, str], list[Failure]] = {}
    for one in found:
        kinds.setdefault((one.status, one.phase, pattern_of(one.reason)), []).append(one)
    lines = []
    for (status, phase, _), alike in kinds.items():
        cells = named(list(dict.fromkeys(one.cell for one in alike)))
        what = named(list(dict.fromkeys(one.what for one in alike)))
        reason = in_one_text([one.reason for one in alike]).strip()
        reason = " ".join(reason.splitlines()[:_REASON_LINES])
        if status in _NOT_RUN:
            text = cut(f"  {cells}, {what}: {reason}", _WIDTH - len(status))
        else:
            text = f"  {cells}, {what}{f' (while: {phase})' if phase else ''}: {reason}"
        tone: Tone = "warned" if status in _NOT_RUN else "bad"
        lines.append(Words((Strong(status, tone), text)))
    return lines


def _warning_lines(selection: Selection) -> list[Words]:
    texts: dict[str, list[str]] = {}
    places: dict[str, dict[str, int]] = {}
    for cell in selection.cells:
        for record in cell.records:
            for text in dict.fromkeys(_REST.sub("", text) for text in record.warnings):
                kind = pattern_of(text)
                texts.setdefault(kind, []).append(text)
                cells = places.setdefault(kind, {})
                cells[cell.place] = cells.get(cell.place, 0) + 1
    lines = []
    for kind, cells in places.items():
        every = len(cells) == len(selection.cells) > 1
        records = sum(cells.values())
        count = f" ({counted(records, 'record')})" if records > len(cells) else ""
        start = f"  {'all cells' if every else named(list(cells))}: "
        room = _WIDTH - 1 - len(start) - len(count)
        text = f"{start}{cut(in_one_text(texts[kind]), room)}{count}"
        lines.append(Words((Strong("!", "warned"), text)))
    return lines


def named(names: Sequence[str]) -> str:
    """The first of the names, such as `fp16, nf4 (+3)`: one at least, and what has room."""
    shown = [names[0]]
    for name in names[1:]:
        if len(", ".join([*shown, name])) > _NAMES_WIDTH:
            break
        shown.append(name)
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" (+{more})" if more else "")


def cut(text: str, width: int) -> str:
    """The text, ended after a whole word where it is longer than the width."""
    if len(text) <= width:
        return text
    return f"{text[: max(1, width - 1)].rsplit(' ', 1)[0].rstrip(' ,;:')}…"
