"""What was measured when: records as the points of lines, in the order of commits.

A point is one item of one cell, measured once, with its repeats. Points that were measured together
have one place. A measurement that is seen in many commits is one point: its commit is the one that
its records name, or, where git does not know that, the commit that brought them in.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from qbench.compare.selection import pooled_by
from qbench.core.errors import UsageError
from qbench.core.git import CHANGED, SHORT_HASH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qbench.compare.history.batches import Batches
    from qbench.core.git import Commit, Repository
    from qbench.core.record import Record


class LineName(NamedTuple):
    """What the points of one line are of."""

    device_kind: str
    model: str
    cell: str
    """Its label."""
    measurement: str
    item: str


@dataclass(frozen=True)
class Place:
    """When something was measured: a column of the history."""

    number: int
    """From 0 on, in the order of commits."""
    commit: Commit | None
    """None where git knows none."""
    changed: bool
    """Whether tracked files had changed since the commit."""
    started_at: str
    """Of its first record."""

    @property
    def label(self) -> str:
        """The commit in short, `+` behind it after changes; the day where there is none."""
        if self.commit is None:
            return self.started_at[:10]
        return self.commit.short + (CHANGED if self.changed else "")


@dataclass(frozen=True)
class Point:
    """One item of one cell, measured once."""

    place: Place
    records: tuple[Record, ...]
    """One a repeat."""


@dataclass(frozen=True)
class Measured:
    """All points, by what they are of, and what could not be told."""

    lines: Mapping[LineName, tuple[Point, ...]]
    places: tuple[Place, ...]
    notes: tuple[str, ...]


class _Visit(NamedTuple):
    """What tells records that were measured together from others."""

    revision: str
    batch: int
    """Of what came together; -1 on the disk, where nothing came by a commit."""
    software: str
    """Of what is on the disk: the versions that ran it."""
    turn: int = 0
    """Of what was measured there in several ways, such as with other parameters, which it is."""


def find_points(found: Batches, *, since: str | None = None) -> Measured:
    """The points of all lines in the order of commits; `since` leaves out what is of before it.

    Raises `UsageError` for a `since` that is no commit, or without a repository.
    """
    groups: dict[_Visit, dict[LineName, list[Record]]] = {}
    brought: dict[_Visit, Commit | None] = {}
    seen: set[tuple[object, ...]] = set()
    ways: dict[tuple[_Visit, LineName], list[str]] = {}
    for number, batch in enumerate(found.every):
        for record in sorted(batch.records, key=lambda one: one.started_at):
            line = _line(record)
            if (thing := _measurement(record)) in seen:
                continue
            seen.add(thing)
            visit = _visit(record, number if batch.commit else None)
            way, known = pooled_by(record), ways.setdefault((visit, line), [])
            if way not in known:
                known.append(way)
            visit = visit._replace(turn=known.index(way))
            brought.setdefault(visit, batch.commit)
            groups.setdefault(visit, {}).setdefault(line, []).append(record)
    started = {
        visit: min(one.started_at for records in lines.values() for one in records)
        for visit, lines in groups.items()
    }
    commits, notes = _commits(found.repository, brought)
    places, positions = _places(found.repository, commits, started)
    if since is not None:
        first = _begin(found.repository, since, positions)
        places = {
            visit: place for visit, place in places.items() if _is_since(place, first, positions)
        }
    lines: dict[LineName, list[Point]] = {}
    for visit, place in places.items():
        for name, records in groups[visit].items():
            ordered = tuple(sorted(records, key=lambda one: one.item.repeat))
            lines.setdefault(name, []).append(Point(place, ordered))
    made = {name: tuple(points) for name, points in lines.items()}
    return Measured(made, tuple(places.values()), notes)


def _line(record: Record) -> LineName:
    return LineName(
        record.environment.device_kind,
        record.cell.model.name,
        record.cell.label,
        record.item.measurement,
        record.item.slug,
    )


def _measurement(record: Record) -> tuple[object, ...]:
    """What tells it from any other, wherever it is kept."""
    figures = tuple((one.name, one.value) for one in record.metrics)
    revision = record.environment.git_revision
    return (*_line(record), record.key, record.started_at, revision, figures)


def _visit(record: Record, batch: int | None) -> _Visit:
    environment = record.environment
    revision = environment.git_revision or ""
    if batch is not None:
        return _Visit(revision, batch, "")
    software = (environment.qbench, environment.python, environment.driver)
    return _Visit(revision, -1, str((*software, *sorted(environment.versions.items()))))


def _commits(
    repository: Repository | None, brought: Mapping[_Visit, Commit | None]
) -> tuple[dict[_Visit, Commit], tuple[str, ...]]:
    """The commit of each visit that has one, and what could not be told."""
    if repository is None:
        return {}, ()
    revisions = dict.fromkeys(visit.revision.removesuffix(CHANGED) for visit in brought)
    hashes: dict[str, str] = {}
    unknown = []
    for revision in revisions:
        try:
            hashes[revision] = repository.resolve(revision)
        except UsageError:
            if revision:
                unknown.append(revision)
    known = repository.named(hashes.values())
    own = {revision: known[one] for revision, one in hashes.items()}
    commits = {}
    for visit, bringing in brought.items():
        commit = own.get(visit.revision.removesuffix(CHANGED)) or bringing
        if commit is not None:
            commits[visit] = commit
    notes = []
    if unknown:
        few = ", ".join(one[:SHORT_HASH] for one in unknown[:3])
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        notes.append(
            f"git does not know {few}{more}, which records name: the history was written anew, or"
            " they were measured elsewhere; such records stand where they were committed, or by"
            " their time"
        )
    return commits, tuple(notes)


def _order(repository: Repository, hashes: Iterable[str]) -> list[str]:
    """Parents before their children, also of what HEAD does not hold."""
    wanted = set(hashes)
    try:
        order = repository.holds(["HEAD"], wanted)
    except UsageError:  # no commit yet, on this branch
        order = []
    aside = sorted(wanted - set(order))
    return repository.holds([*(["HEAD"] if order else []), *aside], wanted) if aside else order


def _places(
    repository: Repository | None, commits: Mapping[_Visit, Commit], started: Mapping[_Visit, str]
) -> tuple[dict[_Visit, Place], dict[str, int]]:
    """All visits in order with their places; and the number of each commit in git's order."""
    order = [] if repository is None else _order(repository, (c.hash for c in commits.values()))
    positions = {one: at for at, one in enumerate(order)}

    def key(visit: _Visit) -> tuple[int, bool, str]:
        changed = visit.revision.endswith(CHANGED)
        return positions[commits[visit].hash], changed, started[visit]

    ordered = sorted(commits, key=key)
    latest: list[str] = []  # how late it was by then: a later run of an older commit moves nothing
    for visit in ordered:
        latest.append(max(started[visit], latest[-1] if latest else ""))
    for visit in sorted((one for one in started if one not in commits), key=started.__getitem__):
        at = bisect_right(latest, started[visit])
        ordered.insert(at, visit)
        latest.insert(at, started[visit])
    return {
        visit: Place(
            number,
            commits.get(visit),
            visit in commits and visit.revision == commits[visit].hash + CHANGED,
            started[visit],
        )
        for number, visit in enumerate(ordered)
    }, positions


def _begin(
    repository: Repository | None, since: str, positions: Mapping[str, int]
) -> tuple[float, str]:
    """The number that a commit has, or would have, in the order; and its time."""
    if repository is None:
        raise UsageError(
            f"--since {since}: found no repository of git; expected results in one, or leave it out"
        )
    commit = repository.commit(since)
    if commit.hash in positions:
        return positions[commit.hash], commit.time or ""
    held = repository.holds([commit.hash], positions.keys())
    return max((positions[one] for one in held), default=-1) + 0.5, commit.time or ""


def _is_since(place: Place, first: tuple[float, str], positions: Mapping[str, int]) -> bool:
    if place.commit is None:
        return place.started_at >= first[1]
    return positions[place.commit.hash] >= first[0]
