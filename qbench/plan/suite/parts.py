"""The parts of a suite, of what its file says: models, precisions, and the reference among them.

Every function notes what is wrong with the whole and returns what is right, so that one mistake
hides no other.
"""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING, TypeVar

from qbench.core.errors import ModelError
from qbench.core.names import shortened, what_there_is
from qbench.core.options import shown_options
from qbench.core.spec import LONGEST_NAME, ModelRef, PrecisionRef, slugify
from qbench.measures import OF_CACHES, asked_for, measures
from qbench.measures.sensitivity.options import SENSITIVITY, SensitivityOptions
from qbench.plan.suite.file import MeasureEntry
from qbench.plan.suite.options import Choice
from qbench.precisions import EXAMPLE, options_of, precisions
from qbench.precisions.computing import rest_type
from qbench.precisions.floating import REFERENCES
from qbench.precisions.kv_cache import FLOATING, OWN, kv_caches
from qbench.precisions.mixed.options import MixedOptions
from qbench.precisions.names import own_name
from qbench.sources.models.resolve import parse_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from qbench.core.spec import Frozen
    from qbench.plan.suite.file import ModelEntry, PrecisionEntry
    from qbench.plan.suite.problems import Problems

    Place = tuple[str | int, ...]

MAX_CELLS = 10_000
"""Cells of a suite; more are no person's question, and lists that multiply."""

T = TypeVar("T")

_SPLIT = "shorten the lists, or write several suites"


def make_models(
    problems: Problems, entries: Sequence[ModelEntry], base: Path
) -> tuple[ModelRef, ...]:
    """The models; relative folders start at `base`."""
    made = [
        (model.name, (model, entry.original), ("models", index))
        for index, entry in enumerate(entries)
        if (model := _make_model(problems, entry, ("models", index, "source"), base))
    ]
    remedy = "give one another name: {source: …, name: …}"
    models = unique(problems, made, "model", remedy)
    places = {name: at for name, _, at in made}
    return tuple(_with_originals(problems, models, places))


def _make_model(problems: Problems, entry: ModelEntry, at: Place, base: Path) -> ModelRef | None:
    try:
        model = parse_model(
            entry.source,
            base=base,
            name=entry.name,
            trust_remote_code=entry.trust_remote_code,
            device_map=entry.device_map,
        )
    except (ModelError, OSError, RuntimeError) as error:  # the latter: `~nobody`, a too long name
        found, _, rest = str(error).partition("; ")
        expected, advice = "bundled:<name>, a folder, or a hub id", rest or None
        if rest.startswith("expected "):
            expected, advice = rest.removeprefix("expected "), None
        problems.add(at, expected, found=shortened(found, 200), remedy=advice)
        return None
    if len(model.name) > LONGEST_NAME:
        remedy = "give it one: {source: …, name: …}"
        found = f"a model whose own name has {len(model.name)} letters"
        problems.add(at, f"a name of at most {LONGEST_NAME}", found=found, remedy=remedy)
        return None
    return model


def _with_originals(
    problems: Problems,
    models: Sequence[tuple[ModelRef, str | None]],
    places: Mapping[str, Place],
) -> Iterator[ModelRef]:
    """The models, each `original` by the name of the model that it means."""
    plain = [model for model, original in models if original is None]
    names = {model.source: model.name for model in plain} | {one.name: one.name for one in plain}
    for model, original in models:
        if original is None:
            yield model
        elif original in names:
            yield model.model_copy(update={"original": names[original]})
        else:
            expected = "the name or source of a model of the suite that has no `original` itself"
            remedy = f"list it under models; {what_there_is(original, names)}"
            problems.add((*places[model.name], "original"), expected, remedy=remedy)


def make_precisions(
    problems: Problems, entries: Sequence[PrecisionEntry], *at: str | int
) -> tuple[PrecisionRef, ...]:
    """The precisions of the list that stands there, sweeps written out."""
    every = (
        (ref.label, ref, (*at, index))
        for index, entry in enumerate(entries)
        for choice in entry.choices
        for ref in (precision_ref(entry.precision, choice, entry.name),)
    )
    made = at_most(problems, at, every, "precisions")
    remedy = f"remove one, or give it another label: {{{EXAMPLE}: {{…}}, name: …}}"
    return unique(problems, made, "precision", remedy)


def default_precisions() -> tuple[PrecisionRef, ...]:
    """Every precision with its default options.

    Without those that are for few models, or say nothing without options.
    """
    return tuple(
        precision_ref(name, Choice.of(entry.options()))
        for name, entry in precisions().items()
        if entry.by_default
    )


def precision_ref(name: str, choice: Choice, label: str | None = None) -> PrecisionRef:
    """Labelled by the options that differ from their defaults, or by what is swept of it."""
    options, shown = choice
    if label is None:
        unlabelled = set(precisions()[name].unlabelled)
        shown = options.model_dump(mode="json", exclude_defaults=True, exclude=unlabelled)
    own = slugify("-".join([label or name, *shown_options(shown)]))
    return PrecisionRef(label=own, name=name, options=options.model_dump(mode="json"))


def make_reference(
    problems: Problems, given: str | None, labels: Sequence[str], *, complete: bool
) -> str:
    """The reference's label: fp32 unless given, else bf16, else the first.

    `complete` tells whether the precisions are all there, so that a label can be called unknown.
    """
    if given is None:
        wanted = [label for label in (*REFERENCES, *labels) if label in labels]
        return wanted[0] if wanted else ""
    if given not in labels and own_name(given) in labels:
        return own_name(given) or given
    if given not in labels and complete:
        problems.add_unknown(("reference",), "precision of this suite", given, labels)
    return given


def make_caches(
    problems: Problems, given: Sequence[str], precisions: Sequence[PrecisionRef]
) -> tuple[str, ...]:
    """The kinds of quantized cache, each once; the own one, by its type or not, is there anyway."""
    for index, name in enumerate(given):
        others = [one for one in precisions if name in FLOATING and rest_type(one) != name]
        if others:
            problems.add(
                ("kv_cache", index),
                f"{OWN}, or a kind of quantized cache: {', '.join(kv_caches())}",
                found=f"{name}, where the cache of {others[0].label} is in {rest_type(others[0])}",
                remedy="leave it out: each precision is measured with its own cache too",
            )
    return tuple(dict.fromkeys(name for name in given if name in kv_caches()))


def make_measures(
    problems: Problems,
    given: MeasureEntry | tuple[str, ...] | None,
    *,
    caches: bool = False,
) -> dict[str, Frozen]:
    """The measurements with their options, in the order of the table.

    All unless given, those that are for quantized caches alone where `caches` tells of such.
    """
    if isinstance(given, MeasureEntry):
        return given.options
    for index, name in enumerate(given or ()):
        if name in (given or ())[:index]:
            found = f"the measurement '{name}' twice"
            at = ("measure", index)
            problems.add(at, "each measurement once", found=found, remedy="remove one")
    table = asked_for().items()
    if given is None:
        return {
            name: one.options()
            for name, one in table
            if one.by_default and (caches or name not in OF_CACHES)
        }
    return {name: entry.options() for name, entry in table if name in given}


def with_what_mixes_need(
    measure: Mapping[str, Frozen], precisions: Sequence[PrecisionRef]
) -> dict[str, Frozen]:
    """The measurements, with that of the sensitivities that mixes are found from.

    Where a suite does not ask for it, it has its defaults, and the formats of the mixes alone.
    """
    every = [
        entry
        for one in precisions
        if isinstance(options := options_of(one), MixedOptions) and options.budget is not None
        for entry in options.formats
    ]
    if not every or SENSITIVITY in measure:
        return dict(measure)
    formats = tuple(entry for at, entry in enumerate(every) if entry not in every[:at])
    added = {**measure, SENSITIVITY: SensitivityOptions(formats=formats)}
    return {name: added[name] for name in measures() if name in added}


def at_most(problems: Problems, at: Place, made: Iterable[T], what: str) -> list[T]:
    """As many as a suite may have of something; more are noted, and not made."""
    taken = list(islice(made, MAX_CELLS + 1))
    if len(taken) > MAX_CELLS:
        problems.add(at, f"at most {MAX_CELLS} {what}", found="more of them", remedy=_SPLIT)
    return taken[:MAX_CELLS]


def check_count(problems: Problems, count: int) -> bool:
    """Notes a suite of too many cells, before any of them is made."""
    if count > MAX_CELLS:
        problems.add((), f"at most {MAX_CELLS}", found=f"{count} cells", remedy=_SPLIT)
    return count <= MAX_CELLS


def unique(
    problems: Problems, made: Sequence[tuple[str, T, Place]], what: str, remedy: str
) -> tuple[T, ...]:
    """Those with names of their own; the others noted. Case does not count in file names."""
    ordered = sorted(made, key=lambda item: item[0].casefold())
    for _, group in groupby(ordered, key=lambda item: item[0].casefold()):
        (_, _, at), *others = group
        first = problems.place(at)
        for name, _, again in others:
            found = f"the {what} '{name}' twice (first as {first.path}, {first.where})"
            problems.add(again, f"each {what} once", found=found, remedy=remedy)
    return tuple(value for _, value, _ in made)
