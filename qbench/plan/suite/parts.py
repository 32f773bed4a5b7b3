"""The parts of a suite, each from its place in the YAML: names, models, precisions, measurements.

Every function notes what is wrong and returns what is right, so that one mistake hides no other.
"""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, TypeVar

from qbench.core.errors import ModelError
from qbench.core.names import did_you_mean, shortened
from qbench.core.spec import LONGEST_NAME, ModelRef, PrecisionRef, slugify
from qbench.plan.suite.options import owners, read_options, read_sweep
from qbench.plan.suite.problems import amendment, in_words
from qbench.precisions import stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from qbench.core.spec import Frozen
    from qbench.measures import Measurement
    from qbench.plan.suite.problems import Findings
    from qbench.plan.suite.yaml_lines import Node
    from qbench.precisions import Precision

NAME_PATTERN = r"^[A-Za-z0-9_=]([A-Za-z0-9._=-]*[A-Za-z0-9_=])?$"
"""What a name may look like: it becomes the name of a file or folder as it is."""

MAX_CELLS = 2_000
"""Cells of a suite; more are no person's question, and lists that multiply."""

T = TypeVar("T")

_SPLIT = "shorten the lists, or write several suites"

_ORIGINAL = "the name or source of a model of the suite that has no `original` itself"
_MODEL_KEYS = ("source", "name", "trust_remote_code", "device_map", "original")


def read_name(findings: Findings, node: Node) -> str | None:
    """A name that serves as a file name; None if it does not."""
    text = node.value
    if isinstance(text, str) and slugify(text) == text and len(text) <= LONGEST_NAME:
        return text
    if isinstance(text, str) and text:
        own: str | None = f"write '{slugify(text)[:LONGEST_NAME]}', for one"
    else:
        own = amendment(node, {"type": "string"})
    allowed = "letters, digits and . _ = - (none of . - at either end)"
    findings.add(node, f"a name of at most {LONGEST_NAME} {allowed}", remedy=own)
    return None


def read_models(findings: Findings, node: Node, base: Path) -> tuple[ModelRef, ...]:
    """The models; relative folders start at `base`."""
    made = [
        (model.name, model, entry)
        for entry in entries_of(findings, node, "one model")
        if (model := _read_model(findings, entry, base))
    ]
    remedy = "give one another name: {source: …, name: …}"
    entries = {name: entry for name, _, entry in made}
    models = unique(findings, made, "model", remedy)
    return tuple(_with_originals(findings, [(model, entries[model.name]) for model in models]))


def read_precisions(
    findings: Findings, node: Node, table: Mapping[str, Precision]
) -> tuple[PrecisionRef, ...]:
    """The precisions with their options, sweeps written out."""
    every = (
        (precision.label, precision, entry)
        for entry in entries_of(findings, node, "one precision", "all")
        for precision in _read_precision(findings, entry, table)
    )
    made = at_most(findings, node, every, "precisions")
    remedy = "remove one, or give it another label: {nf4: {…}, name: …}"
    return unique(findings, made, "precision", remedy)


def default_precisions(table: Mapping[str, Precision]) -> tuple[PrecisionRef, ...]:
    """Every precision of the table with its default options.

    Without `stored`, which is for few models, and `integer`, which has short names.
    """
    return tuple(
        _precision_ref(name, entry.options())
        for name, entry in table.items()
        if name not in {stored.NAME, "integer"}
    )


def read_reference(
    findings: Findings, node: Node | None, precisions: Sequence[PrecisionRef], *, complete: bool
) -> str:
    """The reference's label: fp32 unless given, else bf16, else the first.

    `complete` tells whether the precisions are all there, so that a label can be called unknown.
    """
    labels = [precision.label for precision in precisions]
    if node is None:
        wanted = [label for label in ("fp32", "bf16", *labels) if label in labels]
        return wanted[0] if wanted else ""
    if not isinstance(node.value, str):
        remedy = amendment(node, {"type": "string"})
        findings.add(node, "the label of one of the precisions", remedy=remedy)
    elif node.value not in labels and complete:
        findings.add_unknown(node, "precision of this suite", node.value, labels)
    return str(node.value)


def read_measures(
    findings: Findings, node: Node, table: Mapping[str, Measurement]
) -> dict[str, Frozen]:
    """The measurements asked for with their options, in the order of the table."""
    if isinstance(node.value, dict):
        named = list(node.value.items())
        if not named:
            findings.add(node, "at least one measurement", remedy="remove the line to take all")
    else:
        named = []
        for entry in entries_of(findings, node, "one measurement", "all"):
            if isinstance(entry.value, str):
                named.append((entry.value, entry))
            else:
                expected = f"a measurement: {', '.join(table)}"
                remedy = "for options, write a mapping: `quality: {window: 256}` without dashes"
                findings.add(entry, expected, remedy=remedy)
    chosen: dict[str, Frozen] = {}
    for name, entry in named:
        if name not in table:
            elsewhere = owners(name, table)
            hint = f"'{name}' is an option of {', '.join(elsewhere)}" if elsewhere else None
            findings.add_unknown(entry, "measurement", name, table, hint)
        elif name in chosen:
            found = f"the measurement '{name}' twice"
            findings.add(entry, "each measurement once", found=found, remedy="remove one")
        elif isinstance(entry.value, str):
            chosen[name] = table[name].options()
        elif options := read_options(findings, entry, name, table):
            chosen[name] = options
    return {name: chosen[name] for name in table if name in chosen}


def default_measures(table: Mapping[str, Measurement]) -> dict[str, Frozen]:
    """Every measurement of the table with its default options."""
    return {name: entry.options() for name, entry in table.items()}


def read_seconds(findings: Findings, node: Node) -> float | None:
    """A positive number of seconds."""
    if isinstance(node.value, int | float) and not isinstance(node.value, bool) and node.value > 0:
        return float(node.value)
    findings.add(node, "a positive number of seconds", remedy=amendment(node, {"type": "number"}))
    return None


def at_most(findings: Findings, node: Node, made: Iterable[T], what: str) -> list[T]:
    """As many as a suite may have of something; more are noted, and not made."""
    taken = list(islice(made, MAX_CELLS + 1))
    if len(taken) > MAX_CELLS:
        findings.add(node, f"at most {MAX_CELLS} {what}", found="more of them", remedy=_SPLIT)
    return taken[:MAX_CELLS]


def read_switch(findings: Findings, node: Node) -> bool:
    """True or false; false for anything else, which is noted."""
    if not isinstance(node.value, bool):
        findings.add(node, "true or false", remedy=amendment(node, {"type": "boolean"}))
    return node.value is True


def entries_of(
    findings: Findings, node: Node, what: str, default: str | None = None
) -> tuple[Node, ...]:
    """The entries of a list; a value that is no list stands for a list of it."""
    if isinstance(node.value, tuple) and node.value:
        return node.value
    if node.value is None or isinstance(node.value, tuple):
        remedy = "add one" if default is None else f"add one, or remove the line to take {default}"
        findings.add(node, f"at least {what}", remedy=remedy)
        return ()
    return (node,)


def _read_model(findings: Findings, entry: Node, base: Path) -> ModelRef | None:
    from qbench.sources.models.resolve import parse_model

    fields = entry.value if isinstance(entry.value, dict) else {"source": entry}
    before = len(findings)
    for key, child in fields.items():
        if key not in _MODEL_KEYS:
            findings.add_unknown(child, "key of a model", key, _MODEL_KEYS)
    source, named, trusted, placed, _ = (fields.get(key) for key in _MODEL_KEYS)
    if source is None:
        remedy = "write {source: bundled:tiny-mistral}, for one"
        findings.add(entry, "a model with its `source`", remedy=remedy)
        return None
    if not isinstance(source.value, str) or not source.value.strip():
        expected = "a model: `bundled:…`, a folder, or a hub id"
        findings.add(source, expected, remedy=amendment(source, {"type": "string"}))
    name = None if named is None else read_name(findings, named)
    _check_switches(findings, trusted, placed)
    if len(findings) > before:
        return None
    trust = trusted is not None and trusted.value is True
    try:
        model = parse_model(
            str(source.value),
            base=base,
            name=name,
            trust_remote_code=trust,
            device_map=None if placed is None else "auto",
        )
    except (ModelError, OSError, RuntimeError) as error:  # the latter: `~nobody`, a too long name
        found, _, rest = str(error).partition("; ")
        expected, advice = "bundled:<name>, a folder, or a hub id", rest or None
        if rest.startswith("expected "):
            expected, advice = rest.removeprefix("expected "), None
        findings.add(source, expected, found=shortened(found, 200), remedy=advice)
        return None
    if len(model.name) > LONGEST_NAME:
        remedy = "give it one: {source: …, name: …}"
        found = f"a model whose own name has {len(model.name)} letters"
        findings.add(source, f"a name of at most {LONGEST_NAME}", found=found, remedy=remedy)
        return None
    return model


def _with_originals(
    findings: Findings, models: Sequence[tuple[ModelRef, Node]]
) -> Iterator[ModelRef]:
    """The models, each `original` by the name of the model that it means."""
    stated = {model.name: node for model, entry in models if (node := _original(entry))}
    plain = [model for model, _ in models if model.name not in stated]
    names = {model.source: model.name for model in plain} | {one.name: one.name for one in plain}
    for model, _ in models:
        node = stated.get(model.name)
        if node is None:
            yield model
        elif isinstance(node.value, str) and node.value in names:
            yield model.model_copy(update={"original": names[node.value]})
        else:
            near = did_you_mean(node.text, names)
            findings.add(node, _ORIGINAL, remedy=f"list it under models; {near}")


def _original(entry: Node) -> Node | None:
    return entry.value.get("original") if isinstance(entry.value, dict) else None


def _check_switches(findings: Findings, trusted: Node | None, placed: Node | None) -> None:
    """Notes what is wrong with a model's `trust_remote_code` and `device_map`."""
    if trusted is not None:
        read_switch(findings, trusted)
    if placed is not None and placed.value != "auto":
        remedy = "leave it out to keep the model on one device"
        findings.add(placed, "auto, which lays the model over all GPUs", remedy=remedy)


def _read_precision(
    findings: Findings, entry: Node, table: Mapping[str, Precision]
) -> list[PrecisionRef]:
    example = "a precision's name, or one with options such as {nf4: {compute_dtype: fp16}}"
    if isinstance(entry.value, str):
        if entry.value in table:
            return [_precision_ref(entry.value, table[entry.value].options())]
        findings.add_unknown(entry, "precision", entry.value, table)
        return []
    if not isinstance(entry.value, dict):
        names = {"type": "string", "enum": list(table)}
        findings.add(entry, example, remedy=amendment(entry, names))
        return []
    chosen = [name for name in entry.value if name in table]
    for name, child in entry.value.items():
        if name not in table and name != "name":
            homes = [owner for owner in owners(name, table) if owner in chosen]
            hint = f"'{name}' is an option of {homes[0]}: indent it further" if homes else None
            findings.add_unknown(child, "precision", name, table, hint)
    if len(chosen) != 1:
        if len(chosen) > 1 or set(entry.value) <= {"name"}:
            found = f"{len(chosen)} precisions in one entry" if chosen else in_words(entry)
            findings.add(entry, example, found=found, remedy="begin each with a dash")
        return []
    name = chosen[0]
    named = entry.value.get("name")
    label = None if named is None else read_name(findings, named)
    return [
        _precision_ref(name, options, label, swept)
        for options, swept in read_sweep(findings, entry.value[name], name, table)
    ]


def _precision_ref(
    name: str, options: Frozen, label: str | None = None, swept: Mapping[str, Any] | None = None
) -> PrecisionRef:
    """Labelled by the options that differ from their defaults, or by what is swept of it."""
    shown = options.model_dump(mode="json", exclude_defaults=True) if label is None else swept or {}
    own = slugify("-".join([label or name, *shown_options(shown)]))
    return PrecisionRef(label=own, name=name, options=options.model_dump(mode="json"))


def shown_options(options: Mapping[str, Any]) -> list[str]:
    """Options as parts of a label: `compute_dtype=fp16`."""
    return [f"{key}={_short(value)}" for key, value in options.items()]


def _short(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def unique(
    findings: Findings, made: Sequence[tuple[str, T, Node]], what: str, remedy: str
) -> tuple[T, ...]:
    """Those with names of their own; the others noted. Case counts for nothing in file names."""
    ordered = sorted(made, key=lambda item: item[0].casefold())
    for _, group in groupby(ordered, key=lambda item: item[0].casefold()):
        (_, _, first), *others = group
        for name, _, entry in others:
            found = f"the {what} '{name}' twice (first as {first.path}, line {first.line})"
            findings.add(entry, f"each {what} once", found=found, remedy=remedy)
    return tuple(value for _, value, _ in made)
