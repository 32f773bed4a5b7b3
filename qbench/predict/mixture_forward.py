"""A mixture of experts on a tape of bytes: the way forward.

transformers 5 sorts the pairs of a token and one of its experts by expert, multiplies them by group
(`integrations.moe.grouped_mm_experts_forward`), and sums them by token. So what is taken does not
depend on which experts are chosen. S stands for the pairs: batch × tokens × chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.predict.linear import FP32

if TYPE_CHECKING:
    from qbench.predict.shapes import Experts
    from qbench.predict.tape import Bytes, Tape

_INT64 = 8
_INT32 = 4


def mix(
    tape: Tape, given: Bytes, experts: Experts, *, hidden: int, wide: bool, on_cuda: bool
) -> Bytes:
    """What the experts make of (tokens × hidden); `wide`: the router's weights stay in fp32."""
    tokens, item, inner = given.elements // hidden, given.item_bytes, experts.intermediate
    pairs = tokens * experts.chosen
    _logits = tape.op(tokens * experts.count, item)
    routed, _index = _route(tape, tokens, experts, item, wide=wide, on_cuda=on_cuda)
    _sorted, _places = tape.op(pairs, _INT64), tape.op(pairs, _INT64)
    own_rows = tape.op(pairs, _INT64)
    selected = tape.op(pairs * hidden, item)
    del own_rows
    weights = tape.op(pairs, routed.item_bytes)
    _numbers = tape.op(pairs, _INT32)
    biases = tape.op(pairs * 2 * inner if experts.biased else 0, item)
    product = _gated(tape, tape.op(pairs * 2 * inner, item, [selected]), experts)
    biases = tape.op(pairs * hidden if experts.biased else 0, item)
    projected = tape.op(pairs * hidden, item, [product, biases])
    del product
    weighted_item = max(item, weights.item_bytes)
    weighted = tape.op(pairs * hidden, weighted_item, [projected, weights])
    _order = tape.op(pairs, _INT64)
    weighted = tape.op(pairs * hidden, weighted_item, [weighted])
    return tape.cast(tape.op(tokens * hidden, weighted_item, [weighted]), item)


def _gated(tape: Tape, both: Bytes, experts: Experts) -> Bytes:
    """activation(gate)·up of (pairs × 2·intermediate).

    gpt-oss clamps both, and takes (up + 1)·gate·sigmoid(α·gate).
    """
    half, item = both.elements // 2, both.item_bytes
    if not experts.biased:
        active = tape.op(half, item, [both])
        return tape.op(half, item, [active, both])
    gate, up = tape.op(half, item, [both]), tape.op(half, item, [both])
    scaled = tape.op(half, item, [gate])
    share = tape.op(half, item, [scaled])
    del scaled
    active = tape.op(half, item, [gate, share])
    del share
    raised = tape.op(half, item, [up])
    return tape.op(half, item, [raised, active])


def _route(
    tape: Tape, tokens: int, experts: Experts, item: int, *, wide: bool, on_cuda: bool
) -> tuple[Bytes, Bytes]:
    """The weights and numbers of each token's experts, by a softmax in fp32 over all.

    gpt-oss takes it over those that are chosen, in the model's type.
    """
    if experts.biased:
        pairs = tokens * experts.chosen
        _best, index = tape.op(pairs, item), tape.op(pairs, _INT64)
        return tape.op(pairs, item), index
    # CUDA's softmax reads a 16-bit type itself.
    given = tape.op(0 if on_cuda or item == FP32 else tokens * experts.count, FP32)
    _likely = tape.op(tokens * experts.count, FP32)
    del given
    pairs = tokens * experts.chosen
    values, index = tape.op(pairs, FP32), tape.op(pairs, _INT64)
    return values if wide else tape.cast(values, item), index
