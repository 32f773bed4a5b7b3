"""What holding layers of a reference in other formats takes, beside scoring it: from shapes alone.

What a library needs for a moment while it quantizes one layer, and the verification of that layer,
are not in it: there are no logits then, which take as much or more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.number_types import ITEM_BYTES
from qbench.core.spec import ModelShape
from qbench.precisions import options_of, precisions
from qbench.precisions.mixed.units import groups_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.core.spec import PrecisionRef, TensorShape
    from qbench.predict.work import HeldAlone

_FP64 = 8
_COMPARED = 3
"""Outputs in fp64: of the plain layer, of the held one, and what they differ by."""


def layers_alone(
    scoring: Mapping[str, int], shape: ModelShape, work: HeldAlone, *, on_cpu: bool
) -> dict[str, int]:
    """The highest moment by kind, as of `InferenceBytes`; `scoring` is that of the text alone.

    The text is scored with the codes of a unit of layers there, and what its layers were given for
    a batch of windows. Or a layer's outputs are compared, in fp64, beside a copy of it in the type
    of the rest. On a CPU the states that are kept lie in the same memory.
    """
    layers = {
        one.name.removesuffix(".weight"): one
        for one in shape.tensors
        if one.role == "linear" and one.layer == "plain"
    }
    units = [[layers[name] for name in unit.layers] for unit in groups_of(layers, work.by)]
    if not units or not work.formats:
        return dict(scoring)
    rest, rows = ITEM_BYTES[work.rest], work.batch * work.window
    codes = max(_codes(unit, work) for unit in units)
    inputs = rows * rest * max(sum(one.in_features for one in unit) for unit in units)
    inputs += (kept_bytes(shape, work) or 0) if on_cpu else 0
    outputs = rows * max(one.out_features for one in layers.values()) * (rest + _COMPARED * _FP64)
    copy = rest * max(one.numel for one in layers.values())
    scored = {
        **scoring,
        "activations": scoring["activations"] + inputs,
        "dequantized_weight": scoring["dequantized_weight"] + codes,
    }
    compared = {
        **dict.fromkeys(scoring, 0),
        "static": scoring["static"],
        "activations": inputs + outputs,
        "dequantized_weight": codes + copy,
    }
    return max(scored, compared, key=lambda kinds: sum(kinds.values()))


def kept_bytes(shape: ModelShape, work: HeldAlone) -> int | None:
    """Bytes of the states in the machine's memory: those before a block, and the final ones.

    None where the embedding's width is not known.
    """
    embedding = next((one for one in shape.tensors if one.role == "embedding"), None)
    if embedding is None:
        return None
    return 2 * work.limit * work.window * embedding.in_features * ITEM_BYTES[work.rest]


def _codes(unit: Sequence[TensorShape], work: HeldAlone) -> int:
    """Codes and state of a unit, in the format that takes most; of one layer in all formats."""
    sizes = [_size(unit, one) for one in work.formats]
    return sum(sizes) if work.prune is not None and len(unit) == 1 else max(sizes)


def _size(unit: Sequence[TensorShape], ref: PrecisionRef) -> int:
    shape = ModelShape(tensors=tuple(unit), origin="meta")
    held = precisions()[ref.name].storage(shape, options_of(ref))
    return held.linear + held.quantization_state
