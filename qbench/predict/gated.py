"""The blocks of Llama and its kin on a tape of bytes: RMS norms, and a gated second half."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.predict.mixture_forward import mix

if TYPE_CHECKING:
    from qbench.predict.decoder import Decoder
    from qbench.predict.shapes import LayerSort
    from qbench.predict.tape import Bytes


def gated_layer(
    decoder: Decoder,
    hidden: Bytes,
    weights: dict[str, Bytes],
    sort: LayerSort,
    table: tuple[Bytes, Bytes] | None,
    mask: Bytes | None,
) -> Bytes:
    """Attention and second half, each added to what entered it, with norms before or after."""
    before, after = decoder.shape.norms_before, decoder.shape.norms_after
    residual = hidden
    if before:
        hidden = decoder.norm(hidden, weights, "norm1")
    hidden = decoder.attend(hidden, weights, table, mask)
    if after:
        hidden = decoder.norm(hidden, weights, "norm1")
    residual = hidden = decoder.add(residual, hidden)
    if before:
        hidden = decoder.norm(hidden, weights, "norm2")
    hidden = _mix(decoder, hidden) if sort.experts else _gated(decoder, hidden, weights)
    if after:
        hidden = decoder.norm(hidden, weights, "norm2")
    return decoder.add(residual, hidden)


def _mix(decoder: Decoder, hidden: Bytes) -> Bytes:
    assert decoder.shape.experts is not None  # noqa: S101 - a layer of that sort has them
    return mix(
        decoder.tape,
        hidden,
        decoder.shape.experts,
        hidden=decoder.shape.hidden,
        wide=decoder.shape.model_type == "mixtral",
        on_cuda=decoder.setup.device == "cuda",
    )


def _gated(decoder: Decoder, hidden: Bytes, weights: dict[str, Bytes]) -> Bytes:
    """down(silu(gate(x)) · up(x)): silu keeps its input, the product both factors."""
    tape = decoder.tape
    if decoder.shape.joined:
        both = decoder.linear(hidden, weights, "gate_up_proj")
        active = tape.op(both.elements // 2, both.item_bytes, [both])
        product = tape.op(active.elements, both.item_bytes, [both, active])
        del active
        return decoder.linear(product, weights, "down_proj")
    gate = decoder.linear(hidden, weights, "gate_proj")
    active = tape.op(gate.elements, gate.item_bytes, [gate], saved=[gate])
    del gate
    up = decoder.linear(hidden, weights, "up_proj")
    product = tape.op(
        up.elements,
        up.item_bytes,
        [active, up],
        saved=[*([active] if up.edge else []), *([up] if active.edge else [])],
    )
    del active, up
    return decoder.linear(product, weights, "down_proj")
