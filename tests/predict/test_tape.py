"""The tape of bytes on programs whose sums can be made by hand."""

from __future__ import annotations

import pytest

from qbench.predict.tape import (
    CHECKPOINT_INPUTS,
    GRADIENTS,
    LAYERS,
    Bytes,
    Ledger,
    Tape,
    make_weight,
)


def _tape() -> Tape:
    tape = Tape(Ledger())
    tape.part = LAYERS
    return tape


def test_a_temporary_is_freed_with_its_name() -> None:
    tape = _tape()
    first = tape.op(100, 4)
    second = tape.op(100, 2, [first])
    del first
    assert tape.ledger.live_bytes == second.size == 200
    assert tape.ledger.peak_bytes == 600


def test_what_is_saved_stays_until_its_step_back() -> None:
    tape, weight = _tape(), make_weight(50, 4, trained=True)
    hidden = tape.op(100, 4, [weight])
    hidden = tape.op(100, 4, [hidden], saved=[hidden])
    loss = tape.op(1, 4, [hidden])
    del hidden
    assert tape.ledger.live_bytes == 400 + 4
    tape.backward(loss)
    del loss
    assert tape.ledger.live == {LAYERS: 0, "transient": 0, GRADIENTS: 200}
    # The step back of the saved one: what it saved, its two gradients, and the loss.
    assert tape.ledger.peak_bytes == max(400 + 2 * 400 + 4, 2 * 400 + 4)


def test_nothing_is_saved_for_what_needs_no_gradient() -> None:
    tape = _tape()
    frozen = make_weight(50, 4, trained=False)
    hidden = tape.op(100, 4, [frozen])
    tape.op(100, 4, [hidden], saved=[hidden])
    del hidden
    assert tape.ledger.live_bytes == 0


def test_a_gradient_that_passes_takes_nothing_anew() -> None:
    tape, weight = _tape(), make_weight(100, 4, trained=True)
    loss = tape.op(100, 4, [tape.op(100, 4, [weight], passes=True)], passes=True)
    standing = tape.ledger.live_bytes
    tape.ledger.peak_bytes = 0
    tape.backward(loss)
    assert tape.ledger.peak_bytes == standing + 400


def test_a_trained_weight_is_cast_once_a_frozen_one_anew() -> None:
    tape = _tape()
    trained, frozen = make_weight(10, 4, trained=True), make_weight(10, 4, trained=False)
    held = [tape.cast_weight(weight, 2) for weight in (trained, trained, frozen, frozen)]
    assert tape.ledger.live_bytes == 3 * 20
    held.clear()
    assert tape.ledger.live_bytes == 20
    tape.leave_autocast()
    assert tape.ledger.live_bytes == 0
    assert tape.cast_weight(trained, 4) is trained


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_checkpointing_keeps_inputs_and_one_block(blocks: int) -> None:
    """Each block saves three tensors of 400 bytes, its input among them."""

    def run(hidden: Bytes) -> Bytes:
        for _ in range(3):
            hidden = tape.op(100, 4, [hidden, weight], saved=[hidden])
        return hidden

    tape, weight = _tape(), make_weight(1, 4, trained=True)
    hidden = tape.op(100, 4, [weight])
    for _ in range(blocks):
        hidden = tape.checkpoint(run, hidden)
    loss = tape.op(1, 4, [hidden])
    del hidden
    assert tape.ledger.live == {LAYERS: 4, CHECKPOINT_INPUTS: blocks * 400}
    tape.ledger.peak_bytes = 0
    tape.backward(loss)
    # In the last block: all inputs, two more saved, the gradient before and after, two scalars.
    assert tape.ledger.peak_bytes == (blocks + 2) * 400 + 2 * 400 + 4 + 4
    assert tape.ledger.live == {LAYERS: 4, CHECKPOINT_INPUTS: 0, "transient": 0, GRADIENTS: 4}


def test_a_pinned_tensor_outlives_checkpointing_until_the_end() -> None:
    def run(hidden: Bytes) -> Bytes:
        hidden = tape.op(100, 4, [hidden])
        tape.pin(hidden)
        return tape.op(100, 4, [hidden], saved=[hidden])

    tape, weight = _tape(), make_weight(100, 4, trained=True)
    hidden = tape.op(100, 4, [weight])
    loss = tape.checkpoint(run, hidden)
    del hidden
    assert tape.ledger.live_bytes == 400 + 400 + loss.size
    tape.backward(loss)
    assert tape.ledger.live_bytes == loss.size + 400
