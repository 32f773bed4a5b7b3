"""Norms on a tape of bytes, as transformers' modules take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.predict.linear import FP32

if TYPE_CHECKING:
    from qbench.predict.tape import Bytes, Tape


def rms_norm(tape: Tape, given: Bytes, weight: Bytes) -> Bytes:
    """x·rsqrt(mean(x²) + ε)·weight, taken in fp32, over vectors as long as the weight.

    Kept: x in fp32 (4 bytes an element, no copy where x is fp32), the rsqrt (4 bytes a vector), and
    where the weight is trained the normed x. The step back of x² takes x¹ and 2·x¹ besides.
    """
    size, vectors = given.elements, given.elements // weight.elements
    wide = tape.cast(given, FP32)
    squares = tape.op(size, FP32, [wide], saved=[wide], scratch_bytes=2 * FP32 * size)
    variance = tape.op(vectors, FP32, [squares])
    del squares
    scale = tape.op(vectors, FP32, [variance], saves_output=True)
    wide = tape.op(size, FP32, [wide, scale], saved=[wide, scale], elementwise=True)
    normed = tape.cast(wide, given.item_bytes)
    del wide
    item = max(normed.item_bytes, weight.item_bytes)
    kept = [normed] if weight.edge else []
    return tape.op(size, item, [normed, weight], saved=kept, elementwise=True)


def wide_rms_norm(tape: Tape, given: Bytes, weight: Bytes, *, lets_go: bool) -> Bytes:
    """As `rms_norm`, but the product with the weight is taken in fp32 too: OLMo 2's, Gemma's.

    Only the way forward. Gemma's module `lets_go` of the variance, and of the normed x before it
    casts the product; OLMo's has names for both.
    """
    size, vectors = given.elements, given.elements // weight.elements
    wide = tape.cast(given, FP32)
    squares = tape.op(size, FP32, [wide])
    variance = tape.op(vectors, FP32, [squares])
    del squares
    scale = tape.op(vectors, FP32, [variance])
    if lets_go:
        del variance
    wide = tape.op(size, FP32, [wide, scale])
    del scale
    product = tape.op(size, FP32, [wide, weight])
    if lets_go:
        del wide
    return tape.cast(product, given.item_bytes)


def layer_norm(tape: Tape, given: Bytes, weight: Bytes, bias: Bytes, *, in_fp32: bool) -> Bytes:
    """Kept: x, and mean and 1/σ of each vector in its type; CUDA's autocast takes it `in_fp32`."""
    if in_fp32:
        given = tape.cast(given, FP32)
    moments = tape.op(2 * (given.elements // weight.elements), given.item_bytes)
    return tape.op(given.elements, given.item_bytes, [given, weight, bias], saved=[given, moments])
