"""Attention on a tape of bytes: rotary positions, and the three ways to compute it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.predict.linear import FP32, HALF

if TYPE_CHECKING:
    from qbench.predict.linear import Linears
    from qbench.predict.shapes import DecoderShape, TrainingSetup
    from qbench.predict.tape import Bytes


class Attention:
    """Attention of one training."""

    def __init__(self, linears: Linears, shape: DecoderShape, setup: TrainingSetup) -> None:
        self.tape, self.shape, self.setup = linears.tape, shape, setup
        self._linears = linears
        self._squares = setup.batch * shape.heads * setup.tokens**2
        self._groups = shape.heads // shape.kv_heads

    def rotate(self, given: Bytes, tables: tuple[Bytes, Bytes]) -> Bytes:
        """x·cos + turned(x)·sin: keeps only the tables; in their type where that is wider."""
        tape, (cosine, sine) = self.tape, tables
        if self.shape.has_sinks:
            return self._rotate_halves(given)
        size, item = given.elements, max(given.item_bytes, cosine.item_bytes)
        straight = tape.op(size, item, [given], saved=[cosine], elementwise=True)
        first, second = (
            tape.op(size // 2, given.item_bytes, [given], view_of=given) for _ in range(2)
        )
        negative = tape.op(size // 2, given.item_bytes, [second])
        turned = tape.op(size, given.item_bytes, [negative, first])
        del negative
        turned = tape.op(size, item, [turned], saved=[sine], elementwise=True)
        return tape.op(size, item, [straight, turned], passes=True)

    def _rotate_halves(self, given: Bytes) -> Bytes:
        """gpt-oss': each half of a head from both, then joined."""
        tape, half, item = self.tape, given.elements // 2, given.item_bytes

        def turned() -> Bytes:
            straight, crossed = tape.op(half, item, [given]), tape.op(half, item, [given])
            return tape.op(half, item, [straight, crossed])

        return tape.op(given.elements, item, [turned(), turned()])

    def attend(self, query: Bytes, key: Bytes, value: Bytes, mask: Bytes | None) -> Bytes:
        """(batch, tokens, heads × head), by the kernel that transformers and torch choose."""
        own = query.item_bytes
        if self._groups > 1 and self._repeats(mask):
            key, value = self._repeated(key), self._repeated(value)
        if self._linears.autocast:
            query, key, value = (self.tape.cast(part, HALF) for part in (query, key, value))
        if self.setup.attention == "eager":
            return self._eager(query, key, value, mask, own)
        # torch's flash attention for CPUs knows no dropout.
        dropped = self.shape.attention_dropout and self.setup.device == "cpu"
        if dropped or self.setup.by_definition:
            return self._by_definition(query, key, value, mask)
        return self._flash(query, key, value, mask)

    def _repeats(self, mask: Bytes | None) -> bool:
        """Whether keys and values are copied for each query head that shares them."""
        dropped = self.shape.attention_dropout and self.setup.device == "cpu"
        return self.setup.attention == "eager" or mask is not None or dropped

    def _repeated(self, given: Bytes) -> Bytes:
        return self.tape.op(given.elements * self._groups, given.item_bytes, [given])

    def _flash(self, query: Bytes, key: Bytes, value: Bytes, mask: Bytes | None) -> Bytes:
        """Kept: query, key, value, output, and log-sum-exp (4 bytes a head and token).

        A mask is turned into numbers anew in each layer, and kept: batch × tokens². The flash
        kernel of CUDA sums the query's gradient in fp32, and the keys' and values' a query head.
        """
        tape, item = self.tape, query.item_bytes
        rows = query.elements // self.shape.head_dim
        kept = [query, key, value, tape.op(rows, FP32)]
        if mask is not None:
            kept.append(tape.op(self._masked(mask), item))
        sums = 0
        if self.setup.device == "cuda":
            sums = FP32 * (query.elements + rows)
            sums += 2 * query.size if self._groups > 1 else 0
        return tape.op(
            query.elements,
            item,
            [query, key, value],
            saved=kept,
            saves_output=True,
            scratch_bytes=sums,
        )

    def _masked(self, mask: Bytes) -> int:
        """Pairs of a query and a key, of all sequences, that a mask speaks of: batch × tokens²."""
        return mask.elements

    def _eager(
        self, query: Bytes, key: Bytes, value: Bytes, mask: Bytes | None, own_bytes: int
    ) -> Bytes:
        """Kept: query, key, value, the softmax and its copy for the product: 6·B·H·T².

        The softmax is in fp32; a GPT-2's is so only under CUDA's autocast.
        """
        tape, squares = self.tape, self._squares
        scores = tape.op(squares, query.item_bytes, [query, key], saved=[query, key])
        scores = tape.op(squares, query.item_bytes, [scores])
        if mask is not None:
            item = max(scores.item_bytes, mask.item_bytes)
            scores = tape.op(squares, item, [scores], passes=True)
        in_fp32 = self.shape.model_type != "gpt2" or self.setup.device == "cuda"
        item = FP32 if in_fp32 else scores.item_bytes
        weights = tape.op(squares, item, [scores], saves_output=True)
        weights = tape.cast(weights, own_bytes)
        del scores
        if self.shape.attention_dropout:
            weights = self._linears.drop(weights)
        narrow = tape.cast(weights, value.item_bytes)
        mixed = tape.op(query.elements, value.item_bytes, [narrow, value], saved=[narrow, value])
        return tape.op(mixed.elements, mixed.item_bytes, [mixed])

    def _by_definition(self, query: Bytes, key: Bytes, value: Bytes, mask: Bytes | None) -> Bytes:
        """Kept, in fp32: query, key, value and softmax; with dropout its noise and what is left.

        That is 4·B·H·T², with dropout 12·B·H·T².
        """
        tape, squares, own = self.tape, self._squares, query.item_bytes
        shown = tape.op(self.setup.tokens**2 if mask is None else mask.elements, FP32)
        wide = [tape.cast(part, FP32) for part in (query, key, value)]
        if self._groups > 1 and not self._repeats(mask):
            wide[1:] = [self._repeated(part) for part in wide[1:]]
        scaled = [tape.op(part.elements, FP32, [part]) for part in wide[:2]]
        laid = [tape.op(part.elements, FP32, [part], passes=True) for part in scaled]
        scores = tape.op(squares, FP32, laid, saved=laid)
        del laid
        scores = tape.op(squares, FP32, [scores], passes=True)
        weights = tape.op(squares, FP32, [scores], saves_output=True)
        del scores, shown
        if self.shape.attention_dropout:
            weights = self._linears.drop(weights)
        returned = tape.op(squares, own)  # by the kernel, to no one
        value = tape.op(wide[2].elements, FP32, wide[2:], passes=True)
        mixed = tape.op(query.elements, FP32, [weights, value], saved=[weights, value])
        narrow = tape.cast(mixed, own)
        del returned
        return tape.op(narrow.elements, own, [narrow], passes=True)
