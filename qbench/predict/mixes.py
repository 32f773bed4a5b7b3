"""How the blocks of a model multiply whose layers are not all held alike."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

from qbench.precisions import options_of, precisions
from qbench.predict.shapes import INFERRED

if TYPE_CHECKING:
    from qbench.core.spec import PrecisionRef, ResolvedModel
    from qbench.precisions.products import Products
    from qbench.predict.shapes import DecoderShape

    ByName = tuple[tuple[str, Products], ...]


def is_known(products: Products | None) -> bool:
    """Whether the bytes of a forward pass follow from it: of a mix, from each of its members."""
    if products is None:
        return False
    members = products.members or (products,)
    return all(one is not None and one.kind in INFERRED for one in members)


def sorts_of_blocks(
    precision: PrecisionRef, model: ResolvedModel, decoder: DecoderShape
) -> list[ByName]:
    """The products of a block's layers by their names in it, of each block that differs.

    The highest moment of a forward pass is within a block. That of a model all of whose blocks were
    held like one of them is no lower, so that the highest of these bounds the mix.
    """
    held, options = precisions()[precision.name], options_of(precision)
    found: dict[str, dict[str, Products]] = {}
    for tensor in () if model.shape is None else model.shape.tensors:
        layer = tensor.name.removesuffix(".weight")
        inner = next((name for name in decoder.linears if layer.endswith(f".{name}")), None)
        products = held.products_of_layer(layer, options)
        if tensor.role == "linear" and inner is not None and products is not None:
            block = layer.removesuffix(f".{inner}")
            number = next((part for part in block.split(".") if part.isdigit()), block)
            found.setdefault(number, {})[inner] = products
    return list(
        dict.fromkeys(tuple(sorted(one.items(), key=itemgetter(0))) for one in found.values())
    )
