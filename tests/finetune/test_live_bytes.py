"""The peak of live bytes against sums made by hand."""

from __future__ import annotations

import gc

import pytest
import torch

from qbench.finetune.train.live_bytes import LivePeak


def test_counts_what_is_alive_at_once() -> None:
    with LivePeak("cpu") as peak:
        first = torch.zeros(1000)
        second = first + 1
        del first
        third = second * 2
        del second
    assert third.numel() == 1000
    assert peak.peak_bytes == 2 * 4000


def test_counts_a_storage_once_whatever_views_it_has() -> None:
    with LivePeak("cpu") as peak:
        whole = torch.zeros(100, 10)
        views = [whole.t(), whole[10:], whole.view(-1), whole.detach()]
    assert len(views) == 4
    assert peak.peak_bytes == 4000


def test_what_was_there_before_counts_from_the_start() -> None:
    given = torch.zeros(1000)
    with LivePeak("cpu") as peak:
        torch.zeros(500)  # freed at once, but not before `given` was there
        given.add_(1)
    assert peak.peak_bytes == 4000 + 2000


def test_what_is_held_counts_even_if_nothing_touches_it() -> None:
    held = torch.zeros(1000)
    with LivePeak("cpu", [held, held.view(10, 100)]) as peak:
        made = torch.zeros(10)
    assert made.numel() == 10
    assert peak.peak_bytes == 4000 + 40


def test_what_is_held_may_be_freed_inside() -> None:
    tensors = [torch.zeros(1000)]
    with LivePeak("cpu", tensors) as peak:
        tensors.clear()
        made = torch.zeros(500)
    assert made.numel() == 500
    assert peak.peak_bytes == 4000


def test_sees_a_storage_grow() -> None:
    given = torch.zeros(10)
    with LivePeak("cpu", [given]) as peak:
        given.resize_(1000)
        given.add_(1)
    assert peak.peak_bytes == 4000


def test_sees_what_the_backward_pass_makes() -> None:
    rows, inputs, outputs = 64, 32, 16
    given, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs, requires_grad=True)
    with LivePeak("cpu", [given, weight]) as peak:
        loss = (torch.nn.functional.linear(given, weight)).exp().sum()
        loss.backward()  # type: ignore[no-untyped-call]
    # exp keeps its output; its step back makes as much again beside the gradient that came in,
    # which is the loss's gradient seen as a matrix: 4 bytes. Then the weight's gradient is made,
    # beside the exp's, which is freed only after it.
    logits, scalars = 4 * rows * outputs, 2 * 4
    standing = 4 * rows * inputs + 4 * outputs * inputs + scalars
    assert peak.peak_bytes == standing + logits + max(logits, 4 * outputs * inputs)


def test_sees_the_copies_that_autocast_keeps() -> None:
    given, weight = torch.randn(8, 32), torch.randn(16, 32, requires_grad=True)
    with LivePeak("cpu", [given, weight]) as peak, torch.autocast("cpu", torch.bfloat16):
        made = [torch.nn.functional.linear(given, weight) for _ in range(2)]
    # The weight is cast once and kept; the inputs anew each time, for the weight's gradient.
    assert len(made) == 2
    assert peak.peak_bytes == (4 + 2) * 16 * 32 + (4 + 2 + 2) * 8 * 32 + 2 * 2 * 8 * 16


def test_sees_the_states_that_an_optimizer_makes() -> None:
    import bitsandbytes

    weight = torch.nn.Parameter(torch.randn(100, 128))
    weight.grad = torch.ones_like(weight)
    optimizer = bitsandbytes.optim.AdamW8bit([weight])
    with LivePeak("cpu", [weight, weight.grad]) as peak:
        optimizer.step()
    blocks = 12800 // 256
    states = 2 * 12800 + 2 * 4 * blocks + 2 * 4 * 256
    assert peak.peak_bytes >= 2 * 4 * 12800 + states


def test_is_the_same_every_time_and_leaves_no_trace() -> None:
    def peak_of_a_step() -> int:
        model = torch.nn.Sequential(
            torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)
        )
        with LivePeak("cpu", model.parameters()) as peak:
            model(torch.ones(16, 32)).sum().backward()
        return peak.peak_bytes

    gc.collect()
    found = [peak_of_a_step() for _ in range(3)]
    assert len(set(found)) == 1


def test_an_error_inside_passes_through_and_ends_the_counting() -> None:
    peak = LivePeak("cpu")
    with pytest.raises(RuntimeError, match="shape"), peak:
        torch.zeros(1000).view(7, 7)
    torch.zeros(100_000)
    assert peak.peak_bytes == 4000
