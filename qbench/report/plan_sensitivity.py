"""What measuring sensitivities will take, and whether its text is one that is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.options import typed_options
from qbench.core.units import choose_scale, counted
from qbench.measures.read_texts import text_of
from qbench.measures.sensitivity.options import SENSITIVITY, params_of
from qbench.precisions.mixed.units import block_of, groups_of
from qbench.predict.layers_alone import kept_bytes
from qbench.predict.work import HeldAlone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.core.spec import Item, ResolvedModel
    from qbench.plan.cells import PlannedCell
    from qbench.plan.plan import Plan

_WORDS = {"layer": "linear layer", "block": "block", "kind": "kind of layer"}


def sensitivity_lines(plan: Plan) -> list[str]:
    """A line for each reference: how many passes it takes, and what they are worth."""
    return [_line(cell.model, item) for cell, item in _taken(plan) if cell.reference]


def scored_texts(plan: Plan) -> list[str]:
    """A line for each text that sensitivities and quality are both measured on."""
    found: dict[str, None] = {}
    for cell, item in _taken(plan):
        text = params_of(item).text
        scored = (text_of(task.item) for task in cell.tasks)
        if any(one is not None and one.fingerprint == text.fingerprint for one in scored):
            found[
                f"sensitivity is measured on {text.source}, which quality scores too: a mix that is"
                " chosen by it looks better there than it is; give it another text"
            ] = None
    return list(found)


def _taken(plan: Plan) -> Iterator[tuple[PlannedCell, Item]]:
    for cell in plan.cells:
        for task in cell.tasks if cell.skip is None else ():
            if task.item.measurement == SENSITIVITY and task.skip is None:
                yield cell, task.item


def _line(model: ResolvedModel, item: Item) -> str:
    params = params_of(item)
    name, formats = model.ref.name, counted(len(params.formats), "format")
    words = f"{name}: sensitivity holds each {_WORDS[params.by]} alone in {formats}"
    words += f" ({', '.join(one.label for one in params.formats)})"
    if model.shape is None:
        return f"{words}; how many there are is not known before loading"
    layers = [
        one.name.removesuffix(".weight")
        for one in model.shape.tensors
        if one.role == "linear" and one.layer == "plain"
    ]
    units = groups_of(layers, params.by)
    blocks = list(dict.fromkeys(filter(None, map(block_of, layers))))
    places = {block: index for index, block in enumerate(blocks)}
    # Each goes from the first of its blocks to the end.
    share = (
        sum(
            1 - min(places.get(block_of(layer) or "", 0) for layer in unit.layers) / len(blocks)
            for unit in units
        )
        if blocks
        else len(units)
    )
    passes = len(units) * len(params.formats)
    windows = counted(params.limit, "window")
    most = "at most " if params.prune else ""
    words += (
        f": {most}{passes:,} passes over {windows} of {params.window} tokens, each from its block"
        f" on, with the blocks' work of {share * len(params.formats):,.0f} whole ones"
    )
    kept = kept_bytes(model.shape, typed_options(HeldAlone, item.params))
    if kept is None:
        return words
    return f"{words}; the states that are kept take {choose_scale([kept], 'bytes').with_unit(kept)}"
