"""Linear layers on a tape of bytes: floating, 4-bit and int8, with and without an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core import number_types
from qbench.core.number_types import ITEM_BYTES
from qbench.predict.tape import Bytes, make_weight

if TYPE_CHECKING:
    from qbench.predict.shapes import Linear, TrainingSetup
    from qbench.predict.tape import Tape

FP32 = 4
HALF = 2


class Linears:
    """Makes and applies the linear layers of one training."""

    def __init__(self, tape: Tape, setup: TrainingSetup) -> None:
        self.tape, self.setup = tape, setup
        self.products = setup.products
        """Of the layer that is applied."""
        self.autocast = setup.compute != number_types.FP32
        self.adapter_bytes = FP32
        """Of an element of an adapter's matrices."""
        self.trained_matrices: list[int] = []
        """Bytes of each trained matrix, in the model's order."""

    def weight(self, elements: int, item_bytes: int, *, matrix: bool = True) -> Bytes:
        """A weight of the base: trained in full tuning, frozen else."""
        return self._new(elements, item_bytes, trained=self.setup.method == "full", matrix=matrix)

    def weights(self, name: str, linear: Linear) -> dict[str, Bytes]:
        """The weights of a linear layer and its adapter, by name."""
        made = {name: self.weight(linear.inputs * linear.outputs, self.setup.rest_bytes)}
        if linear.bias:
            made[f"{name}.bias"] = self.weight(linear.outputs, self.setup.rest_bytes, matrix=False)
        if self.setup.method == "lora" and name.rpartition(".")[2] in self.setup.targets:
            rank = self.setup.rank
            for part, elements in (("A", rank * linear.inputs), ("B", linear.outputs * rank)):
                made[f"{name}.{part}"] = self._new(
                    elements, self.adapter_bytes, trained=True, matrix=True
                )
        return made

    def apply(self, given: Bytes, weights: dict[str, Bytes], name: str, linear: Linear) -> Bytes:
        """The layer's output; with an adapter, B·A·drop(x)·scale is added to it.

        An adapter keeps its own 16-bit copy of x (PEFT casts x to the adapter's fp32, autocast back
        to 16 bits) and A·x, of rank elements a token; with dropout the noise too.
        """
        tape, setup = self.tape, self.setup
        result = self._base(given, weights[name], weights.get(f"{name}.bias"), linear)
        if f"{name}.A" not in weights:
            return result
        if self.products.kind == "4bit":
            result = tape.op(result.elements, result.item_bytes, [result], passes=True)
        # PEFT asks whether autocast is on; bitsandbytes' layers ask for CUDA's, even on a CPU.
        quantized = self.products.kind in {"4bit", "outliers"}
        if not (quantized and setup.device == "cuda" and self.autocast):
            given = tape.cast(given, self.adapter_bytes)
        seen = self.drop(given) if setup.adapter_dropout else given
        low = self.multiply(seen, weights[f"{name}.A"], None, setup.rank)
        del seen
        update = self.multiply(low, weights[f"{name}.B"], None, linear.outputs)
        del low
        update = tape.op(update.elements, update.item_bytes, [update])
        item = max(result.item_bytes, update.item_bytes)
        summed = tape.op(result.elements, item, [result, update], passes=True)
        return tape.cast(summed, result.item_bytes)

    def multiply(self, given: Bytes, weight: Bytes, bias: Bytes | None, outputs: int) -> Bytes:
        """x·Wᵀ + b with floating weights.

        Kept: W where x needs a gradient (autocast's 16-bit copy if it is wider), x where W is
        trained. Autocast copies a wider x anew for each layer that reads it.
        """
        tape = self.tape
        item = HALF if self.autocast else given.item_bytes
        inputs = weight.elements // outputs
        weight = tape.cast_weight(weight, item)
        if bias is not None:
            bias = tape.cast_weight(bias, item)
        given = tape.cast(given, item)
        return tape.op(
            given.elements // inputs * outputs,
            item,
            [given, weight, *([bias] if bias else [])],
            saved=[*([weight] if given.edge else []), *([given] if weight.edge else [])],
        )

    def drop(self, given: Bytes) -> Bytes:
        """Dropout: keeps its noise, of x's type on a CPU, one byte an element on CUDA."""
        item = 1 if self.setup.device == "cuda" else given.item_bytes
        noise = self.tape.op(given.elements, item)
        return self.tape.op(given.elements, given.item_bytes, [given], saved=[noise])

    def _base(self, given: Bytes, weight: Bytes, bias: Bytes | None, linear: Linear) -> Bytes:
        match self.products.kind:
            case "4bit":
                return self._four_bit(given, linear)
            case "outliers":
                return self._outliers(given, linear)
            case _:
                return self.multiply(given, weight, bias, linear.outputs)

    def _four_bit(self, given: Bytes, linear: Linear) -> Bytes:
        """Keeps only the codes; the step back dequantizes them, to the type of the rest."""
        weights = linear.inputs * linear.outputs
        item = ITEM_BYTES[self.products.compute]
        narrow = self.tape.cast(given, item)
        dequantized = weights * self.setup.rest_bytes
        if item != self.setup.rest_bytes:
            dequantized += weights * item
        made = self.tape.op(
            given.elements // linear.inputs * linear.outputs,
            item,
            [narrow],
            scratch_bytes=dequantized,
        )
        return self.tape.cast(made, given.item_bytes)

    def _outliers(self, given: Bytes, linear: Linear) -> Bytes:
        """Pins x, which bitsandbytes keeps as an attribute: no step back or checkpoint frees it.

        On a CPU both ways dequantize the weights to x's type. On CUDA the way forward takes x in
        fp16 and in int8 and its product in int32, the way back dequantizes.
        """
        tape, weights = self.tape, linear.inputs * linear.outputs
        outputs = given.elements // linear.inputs * linear.outputs
        if self.setup.device == "cuda":
            tape.scratch((HALF + 1) * given.elements + 4 * outputs)
        else:
            tape.scratch(weights * given.item_bytes)
        item = HALF if self.autocast else given.item_bytes
        made = tape.op(outputs, item, [given], scratch_bytes=weights * given.item_bytes)
        if made.edge is not None:
            tape.pin(given)
        return made

    def _new(self, elements: int, item_bytes: int, *, trained: bool, matrix: bool) -> Bytes:
        if trained and matrix:
            self.trained_matrices.append(elements * item_bytes)
        return make_weight(elements, item_bytes, trained=trained)
