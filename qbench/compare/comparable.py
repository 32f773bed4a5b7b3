"""Whether two groups of records may be compared, and in which conditions they differ.

Each group holds the records of one item of one cell, one a repeat. What bars a comparison is named;
what does not is listed as a difference of conditions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.compare.variation import variation
from qbench.core.record import content_key
from qbench.core.unchecked import as_mapping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.record import Record

DEVICE_BOUND = ("latency", "memory", "cold_start", "kernels", "serving")
"""Measurements whose numbers mean something on one device model only; so do all times."""
FREE_PARAMS = ("batch", "batch_size", "attention", "divergence", "cluster")
"""Parameters of quality and tasks that may differ: they move the numbers by rounding at most."""
_DIVERGENCE = ("kl.", "top1_agreement", "rms_probability_change", "probability_change.")
"""Metrics that say how far a cell is from the reference, whichever that was; the measurement's name
may stand before them."""
DEVICE_CONDITIONS = ("fp32 products", "driver", "CUDA", "cuDNN", "variables")
_DETAILS = {
    "ids_sha256": "token ids (another tokenizer, or another way to cut the text)",
    "task_hash": "the task's definition or data",
    "task_version": "the task's version",
}
ENERGY_METHOD = "energy_method"
"""In the details of what was timed: what told its energy."""
_TOKENS = "tokens"
"""Metric that counts what was scored."""
TAKE_AGAIN = "a record from before it was kept is to be taken again, a baseline written anew"
_ABSENT = "-"
WEIGHTS, LAYERS = "weights of ", "layers of "
"""How the names of conditions begin that are of one model, or of one cell."""
NOT_INSTALLED = "not installed"
"""What is shown for a package without a version."""
_MARK = 6
"""Characters of what tells two maps of layers apart that have as many of each format."""
_SHOWN = 12
"""Characters of a hash that are shown."""


@dataclass(frozen=True)
class Gap:
    """Why there is nothing to compare: a value is missing, or the two do not compare."""

    kind: Literal["missing", "incomparable", "not applicable"]
    reason: str


@dataclass(frozen=True)
class ConditionChange:
    """A condition that the two sides do not share."""

    name: str
    new: str
    old: str


def find_gap(
    new: Sequence[Record], old: Sequence[Record], metric: str, *, same_run: bool = False
) -> Gap | None:
    """What bars a metric of `new` from being compared with that of `old`; None if nothing does.

    Within one run (`same_run`: a cell against its reference) other weights of the model bar it too,
    unless they are of a checkpoint that was made of the reference's model;
    between two runs they are what is being compared, and are listed among the conditions.
    """
    for records, side in ((new, "this side"), (old, "the reference" if same_run else "the other")):
        gap = missing_value(records, metric, side)
        if gap is not None:
            return gap
    mine, theirs = new[0], old[0]
    if mine.protocol != theirs.protocol:
        return _other("protocol", mine.protocol, theirs.protocol)
    bound = is_device_bound(mine, metric)
    for one in parameter_changes(mine, theirs):
        if bound or one.name not in FREE_PARAMS:
            return _other(one.name, one.new, one.old)
    made_of_it = mine.cell.model.original == theirs.cell.model.name
    if same_run and not made_of_it and fingerprint(mine) != fingerprint(theirs):
        return _other("weights", _short(fingerprint(mine)), _short(fingerprint(theirs)))
    if not bound:
        return _other_data(mine, theirs, metric)
    return _other_device(mine, theirs) or _other_counter(mine, theirs, metric)


def missing_value(records: Sequence[Record], metric: str, side: str) -> Gap | None:
    """Why a side has no value of the metric; None if it has."""
    if not records:
        return Gap("missing", f"{side} has no record of it")
    good = [record for record in records if record.status == "ok"]
    if not good:
        first = records[0]
        return Gap("missing", f"{side}: {first.status} ({first.reason or 'no reason given'})")
    if all(record.value(metric) is None for record in good):
        found = good[0].metric(metric)
        reason = found.reason if found else f"its record does not hold this metric; {TAKE_AGAIN}"
        return Gap("missing", f"{side}: {reason}")
    return None


def is_device_bound(record: Record, metric: str) -> bool:
    """Whether the metric compares on one device model only."""
    found = record.metric(metric)
    of_process = found is not None and variation(record, found) == "process"
    return of_process or record.item.measurement in DEVICE_BOUND


def condition_changes(new: Sequence[Record], old: Sequence[Record]) -> list[ConditionChange]:
    """Conditions that any records of the two sides differ in, each once.

    `new` and `old` are all records of the two sides; a condition with several values on a side is
    shown with all of them.
    """
    changes = []
    names = dict.fromkeys(name for record in (*new, *old) for name in conditions_of(record))
    for name in names:
        mine, theirs = (
            dict.fromkeys(conditions_of(record).get(name, _ABSENT) for record in side)
            for side in (new, old)
        )
        if name in DEVICE_CONDITIONS and {_ABSENT} in (set(mine), set(theirs)):
            continue  # of records that do not say it
        if name.startswith(LAYERS):  # which is said of a mix alone
            for side in (mine, theirs):
                side.pop(_ABSENT, None)
            if not mine or not theirs:
                continue
        if set(mine) != set(theirs):
            changes.append(ConditionChange(name, ", ".join(mine), ", ".join(theirs)))
    return changes


def parameter_changes(new: Record, old: Record) -> list[ConditionChange]:
    """The parameters of the item that differ; a text by its contents, wherever it lies."""
    mine, theirs = new.item.params_by_contents, old.item.params_by_contents
    return [
        ConditionChange(name, _short(mine.get(name)), _short(theirs.get(name)))
        for name in dict.fromkeys((*mine, *theirs))
        if mine.get(name) != theirs.get(name)
    ]


def fingerprint(record: Record) -> str | None:
    """Fingerprint of the model's files; None in a record that does not say."""
    model = record.identity.get("model")
    found = model.get("fingerprint") if isinstance(model, dict) else None
    return None if found is None else str(found)


def device_conditions(record: Record) -> dict[str, str]:
    """How the device computed, by name, as far as the record says: older ones do not."""
    environment = record.environment
    variables = ", ".join(f"{name}={value}" for name, value in environment.variables.items())
    told = (
        environment.fp32_products,
        environment.driver,
        environment.cuda,
        environment.cudnn,
        variables or (None if environment.cuda is None else "none set"),
    )
    named = zip(DEVICE_CONDITIONS, told, strict=True)
    return {name: value for name, value in named if value is not None}


def conditions_of(record: Record) -> dict[str, str]:
    """The conditions of a record by their names, in words."""
    environment = record.environment
    known = {
        "suite": record.suite,
        f"{WEIGHTS}{record.cell.model.name}": _short(fingerprint(record)),
        "protocol": record.protocol,
        "device": environment.device,
        "threads": str(environment.threads),
        "CPU features": ", ".join(environment.cpu_features),
        "platform": environment.platform,
        "Python": environment.python,
        "qbench": environment.qbench,
        "git revision": str(environment.git_revision),
    }
    return (
        known
        | device_conditions(record)
        | {name: str(found) for name, found in environment.versions.items()}
        | _layers_of_mix(record)
    )


def _layers_of_mix(record: Record) -> dict[str, str]:
    """What the layers of a mix are held in, which its label need not tell; none of other cells."""
    held = as_mapping(as_mapping(record.details.get("loaded")).get("held_in"))
    if not held:
        return {}
    counts = Counter(map(str, held.values()))
    told = ", ".join(f"{count} {label}" for label, count in sorted(counts.items()))
    return {f"{LAYERS}{record.cell.label}": f"{told} ({content_key(held)[:_MARK]})"}


def _other_device(new: Record, old: Record) -> Gap | None:
    mine, theirs = new.environment, old.environment
    if mine.device != theirs.device:
        devices = f"{mine.device} here, {theirs.device} there"
        reason = f"times and peaks compare on one device model only: {devices}"
        return Gap("not applicable", reason)
    if mine.device_type == "cpu" and mine.threads != theirs.threads:
        reason = f"another number of threads: {mine.threads} here, {theirs.threads} there"
        return Gap("not applicable", reason)
    return None


def _other_counter(new: Record, old: Record, metric: str) -> Gap | None:
    """Energy by one counter says nothing of another's: RAPL may count memory, or not."""
    found = new.metric(metric)
    mine, theirs = (record.details.get(ENERGY_METHOD) for record in (new, old))
    if found is None or found.unit != "J" or mine == theirs or None in (mine, theirs):
        return None
    return Gap("not applicable", f"energy is told by {mine} here, by {theirs} there")


def _other_data(new: Record, old: Record, metric: str) -> Gap | None:
    if metric.removeprefix(f"{new.item.measurement}.").startswith(_DIVERGENCE):
        here, there = new.item.held_against, old.item.held_against
        if None not in (here, there) and here != there:
            return _other("reference of the divergence", str(here), str(there))
    for key, words in _DETAILS.items():
        mine, theirs = new.details.get(key), old.details.get(key)
        if mine is not None and theirs is not None and mine != theirs:
            return _other(words, _short(mine), _short(theirs))
    counts = new.value(_TOKENS), old.value(_TOKENS)
    if metric != _TOKENS and None not in counts and counts[0] != counts[1]:
        return _other("number of tokens", *(f"{count:g}" for count in counts))
    return None


def _other(name: str, new: str, old: str) -> Gap:
    return Gap("incomparable", f"other {name}: {new} here, {old} there")


def _short(value: object) -> str:
    text = str(value)
    is_hash = len(text) > 2 * _SHOWN and all(letter in "0123456789abcdef" for letter in text)
    return text[:_SHOWN] if is_hash else text
