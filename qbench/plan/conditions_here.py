"""What of the conditions of records this machine has, and what follows where it has not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.compare.comparable import NOT_INSTALLED, WEIGHTS, conditions_of
from qbench.core.record import identity_changes
from qbench.core.unchecked import as_mapping
from qbench.measures import of_machine

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.core.record import Record

State = Literal["same", "no matter", "matters", "unknown"]
"""Shared; differs, which moves no number that was measured; differs, which may; not known here."""

_UNKNOWN_HERE = "not known before a run"
_ABSENT = "-"
_NO_GPU = "no GPU"
_TIMES, _NUMBERS = "times", "numbers"
"""Two kinds of figures: times, rates and peaks of memory; and what a model computes."""
_BOUND = {_TIMES: "times are not compared", _NUMBERS: "numbers may differ by rounding"}
"""What follows for each on another device."""
_EXACT = ("footprint",)
"""Measurements of what follows from the model and the format alone."""
_NOT_NUMBERS = ("Python", "platform", "qbench", "git revision")
_OF_GPUS = ("driver", "CUDA", "cuDNN")
_COMMIT = re.compile(r"^(\w{12})\w+")
_TOLD_ELSEWHERE = re.compile(
    r"(versions|threads|protocol|device|reference|tuning|sensitivities|model\.(fingerprint|gpus))\b"
)
"""Parts of an identity that stand among the conditions, or are keys that follow from them."""


@dataclass(frozen=True)
class ConditionHere:
    """One condition as the records have it, and as a run here would."""

    name: str
    there: str
    here: str
    state: State
    follows: str
    """What follows for the numbers, and what to do; empty where nothing does."""


def conditions_here(records: Sequence[Record], twins: Sequence[Record]) -> list[ConditionHere]:
    """All conditions of the records; `twins` are what a run here would leave in their place."""
    figures = figures_of(records)
    there, here = _values(records), _values(twins)
    on_cpu = all(twin.environment.device_type == "cpu" for twin in twins)
    in_keys = {name for record in records for name in as_mapping(record.identity.get("versions"))}
    found = []
    for name, theirs in there.items():
        mine = here.get(name, {})
        was, now = _shown(name, theirs), _shown(name, mine)
        if set(mine) == set(theirs):
            found.append(ConditionHere(name, was, now, "same", ""))
        elif name in _OF_GPUS and on_cpu:
            found.append(ConditionHere(name, was, _NO_GPU, "matters", "told by the device"))
        elif not mine or (set(mine) == {str(None)} and name.startswith(WEIGHTS)):
            found.append(ConditionHere(name, was, _UNKNOWN_HERE, "unknown", ""))
        else:
            state, follows = _follows(name, figures, key=name in in_keys)
            found.append(ConditionHere(name, was, now, state, follows))
    return [*found, *_other_parts(records, twins)]


def figures_of(records: Iterable[Record]) -> dict[str, list[str]]:
    """The measurements whose figures conditions may move: those of times and peaks, and others."""
    measured = dict.fromkeys(record.item.measurement for record in records)
    return {
        _TIMES: [name for name in measured if of_machine(name)],
        _NUMBERS: [name for name in measured if not of_machine(name) and name not in _EXACT],
    }


def _values(records: Iterable[Record]) -> dict[str, dict[str, None]]:
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in conditions_of(record).items():
            # A suite's name is the same, and no condition.
            if value != _ABSENT and name != "suite":
                found.setdefault(name, {})[value] = None
    return found


def _shown(name: str, values: Mapping[str, None]) -> str:
    if name == "git revision":
        values = dict.fromkeys(_COMMIT.sub(r"\1", one) for one in values)
    unsaid = "unknown" if name in _NOT_NUMBERS or name.startswith(WEIGHTS) else NOT_INSTALLED
    return ", ".join(unsaid if one == str(None) else one for one in values) or _ABSENT


def _follows(name: str, figures: Mapping[str, list[str]], *, key: bool) -> tuple[State, str]:
    """What a difference means for what was measured; `key`: whether keys hold it."""
    there_are = [kind for kind, names in figures.items() if names]
    if name == "protocol":
        return "matters", "taken in another way, and never compared; other keys"
    if name.startswith(WEIGHTS):
        return "matters", "another model; other keys"
    moved = [kind for kind in there_are if name != "threads" or kind == _TIMES]
    if name in _NOT_NUMBERS or not moved:
        return "no matter", ""
    if name in ("device", "threads"):
        words = [_BOUND[kind] for kind in moved]
    else:
        words = [f"{' and '.join(moved)} may move"]
    if key or name in ("device", "threads"):
        words.append("other keys")
    return "matters", "; ".join(words)


def _other_parts(records: Sequence[Record], twins: Sequence[Record]) -> list[ConditionHere]:
    """What else of the identities differs: options, texts, tasks, by their own names."""
    found: dict[str, ConditionHere] = {}
    for record, twin in zip(records, twins, strict=True):
        if not twin.identity or not record.identity.keys() >= {"precision", "measurement"}:
            continue
        for name, (mine, theirs) in identity_changes(twin.identity, record.identity).items():
            if _TOLD_ELSEWHERE.match(name) is None and name not in found:
                follows = "something else is measured; other keys"
                was, now = _short(theirs), _short(mine)
                found[name] = ConditionHere(name, was, now, "matters", follows)
    return list(found.values())


def _short(value: object) -> str:
    return _ABSENT if value is None else f"{value!s:.40}"
