"""The history of a suite: its lines, where they changed, and what else changed there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.history.lines import find_lines, picked
from qbench.compare.history.points import find_points
from qbench.compare.history.shifts import find_shifts
from qbench.compare.span import find_span
from qbench.core.errors import UsageError
from qbench.core.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.compare.history.batches import Batches
    from qbench.compare.history.lines import MetricLine
    from qbench.compare.history.points import Measured, Place
    from qbench.compare.history.shifts import Judged, Shift
    from qbench.compare.span import Span


@dataclass(frozen=True)
class JudgedLine:
    """A line with what is said of it."""

    line: MetricLine
    judged: Judged


@dataclass(frozen=True)
class Turn:
    """Two neighbouring measurements between which lines changed."""

    new: Place
    old: Place
    changes: tuple[tuple[MetricLine, Shift], ...]
    span: Span
    """What lies between them, of the items that changed."""


@dataclass(frozen=True)
class History:
    """The history of a suite, as far as it was asked for."""

    suite: str
    lines: tuple[JudgedLine, ...]
    turns: tuple[Turn, ...]
    """In the order of the history."""
    places: tuple[Place, ...]
    """Those with a point of one of the lines, in their order."""
    notes: tuple[str, ...]


def find_history(
    suite: str,
    found: Batches,
    folder: Path,
    *,
    metrics: Sequence[str] = (),
    only: Sequence[str] = (),
    devices: Sequence[str] = (),
    since: str | None = None,
    everything: bool = False,
) -> History:
    """The lines that were asked for (see `find_lines`), judged together.

    `folder` lies in the repository that records name commits of. Raises `UsageError` where nothing
    is of what was asked for.
    """
    measured = find_points(found, since=since)
    lines = find_lines(
        measured.lines, metrics=metrics, only=only, devices=devices, everything=everything
    )
    if not lines:
        raise UsageError(_nothing(suite, measured, metrics, only, devices, since))
    judged = find_shifts(lines)
    numbers = {dot.place.number for line in lines for dot in line.dots}
    return History(
        suite,
        tuple(JudgedLine(*pair) for pair in zip(lines, judged, strict=True)),
        _turns(lines, judged, folder),
        tuple(one for one in measured.places if one.number in numbers),
        (*found.notes, *measured.notes),
    )


def _turns(lines: Sequence[MetricLine], judged: Sequence[Judged], folder: Path) -> tuple[Turn, ...]:
    changes: dict[tuple[int, int], list[tuple[MetricLine, Shift]]] = {}
    for line, one in zip(lines, judged, strict=True):
        for shift in one.shifts:
            pair = line.dots[shift.at].place.number, line.dots[shift.at - 1].place.number
            changes.setdefault(pair, []).append((line, shift))
    turns = []
    for _, found in sorted(changes.items()):
        sides = [
            {
                id(one): one
                for line, shift in found
                for one in line.dots[shift.at - back].point.records
            }
            for back in (0, 1)
        ]
        new, old = (list(side.values()) for side in sides)
        first, shift = found[0]
        after, before = first.dots[shift.at].place, first.dots[shift.at - 1].place
        brought = after.commit if after.commit != before.commit else None  # it says nothing else
        span = find_span(new, old, folder, before.commit, brought)
        turns.append(Turn(after, before, tuple(found), span))
    return tuple(turns)


def _nothing(
    suite: str,
    measured: Measured,
    metrics: Sequence[str],
    only: Sequence[str],
    devices: Sequence[str],
    since: str | None,
) -> str:
    """Why no line is left, and what there is."""
    if not measured.lines:
        return f"--since {since}: found no measurement of {suite} since then; name an earlier one"
    on_devices = picked(measured.lines, devices=devices)
    if not on_devices:
        known = dict.fromkeys(name.device_kind for name in measured.lines)
        return f"--device {', '.join(devices)}: found no such device; there are {', '.join(known)}"
    of_cells = picked(on_devices, only=only)
    if not of_cells:
        cells = dict.fromkeys(name.cell for name in on_devices)
        hint = did_you_mean(only[0], cells) or f"there are the cells {', '.join(cells)}"
        return f"--only {', '.join(only)}: found no such cell; {hint}"
    if metrics:
        names = dict.fromkeys(
            metric.name
            for points in of_cells.values()
            for one in points[-1].records
            for metric in one.metrics
        )
        hint = did_you_mean(metrics[0], names) or "`qbench list` shows what is measured"
        return f"--metric {', '.join(metrics)}: found no such metric in the records; {hint}"
    return (
        f"{suite}: found none of the main metrics in its records; --all shows every metric, and"
        " --metric NAME one"
    )
