"""A mix that states a budget: what is known of it before its layers' formats are found."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from qbench.core.number_types import ITEM_BYTES
from qbench.precisions.floating import in_type
from qbench.precisions.mixed.budget import parse_budget
from qbench.precisions.mixed.layers import formats_of
from qbench.precisions.mixed.options import MixedOptions
from qbench.precisions.storage import static_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.core.spec import (
        ModelShape,
        PrecisionRef,
        ResolvedModel,
        StaticBytes,
        TensorShape,
    )


class Allowed(NamedTuple):
    """A budget in bytes."""

    bytes: int
    """The most that what counts may take."""
    weights: int | None
    """Logical weights of the linear layers, where bits of these are stated: their codes and
    quantization state count. None where all static bytes do."""

    def counted(self, held: StaticBytes) -> int:
        """The bytes that count."""
        return held.total if self.weights is None else held.linear + held.quantization_state

    def words(self, size: int) -> str:
        """So many bytes in the budget's own unit."""
        if self.weights is None:
            return f"{size:,} bytes"
        return f"{math.ceil(8e4 * size / self.weights) / 1e4:g} bits a weight"


def allowed_bytes(budget: str, shape: ModelShape) -> Allowed:
    """The budget, `4.5 bits` or `5 GiB`, of a model."""
    bits, size = parse_budget(budget)
    if bits is None:
        return Allowed(math.floor(size or 0), None)
    weights = sum(one.numel for one in shape.tensors if one.role == "linear")
    return Allowed(math.floor(Fraction(repr(bits)) * weights / 8), weights)


def is_mix(ref: PrecisionRef) -> bool:
    """Whether its layers are held in what a map of them says, given or found."""
    from qbench.precisions import precisions

    held = precisions().get(ref.name)
    return held is not None and issubclass(held.options, MixedOptions)


def is_sought(ref: PrecisionRef) -> bool:
    """Whether it is a mix that is found from measured sensitivities first."""
    from qbench.precisions import options_of

    options = options_of(ref)
    return isinstance(options, MixedOptions) and options.budget is not None


def bytes_at_most(shape: ModelShape, options: MixedOptions) -> StaticBytes:
    """The most that the mix can take, whatever is found."""
    allowed = allowed_bytes(options.budget or "", shape)
    plain = static_bytes(shape, ITEM_BYTES[options.dtype], None)
    apart = plain.total - plain.linear
    linear = min(plain.linear, max(allowed.bytes - (apart if allowed.weights is None else 0), 0))
    return plain.model_copy(update={"linear": linear})


class Sizes:
    """Bytes of layers in formats, as far as a budget counts them."""

    def __init__(self, shape: ModelShape, allowed: Allowed) -> None:
        self.layers: dict[str, list[TensorShape]] = {}
        """Weight and bias of each linear layer, by the layer's name."""
        for one in shape.tensors:
            if one.role in {"linear", "bias"}:
                self.layers.setdefault(one.name.rpartition(".")[0], []).append(one)
        self._shape = shape
        self._allowed = allowed
        # Layers that differ by their block's number alone take the same.
        kinds: dict[tuple[TensorShape, ...], int] = {}
        self._kinds = {
            layer: kinds.setdefault(tuple(map(_without_numbers, own)), len(kinds))
            for layer, own in self.layers.items()
        }
        self._known: dict[tuple[tuple[int, ...], PrecisionRef], int] = {}

    def __call__(self, layers: Iterable[str], ref: PrecisionRef) -> int:
        """The bytes of the layers together in a format."""
        layers = tuple(layers)
        kinds = tuple(self._kinds[name] for name in layers), ref
        if kinds not in self._known:
            self._known[kinds] = self._bytes(layers, ref)
        return self._known[kinds]

    def _bytes(self, layers: Iterable[str], ref: PrecisionRef) -> int:
        from qbench.precisions import options_of, precisions

        own = tuple(one for name in layers for one in self.layers[name])
        shape = self._shape.model_copy(update={"tensors": own})
        return self._allowed.counted(precisions()[ref.name].storage(shape, options_of(ref)))


def _without_numbers(tensor: TensorShape) -> TensorShape:
    return tensor.model_copy(update={"name": re.sub(r"\d+", "0", tensor.name)})


def why_not_found(options: MixedOptions, model: ResolvedModel) -> str | None:
    """Why no mix of the formats can be within the budget, known before anything is measured."""
    if model.shape is None:
        return f"a mix is found by its bytes, which are not known: {model.shape_unknown}"
    allowed = allowed_bytes(options.budget or "", model.shape)
    least, _ = _least_and_most(options, model.shape, allowed)
    return None if least <= allowed.bytes else why_too_small(options, allowed, least)


def kept_budget(options: MixedOptions, shape: ModelShape) -> str:
    """The budget where a mix of this model can be within it and not all of it is; else another.

    That is half way from the least that the formats take to the type of the rest, in bits.
    """
    allowed = allowed_bytes(options.budget or "", shape)
    least, most = _least_and_most(options, shape, allowed)
    if least <= allowed.bytes < most:
        return options.budget or ""
    bits = allowed_bytes("16 bits", shape)
    least, most = _least_and_most(options, shape, bits)
    return f"{4 * (least + most) / max(1, bits.weights or 0):.2f} bits"


def _least_and_most(options: MixedOptions, shape: ModelShape, allowed: Allowed) -> tuple[int, int]:
    """Bytes that count: with each layer in its smallest format, and with all in the rest's type."""
    sizes, rest = Sizes(shape, allowed), in_type(options.dtype)
    choices = [rest, *formats_of(options)]
    plain = allowed.counted(static_bytes(shape, ITEM_BYTES[options.dtype], None))
    saved = sum(
        sizes([layer], rest) - min(sizes([layer], one) for one in choices) for layer in sizes.layers
    )
    return plain - saved, plain


def why_too_small(options: MixedOptions, allowed: Allowed, least: int) -> str:
    """That no mix of the formats takes less than so many bytes, with what to do."""
    labels = ", ".join(one.label for one in formats_of(options))
    return (
        f"no mix of {labels} and {options.dtype} is within {options.budget}: the least that they"
        f" take is {allowed.words(least)}; state a larger budget, or add a smaller format"
    )
