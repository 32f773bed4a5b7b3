"""Mixes in a rehearsal: on layers that the stand-in has, or within a budget that it can keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qbench.precisions.mixed.sought import kept_budget
from qbench.sources.bundled import PREFIX
from qbench.sources.models.resolve import parse_model, resolve_model

if TYPE_CHECKING:
    from qbench.core.spec import PrecisionRef
    from qbench.precisions.mixed.options import MixedOptions

_ANY_LAYERS = ("*.0.*attn*", "*.0.*mlp*", "*attn*", "*")
"""Patterns that match layers of any decoder, each besides those before it."""


def small_mix(precision: PrecisionRef, options: MixedOptions) -> tuple[PrecisionRef, list[str]]:
    """A mix as a rehearsal has it, and what is different in words."""
    if options.budget is not None:
        return _with_small_budget(precision, options)
    return _on_any_layers(precision, options)


def _on_any_layers(
    precision: PrecisionRef, options: MixedOptions
) -> tuple[PrecisionRef, list[str]]:
    """A mix whose patterns match layers of any decoder, and what is different in words."""
    rules = {
        (rule.precision, str(sorted(rule.options.items()))): rule
        for rule in options.layers
        if rule.precision is not None
    }
    chosen = [*rules.values()][: len(_ANY_LAYERS)]
    if not options.layers:
        return precision, []
    chosen = chosen or [options.layers[0]]  # all in the type of the rest
    patterns = _ANY_LAYERS[-len(chosen) :]
    moved = [
        rule.model_copy(update={"layers": pattern}).model_dump(mode="json")
        for rule, pattern in zip(chosen, patterns, strict=True)
    ]
    left = max(0, len(rules) - len(chosen))
    note = f"{precision.label}: its formats lie on other layers, {', '.join(patterns)}"
    note += f"; {left} of them on none" if left else ""
    made = precision.model_copy(update={"options": {**precision.options, "layers": moved}})
    return made, [note]


def _with_small_budget(
    precision: PrecisionRef, options: MixedOptions
) -> tuple[PrecisionRef, list[str]]:
    """The mix within bits that leave something to be decided of the bundled model."""
    shape = resolve_model(parse_model(PREFIX + "tiny-mistral", base=Path())).shape
    if shape is None:
        raise ValueError("the bundled model's shapes are known")
    budget = kept_budget(options, shape)
    if budget == options.budget:
        return precision, []
    made = precision.options | {"budget": budget}
    note = f"{precision.label}: budget {budget} for {options.budget}"
    return precision.model_copy(update={"options": made}), [note]
