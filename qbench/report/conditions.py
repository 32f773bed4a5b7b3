"""The conditions that the records were taken under; where they differ, which cells had which."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from qbench.compare.comparable import (
    DEVICE_CONDITIONS,
    NOT_INSTALLED,
    device_conditions,
    fingerprint,
)
from qbench.compare.items import describe_params

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbench.compare.selection import Selection
    from qbench.core.record import Record

_DIGITS_SHOWN = 16


@dataclass(frozen=True)
class Condition:
    """One condition with each of its values."""

    name: str
    values: tuple[tuple[str, tuple[str, ...]], ...]
    """A value, and the cells it holds for: none named if it is the only value."""

    mixed: bool = False
    """Whether records of one and the same table have different values."""


def conditions(selection: Selection) -> list[Condition]:
    """All conditions of the records in the tables; none if there are no records."""
    if not selection.records:
        return []
    packages = dict.fromkeys(
        package for record in selection.records for package in record.environment.versions
    )
    packages_used = [_condition(selection, name, _version_of(name)) for name in packages]
    absent = [one.name for one in packages_used if one.values == ((NOT_INSTALLED, ()),)]
    return [
        _condition(selection, "protocol", lambda record: record.protocol),
        _condition(selection, "suite", lambda record: record.suite),
        _condition(selection, "model", _model),
        _condition(selection, "model fingerprint", _fingerprint),
        _condition(selection, "device", lambda record: record.environment.device),
        _condition(selection, "device memory", _device_memory),
        _condition(selection, "threads", _threads),
        _condition(selection, "CPU features", _cpu_features),
        *_told(selection),
        _condition(selection, "platform", lambda record: record.environment.platform),
        _condition(selection, "Python", lambda record: record.environment.python),
        _condition(selection, "qbench", lambda record: record.environment.qbench),
        *(one for one in packages_used if one.name not in absent),
        *([Condition(NOT_INSTALLED, ((", ".join(absent), ()),))] if absent else []),
        _condition(selection, "git revision", lambda r: _text(r.environment.git_revision)),
        Condition("measured", ((_date_range(selection), ()),)),
    ]


def parameters(selection: Selection) -> list[tuple[str, str, str]]:
    """Measurement, item and parameters of everything in the tables but the trainings.

    Those of the trainings stand with the arms.
    """
    found = {
        (record.item.measurement, record.item.slug, describe_params(record.item.params)): None
        for record in selection.records
        if record.item.measurement != "training"
    }
    return list(found)


def _condition(selection: Selection, name: str, value: Callable[[Record], str | None]) -> Condition:
    places: dict[str, dict[str, None]] = {}
    mixed = False
    for table in selection.tables:
        in_table = set()
        for cell in table.every:
            for record in cell.records:
                text = value(record)
                if text is not None:
                    in_table.add(text)
                    places.setdefault(text, {})[cell.place] = None
        mixed = mixed or len(in_table) > 1
    if not places:
        return Condition(name, (("unknown", ()),))
    if len(places) == 1:
        return Condition(name, tuple((text, ()) for text in places))
    return Condition(name, tuple((text, tuple(cells)) for text, cells in places.items()), mixed)


def _told(selection: Selection) -> list[Condition]:
    """How the devices computed; no row for what no record says."""
    said = {name for record in selection.records for name in device_conditions(record)}
    return [
        _condition(selection, name, _device_condition(name))
        for name in DEVICE_CONDITIONS
        if name in said
    ]


def _device_condition(name: str) -> Callable[[Record], str | None]:
    return lambda record: device_conditions(record).get(name)


def _model(record: Record) -> str:
    model = record.cell.model
    identity = record.identity.get("model")
    revision = identity.get("revision") if isinstance(identity, dict) else model.revision
    # of a folder, what the suite says: its absolute path means nothing to a reader elsewhere
    return model.source if revision is None else f"{model.location}@{revision}"


def _fingerprint(record: Record) -> str:
    return (fingerprint(record) or "unknown")[:_DIGITS_SHOWN]


def _version_of(package: str) -> Callable[[Record], str]:
    return lambda record: record.environment.versions.get(package) or NOT_INSTALLED


def _threads(record: Record) -> str | None:
    """None of what was skipped before a worker, which alone knows its threads, was asked for."""
    threads = record.environment.threads
    return None if threads is None and record.status == "skipped" else _text(threads)


def _device_memory(record: Record) -> str:
    size_bytes = record.environment.device_memory_bytes
    return "unknown" if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"


def _cpu_features(record: Record) -> str:
    return ", ".join(record.environment.cpu_features) or "none noted"


def _text(value: object) -> str:
    return "unknown" if value is None else str(value)


def _date_range(selection: Selection) -> str:
    times = sorted(record.started_at for record in selection.records)
    first, last = _minute(times[0]), _minute(times[-1])
    return f"{first} UTC" if first == last else f"{first} to {last} UTC"


def _minute(moment: str) -> str:
    try:
        return datetime.fromisoformat(moment).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return moment
