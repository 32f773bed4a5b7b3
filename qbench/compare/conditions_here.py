"""What of the conditions of records this machine has, and what follows where it has not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.compare.comparable import DEVICE_BOUND, DEVICE_CONDITIONS, conditions_of
from qbench.core.record import identity_changes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.core.record import Record

State = Literal["same", "no matter", "matters", "unknown"]
"""Shared; differs, which moves no number that was measured; differs, which may; not known here."""

NOT_INSTALLED = "not installed"
UNKNOWN_HERE = "not known before a run"
_ABSENT = "-"
_TIMED = (*DEVICE_BOUND, "training", "adapters")
"""Measurements that have times or peaks of memory, most of them nothing else."""
_NOT_NUMBERS = ("Python", "platform", "qbench", "git revision")
_OF_MACHINE = ("CPU features", *DEVICE_CONDITIONS)
_SCRIPT = "reproduce.sh"
_WEIGHTS = "weights of "
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
    measured = dict.fromkeys(record.item.measurement for record in records)
    timed = [name for name in measured if name in _TIMED]
    others = [name for name in measured if name not in _TIMED]
    there, here = _values(records), _values(twins)
    # The name of a suite's folder is the same, and no condition.
    names = [name for name in dict.fromkeys((*there, *here)) if name != "suite"]
    found = []
    for name in names:
        mine, theirs = here.get(name, {}), there.get(name, {})
        was, now = _shown(name, theirs), _shown(name, mine)
        if set(mine) == set(theirs):
            found.append(ConditionHere(name, was, now, "same", ""))
        elif not mine or set(mine) == {UNKNOWN_HERE}:
            found.append(ConditionHere(name, was, UNKNOWN_HERE, "unknown", ""))
        elif theirs:
            found.append(ConditionHere(name, was, now, *_follows(name, mine, timed, others)))
    return [*found, *_other_parts(records, twins)]


def _values(records: Iterable[Record]) -> dict[str, dict[str, None]]:
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in conditions_of(record).items():
            if value != _ABSENT:
                found.setdefault(name, {})[value] = None
    return found


def _shown(name: str, values: Mapping[str, None]) -> str:
    unsaid = "unknown" if name in _NOT_NUMBERS or name.startswith(_WEIGHTS) else NOT_INSTALLED
    return ", ".join(unsaid if one == str(None) else one for one in values) or _ABSENT


def _follows(
    name: str, here: Mapping[str, None], timed: Sequence[str], others: Sequence[str]
) -> tuple[State, str]:
    """What a difference means for what was measured: `timed` and the `others`."""
    if name in _NOT_NUMBERS or (name == "threads" and not timed):
        return "no matter", "moves no number that was measured"
    times, rest, every = (", ".join(some) for some in (timed, others, (*timed, *others)))
    if name == "device":
        parts = [f"{times}: not to be compared"] if timed else []
        parts += [f"{rest}: compared, and may differ by rounding"] if others else []
        words = f"{'; '.join(parts)}; the records have other keys"
    elif name == "threads":
        words = f"{times}: not to be compared; {_SCRIPT} sets OMP_NUM_THREADS"
    elif name == "protocol":
        words = "numbers are taken in another way, and never compared: take the records' qbench"
    elif name.startswith(_WEIGHTS):
        words = "other weights: another model would be measured"
    elif name in _OF_MACHINE:
        given = f"; {_SCRIPT} sets them" if name == "variables" else ""
        words = f"may move {every}; no part of a key{given}"
    else:
        moved = "it may be needed" if set(here) == {str(None)} else f"may move {every}"
        words = f"{moved}; pip install -c constraints.txt has the records' version"
    return "matters", words


def _other_parts(records: Sequence[Record], twins: Sequence[Record]) -> list[ConditionHere]:
    """What else of the identities differs: options, texts, tasks, by their own names."""
    found: dict[str, ConditionHere] = {}
    for record, twin in zip(records, twins, strict=True):
        if not twin.identity or not record.identity.keys() >= {"precision", "measurement"}:
            continue
        for name, (mine, theirs) in identity_changes(twin.identity, record.identity).items():
            if _TOLD_ELSEWHERE.match(name) is None and name not in found:
                follows = "something else is measured: the records have other keys"
                was, now = _short(theirs), _short(mine)
                found[name] = ConditionHere(name, was, now, "matters", follows)
    return list(found.values())


def _short(value: object) -> str:
    return _ABSENT if value is None else f"{value!s:.40}"
