"""Which layer of a model belongs to which member of a mix: by names and shapes, nothing loaded."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qbench.core.names import nearest_name
from qbench.core.options import shown_options
from qbench.core.spec import PrecisionRef, slugify
from qbench.precisions.floating import in_type
from qbench.precisions.mixed.options import full_options, matches, read_entry, rule_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qbench.core.number_types import FloatType
    from qbench.core.spec import ModelShape, TensorShape
    from qbench.precisions.mixed.options import LayerRule, MixedOptions

_WEIGHT, _BIAS = ".weight", ".bias"
_HELD_BY = "held_by_member"
"""Of a layer of a loaded mix: the name of the precision that holds it."""


def mark(layer: Any, one: PrecisionRef) -> None:
    """Notes on a loaded layer which precision holds it."""
    setattr(layer, _HELD_BY, one.name)


def member_name(layer: Any) -> str | None:
    """The precision that holds a layer of a mix; None of any other layer."""
    found: str | None = getattr(layer, _HELD_BY, None)
    return found


def member_of(name: str, options: MixedOptions) -> PrecisionRef:
    """What the layer of a name is to be held in; the type of the rest where no pattern matches."""
    for rule in options.layers:
        if matches(rule.layers, name):
            return member(rule, options.dtype)
    return in_type(options.dtype)


def member(rule: LayerRule, dtype: FloatType) -> PrecisionRef:
    """A rule's precision, with all options as they are within the mix.

    Its label tells the members of a mix apart.
    """
    if rule.precision is None:
        return in_type(dtype)
    return _member(rule.precision, json.dumps(rule.options, sort_keys=True), dtype)


@lru_cache(maxsize=256)
def _member(name: str, given: str, dtype: FloatType) -> PrecisionRef:
    from qbench.precisions import precisions

    held = precisions()[name]
    options = full_options(held, json.loads(given), dtype).model_dump(mode="json")
    usual = full_options(held, {}, dtype).model_dump(mode="json")
    shown = {key: one for key, one in options.items() if one != usual.get(key)}
    return PrecisionRef(
        label=slugify("-".join([name, *shown_options(shown)])), name=name, options=options
    )


def members(options: MixedOptions) -> list[PrecisionRef]:
    """What some layers are to be held in codes in, each once, in the order of the map.

    Of a mix that is sought, what it is found from.
    """
    if options.budget is not None:
        return formats_of(options)
    named = (member(rule, options.dtype) for rule in options.layers if rule.precision is not None)
    return list(dict.fromkeys(named))


def formats_of(options: MixedOptions) -> list[PrecisionRef]:
    """What a mix is found from: formats that layers may be held in, each once."""
    rest = options.dtype
    every = (member(rule_of("*", *read_entry(one), rest), rest) for one in options.formats)
    return list(dict.fromkeys(every))


def by_member(names: Iterable[str], options: MixedOptions) -> dict[PrecisionRef, list[str]]:
    """The layers of each member, by their names; those that stay in the type of the rest last."""
    found: dict[PrecisionRef, list[str]] = {one: [] for one in members(options)}
    for name in names:
        found.setdefault(member_of(name, options), []).append(name)
    return {one: own for one, own in found.items() if own}


def parts(shape: ModelShape, options: MixedOptions) -> dict[PrecisionRef, ModelShape]:
    """The tensors of each member's layers; all others are those of the type of the rest."""
    layers = [one.name.removesuffix(_WEIGHT) for one in shape.tensors if one.role == "linear"]
    rest = in_type(options.dtype)
    member_by_layer = {
        name: one for one, names in by_member(layers, options).items() for name in names
    }
    tensors: dict[PrecisionRef, list[TensorShape]] = {}
    for one in shape.tensors:
        of_layer = one.role in {"linear", "bias"}
        layer = one.name.removesuffix(_WEIGHT).removesuffix(_BIAS) if of_layer else ""
        tensors.setdefault(member_by_layer.get(layer, rest), []).append(one)
    return {
        one: shape.model_copy(update={"tensors": tuple(tensors[one])})
        for one in (*members(options), rest)
        if one in tensors
    }


def unmatched(names: Iterable[str], options: MixedOptions) -> str | None:
    """What to say of the patterns that match none of the layers; None where all match some."""
    known = list(names)
    wrong = [
        rule.layers
        for rule in options.layers
        if not any(matches(rule.layers, name) for name in known)
    ]
    if not wrong or not known:
        return None
    near = nearest_name(wrong[0], known) or known[0]
    return (
        f"no linear layer of the model matches {', '.join(map(repr, wrong))}; its layers are called"
        f" like {near} (the embeddings and the output head are none of them): mend the pattern, or"
        " leave it out"
    )


def without_effect(names: Iterable[str], options: MixedOptions) -> list[str]:
    """Patterns that decide nothing, since those before them match all that they match."""
    known = list(names)
    deciding = {
        next((rule.layers for rule in options.layers if matches(rule.layers, name)), None)
        for name in known
    }
    return [rule.layers for rule in options.layers if rule.layers not in deciding]


def as_plain(options: MixedOptions, changed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The option `layers` with some options of some rules changed, by the rules' places."""
    rules = [rule.model_dump(mode="json") for rule in options.layers]
    for at, other in changed.items():
        rules[at]["options"] = {**rules[at]["options"], **other}
    return {"layers": rules}
