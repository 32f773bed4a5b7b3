"""What differs between the conditions of two measurements: packages, machine, model, settings.

It says what could have moved a number, not what did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from qbench.compare.comparable import (
    LAYERS,
    NOT_INSTALLED,
    WEIGHTS,
    condition_changes,
    parameter_changes,
)
from qbench.core.record import identity_changes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.core.record import Record

Kind = Literal["package", "machine", "model", "settings"]
"""Software with a version; the device and how it computed; the weights; what was asked for."""

_SOFTWARE = ("qbench", "Python", "driver", "CUDA", "cuDNN")
_SETTINGS = ("suite", "protocol")
_ELSEWHERE = ("git revision", "variables")
"""Told by the commits, and one by one."""
_TOLD_BY_CONDITIONS = ("model", "versions", "device", "threads", "protocol", "measurement.params")
"""Parts of an identity that stand among the conditions or parameters of the record too."""
_ABSENT = "-"
_GIB = 2**30


@dataclass(frozen=True)
class Change:
    """A condition that differs between two measurements."""

    kind: Kind
    name: str
    new: str
    old: str

    @property
    def words(self) -> str:
        """The change in a few words: `torch 2.12.0 → 2.13.0`."""
        return f"{self.name} {self.old} → {self.new}"


def changes_between(new: Sequence[Record], old: Sequence[Record]) -> tuple[Change, ...]:
    """What the records of two measurements do not share, packages first; their git revisions aside.

    `new` and `old` may be of one item or of many. Options and parameters are compared item by item,
    of the cells and items that both have; of a baseline, which does not keep all options, those
    that it has. A condition of several values on a side is told with all of them.
    """
    found = [
        Change(_kind_of(one.name, new, old), one.name, _version(one.new), _version(one.old))
        for one in condition_changes(new, old)
        if one.name not in _ELSEWHERE
    ]
    found += _changed("machine", "device memory", _memory(new), _memory(old))
    names = dict.fromkeys(name for one in (*new, *old) for name in one.environment.variables)
    for name in names:
        sides = (
            ", ".join(dict.fromkeys(one.environment.variables.get(name, "not set") for one in side))
            for side in (new, old)
        )
        found += _changed("machine", name, *sides)
    found += _settings(new, old)
    return tuple(sorted(found, key=lambda one: get_args(Kind).index(one.kind)))


def _kind_of(name: str, new: Sequence[Record], old: Sequence[Record]) -> Kind:
    if name in _SOFTWARE or any(name in one.environment.versions for one in (*new, *old)):
        return "package"
    if name in _SETTINGS:
        return "settings"
    return "model" if name.startswith((WEIGHTS, LAYERS)) else "machine"


def _version(told: str) -> str:
    return NOT_INSTALLED if told == str(None) else told


def _changed(kind: Kind, name: str, new: str, old: str) -> list[Change]:
    return [] if new == old else [Change(kind, name, new, old)]


def _memory(records: Sequence[Record]) -> str:
    """In GiB: machines of one kind differ by some kilobytes."""
    sizes = (one.environment.device_memory_bytes for one in records)
    told = (_ABSENT if size is None else f"{size / _GIB:.0f} GiB" for size in sizes)
    return ", ".join(dict.fromkeys(told))


def _settings(new: Sequence[Record], old: Sequence[Record]) -> list[Change]:
    """Options, parameters and numbers of repeats of the items that both sides have."""
    mine, theirs = _by_item(new), _by_item(old)
    found: dict[Change, None] = {}
    for name, records in mine.items():
        others = theirs.get(name)
        if others is None:
            continue
        for param in parameter_changes(records[0], others[0]):
            found.setdefault(Change("settings", param.name, param.new, param.old))
        for option, values in _options(records[0], others[0]).items():
            found.setdefault(Change("settings", option, *map(_in_words, values)))
        counts = (str(len({one.item.repeat for one in side})) for side in (records, others))
        found |= dict.fromkeys(_changed("settings", "repeats", *counts))
    return list(found)


def _by_item(records: Sequence[Record]) -> dict[tuple[str, ...], list[Record]]:
    found: dict[tuple[str, ...], list[Record]] = {}
    for one in sorted(records, key=lambda one: one.item.repeat):
        place = (one.cell.model.name, one.cell.label, one.item.measurement, one.item.slug)
        found.setdefault(place, []).append(one)
    return found


def _options(new: Record, old: Record) -> Mapping[str, tuple[object, object]]:
    """What else entered the identities, where both sides kept it."""
    both = new.identity.keys() & old.identity.keys()
    mine, theirs = ({name: one.identity[name] for name in both} for one in (new, old))
    return {
        name: values
        for name, values in identity_changes(mine, theirs).items()
        if not name.startswith(_TOLD_BY_CONDITIONS) and not name.endswith(".repeat")
    }


def _in_words(value: object) -> str:
    return _ABSENT if value is None else f"{value!s:.60}"
