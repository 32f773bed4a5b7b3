"""Attention and linear layers of a model that runs forward alone, on a tape of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.core import number_types
from qbench.core.number_types import ITEM_BYTES
from qbench.precisions.integer.packed import padded_inputs
from qbench.predict.attention import Attention
from qbench.predict.linear import FP32, HALF, Linears
from qbench.predict.tape import Bytes, Storage, Tape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.precisions.products import Products
    from qbench.predict.shapes import DecoderShape, Linear, TrainingSetup

ACTIVATIONS = "activations"
DEQUANTIZED = "dequantized_weight"

FUSED_ROWS = 8
"""Rows of input up to which bitsandbytes' CUDA kernels read 4-bit codes as they are; for more the
layer's weights are dequantized first. (By GPU and shape it may do so for more rows too.)"""


@dataclass(frozen=True)
class Kernels:
    """What decides how many bytes a device's kernels take."""

    device: str = "cuda"
    flash: bool = True
    """Whether there is a flash attention for 16-bit types. A GPU without one has no kernel at all
    for attention in bf16."""
    unseen: bool = True
    """Whether to count what a kernel takes and gives back within one operation. The counting of
    live tensors on a CPU cannot see it; an allocator does."""
    masks: bool = True
    """Whether to count the numbers that attention makes of a mask's flags. In inference mode a
    counting of live tensors cannot see them either."""


class InferenceAttention(Attention):
    """Attention by the kernel that the device has for it."""

    def __init__(
        self, linears: Linears, shape: DecoderShape, setup: TrainingSetup, kernels: Kernels
    ) -> None:
        super().__init__(linears, shape, setup)
        self._kernels = kernels
        self.returned: Bytes | None = None
        """The weights of an attention without a kernel, which a layer holds to its end."""

    def attend(self, query: Bytes, key: Bytes, value: Bytes, mask: Bytes | None) -> Bytes:
        """As in training; by definition where CUDA has no kernel for these types and heads.

        Of CUDA's kernels only flash attention takes fewer heads of keys than of queries, and it
        takes 16-bit types alone. (torch's documentation of `scaled_dot_product_attention`.) For
        bf16 there is none before it.
        """
        kernels = self._kernels
        if self.shape.has_sinks:
            return self._with_sinks(query, key, value)
        if self.shape.holds_scores:
            return self._capped(query, key, value)
        flash = kernels.flash and query.item_bytes == HALF
        shares = self._groups > 1 and mask is None
        bf16 = self.setup.products.rest == number_types.BF16
        sdpa = kernels.device == "cuda" and self.setup.attention == "sdpa"
        if sdpa and not flash and (shares or bf16):
            return self._math(query, key, value, mask)
        return super().attend(query, key, value, mask)

    def _masked(self, mask: Bytes) -> int:
        """All sequences have the same flags, as nothing is padded."""
        return self.setup.batch * mask.elements if self._kernels.masks else 0

    def _rows_and_seen(self, query: Bytes, key: Bytes) -> tuple[int, int]:
        """Vectors of all heads' queries, and tokens that each of them may see."""
        shape = self.shape
        seen = key.elements // (self.setup.batch * shape.kv_heads * shape.head_dim)
        return query.elements // shape.head_dim, seen

    def _with_sinks(self, query: Bytes, key: Bytes, value: Bytes) -> Bytes:
        """All scores, the mask added, a sink a row joined to them, and their softmax."""
        tape, own = self.tape, query.item_bytes
        rows, seen = self._rows_and_seen(query, key)
        if self._groups > 1:
            key, value = self._repeated(key), self._repeated(value)
        scores = tape.op(rows * seen, own, [query, key])
        scores = tape.op(rows * seen, own, [scores])
        scores = tape.op(rows * seen, own, [scores])
        joined = tape.op(rows * (seen + 1), own, [scores])
        highest = tape.op(rows, own, [joined])
        joined = tape.op(rows * (seen + 1), own, [joined, highest])
        del highest
        weights = tape.op(rows * (seen + 1), own, [joined])
        del scores
        mixed = tape.op(query.elements, own, [weights, value])
        self.returned = weights
        return tape.op(mixed.elements, own, [mixed])

    def _capped(self, query: Bytes, key: Bytes, value: Bytes) -> Bytes:
        """All scores: scaled, capped, the mask added, and their softmax in fp32."""
        tape, own = self.tape, query.item_bytes
        rows, seen = self._rows_and_seen(query, key)
        if self._groups > 1:
            key, value = self._repeated(key), self._repeated(value)
        scores = tape.op(rows * seen, own, [query, key])
        for _ in range(5 if self.shape.capped_scores else 2):
            scores = tape.op(rows * seen, own, [scores])
        # CUDA's softmax reads a 16-bit type itself.
        wide = scores if self._kernels.device == "cuda" else tape.cast(scores, FP32)
        weights = tape.op(rows * seen, FP32, [wide])
        del wide
        weights = tape.cast(weights, own)
        del scores
        mixed = tape.op(query.elements, own, [weights, value])
        self.returned = weights
        return tape.op(mixed.elements, own, [mixed])

    def _math(self, query: Bytes, key: Bytes, value: Bytes, mask: Bytes | None) -> Bytes:
        """In fp32: keys and values for each query head, all scores, and their softmax."""
        tape, own = self.tape, query.item_bytes
        rows, seen = self._rows_and_seen(query, key)
        if mask is not None:
            if self._groups > 1:
                key, value = self._repeated(key), self._repeated(value)
            _shown = tape.op(self.setup.batch * mask.elements, own)
        else:
            _shown = tape.op(self.setup.tokens * seen if self.setup.tokens > 1 else 0, FP32)
        wide = [tape.cast(part, FP32) for part in (query, key, value)]
        wide[0] = tape.op(query.elements, FP32, [wide[0]])
        if self._groups > 1 and mask is None:
            wide += [self._repeated(part) for part in wide[1:]]
        scaled = tape.op(wide[-2].elements, FP32, [wide[-2]])
        scores = tape.op(rows * seen, FP32, [wide[0], scaled])
        # The softmax looks besides for rows that see nothing, and copies the others.
        unseen = (FP32 + 1) * rows * seen if self._kernels.unseen else 0
        Storage(tape.ledger, ACTIVATIONS, unseen + scores.size)
        weights = tape.op(rows * seen, FP32, [scores])
        del scores, scaled
        mixed = tape.op(query.elements, FP32, [weights, wide[-1]])
        _returned = tape.cast(weights, own)  # by the kernel, to no one
        return tape.cast(mixed, own)


class InferenceLinears(Linears):
    """Linear layers, of which quantized ones are dequantized as the device's kernels do it."""

    def __init__(
        self,
        tape: Tape,
        setup: TrainingSetup,
        kernels: Kernels,
        adapter_bytes: int,
        by_name: Mapping[str, Products],
    ) -> None:
        """`by_name` has the products of single layers of a block, where they are not all alike."""
        super().__init__(tape, setup)
        self._kernels = kernels
        self._by_name = by_name
        self.adapter_bytes = adapter_bytes

    def apply(self, given: Bytes, weights: dict[str, Bytes], name: str, linear: Linear) -> Bytes:
        """As the layer of that name multiplies."""
        self.products = self._by_name.get(name, self.setup.products)
        return super().apply(given, weights, name, linear)

    def _new(self, elements: int, item_bytes: int, *, trained: bool, matrix: bool) -> Bytes:
        """Nothing is trained."""
        return super()._new(elements, item_bytes, trained=False, matrix=matrix)

    def _base(self, given: Bytes, weight: Bytes, bias: Bytes | None, linear: Linear) -> Bytes:
        """Of what is dequantized, the layers that a group divides hold codes."""
        products = self.products
        if products.kind == "packed" and products.holds(linear.inputs):
            # torchao pads the inputs to what the kernel reads, a copy even where nothing is added.
            rows = given.elements // linear.inputs
            size = rows * padded_inputs(linear.inputs) * HALF
            _padded = Storage(self.tape.ledger, ACTIVATIONS, size)
            return self.tape.op(rows * linear.outputs, given.item_bytes, [given])
        if products.kind != "dequantized" or not products.holds(linear.inputs):
            return super()._base(given, weight, bias, linear)
        item, ledger = given.item_bytes, self.tape.ledger
        made_at_once = linear.inputs * linear.outputs
        if products.at_once is not None:
            made_at_once = min(made_at_once, products.at_once)
        weights = made_at_once * item
        scales = products.scales(linear.outputs, linear.inputs)
        if self._kernels.unseen or not products.fused:
            # torchao's `dequantize_affine`: codes less zero points, then times scales, each anew.
            made = products.copies * weights + products.constants * scales * item
            made += products.wide_bytes * made_at_once
            Storage(ledger, DEQUANTIZED, made)
        held = Storage(ledger, DEQUANTIZED, weights)
        result = self.multiply(given, weight, bias, linear.outputs)
        del held
        return result

    def _four_bit(self, given: Bytes, linear: Linear) -> Bytes:
        """The weights are dequantized to the compute type, but for a few rows on CUDA."""
        item = ITEM_BYTES[self.products.compute]
        narrow = self.tape.cast(given, item)
        rows = given.elements // linear.inputs
        fused = self._kernels.device == "cuda" and rows <= FUSED_ROWS
        size = 0 if fused or not self._kernels.unseen else linear.inputs * linear.outputs * item
        held = Storage(self.tape.ledger, DEQUANTIZED, size)
        made = self.tape.op(rows * linear.outputs, item, [narrow])
        del held
        return self.tape.cast(made, given.item_bytes)

    def _outliers(self, given: Bytes, linear: Linear) -> Bytes:
        """The input in fp16, then in int8; the product in int32, scaled in fp16, then in its type.

        A CPU multiplies in fp32: input and weights in fp32, and the product twice.
        """
        tape, on_cuda = self.tape, self._kernels.device == "cuda"
        outputs = given.elements // linear.inputs * linear.outputs
        narrow = tape.op(given.elements, HALF)
        _codes = tape.op(given.elements, 1)
        del narrow
        ledger = tape.ledger
        product, weights = 0, 0
        if self._kernels.unseen:
            product = (FP32 + HALF) * outputs if on_cuda else FP32 * (2 * outputs + given.elements)
            weights = 0 if on_cuda else FP32 * linear.inputs * linear.outputs
        _held = Storage(ledger, ACTIVATIONS, product), Storage(ledger, DEQUANTIZED, weights)
        return tape.op(outputs, given.item_bytes, [given])
