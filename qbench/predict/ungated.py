"""The blocks of GPT-2 and OPT on a tape of bytes: layer norms, and a second half without a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.predict.linear import FP32

if TYPE_CHECKING:
    from qbench.predict.decoder import Decoder
    from qbench.predict.tape import Bytes


def gpt2_layer(
    decoder: Decoder, hidden: Bytes, weights: dict[str, Bytes], mask: Bytes | None
) -> Bytes:
    """Drops within attention and MLP; what the attention gave has a name to the end."""
    residual = hidden
    hidden = decoder.norm(hidden, weights, "norm1")
    attended = decoder.attend(hidden, weights, None, mask)
    residual = hidden = decoder.add(residual, attended)
    hidden = decoder.norm(hidden, weights, "norm2")
    return decoder.add(residual, _gpt2_mlp(decoder, hidden, weights))


def opt_layer(
    decoder: Decoder, hidden: Bytes, weights: dict[str, Bytes], mask: Bytes | None
) -> Bytes:
    """Drops after attention and second half."""
    residual = hidden
    hidden = decoder.norm(hidden, weights, "norm1")
    hidden = decoder.attend(hidden, weights, None, mask)
    hidden = decoder.dropped(hidden)
    residual = hidden = decoder.add(residual, hidden)
    hidden = decoder.norm(hidden, weights, "norm2")
    hidden = decoder.linear(hidden, weights, "fc1")
    # relu keeps its output
    hidden = decoder.tape.op(hidden.elements, hidden.item_bytes, [hidden], saves_output=True)
    hidden = decoder.linear(hidden, weights, "fc2")
    hidden = decoder.dropped(hidden)
    return decoder.add(residual, hidden)


def _gpt2_mlp(decoder: Decoder, hidden: Bytes, weights: dict[str, Bytes]) -> Bytes:
    hidden = decoder.linear(hidden, weights, "mlp.c_fc")
    hidden = _gelu(decoder, hidden)
    hidden = decoder.linear(hidden, weights, "mlp.c_proj")
    return decoder.dropped(hidden)


def _gelu(decoder: Decoder, given: Bytes) -> Bytes:
    """0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), each operation a tensor of its own.

    Kept: x (by the cube), the tanh, and the two factors of the product. Under CUDA's autocast
    the cube is taken in fp32, and all that follows from it.
    """
    tape, size = decoder.tape, given.elements
    half = tape.op(size, given.item_bytes, [given])
    base = given
    if decoder.setup.device == "cuda" and decoder.linears.autocast:
        base = tape.cast(given, FP32)
    item = base.item_bytes
    cube = tape.op(size, item, [base], saved=[base], scratch_bytes=2 * base.size)
    cube = tape.op(size, item, [cube])
    inner = tape.op(size, item, [given, cube], passes=True)
    del cube
    inner = tape.op(size, item, [inner])
    inner = tape.op(size, item, [inner], saves_output=True)
    inner = tape.op(size, item, [inner], passes=True)
    return tape.op(size, item, [half, inner], saved=[half, inner], elementwise=True)
