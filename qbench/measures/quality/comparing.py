"""What logits give at each position: the loss, and how far it is from the reference's prediction.

In fp64 of fp32 logits, a block of positions at a time. The exponentials of either side are taken
once, for its softmax, both divergences and the reference's confidence alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qbench.predict.inference import block_rows

if TYPE_CHECKING:
    import torch


def nonfinite_count(logits: torch.Tensor) -> torch.Tensor:
    """How many of the logits are infinite or not a number."""
    import torch

    # What is finite less itself is zero, all else is no number, which is not zero.
    blocks = (logits[block] for block in _blocks(logits))
    return torch.stack([torch.count_nonzero(block - block) for block in blocks]).sum()


def losses_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood, (n,), of targets (n,) under logits (n, columns), in nats."""
    import torch
    from torch.nn.functional import cross_entropy

    losses = [
        cross_entropy(logits[block].double(), targets[block], reduction="none")
        for block in _blocks(logits)
    ]
    return torch.cat(losses)


class Compared(NamedTuple):
    """What some positions give against the reference, each (positions,), in fp64."""

    losses: torch.Tensor
    """Negative log-likelihood of the true token, in nats."""
    kl: torch.Tensor
    """KL(reference ‖ cell), in nats."""
    reverse_kl: torch.Tensor
    """KL(cell ‖ reference), in nats."""
    change: torch.Tensor
    """Change of the true token's probability from the reference to the cell."""
    confidence: torch.Tensor
    """The reference's highest probability."""
    same_top: torch.Tensor
    """1 where both put the same token first, the lowest id of tied ones, else 0."""
    true_top: torch.Tensor
    """1 where the cell puts the true token first, else 0."""


def compare_logits(
    logits: torch.Tensor, wanted: torch.Tensor, targets: torch.Tensor, vocabulary: int
) -> Compared:
    """Holds logits (n, columns) against the reference's, the first `vocabulary` columns of both."""
    import torch

    logits, wanted = logits[:, :vocabulary], wanted[:, :vocabulary]
    tops = logits.argmax(1, keepdim=True), wanted.argmax(1, keepdim=True)
    blocks = [
        _compare_block(
            _below_top(logits[block], tops[0][block]),
            _below_top(wanted[block], tops[1][block]),
            targets[block, None],
        )
        for block in _blocks(logits)
    ]
    same = (tops[0] == tops[1])[:, 0].double()
    true_top = (tops[0][:, 0] == targets).double()
    columns = [torch.cat(parts) for parts in zip(*blocks, strict=True)]
    return Compared(*[*columns, same, true_top])


def _below_top(logits: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Logits (n, columns) in fp64, less the highest of each row, which stands at `top` (n, 1)."""
    return logits.double().sub_(logits.gather(1, top))


def _compare_block(
    own: torch.Tensor, expected: torch.Tensor, true: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """All of `Compared` but the last two, from logits (n, columns) whose highest is 0 in each row.

    Both are overwritten. The columns that are true (n, 1) are gathered before.
    """
    own_true, expected_true = (side.gather(1, true)[:, 0] for side in (own, expected))
    weights = own.exp()
    own_sum = weights.sum(-1)
    differences = own.sub_(expected)
    of_cell = _weighted_sum(weights, differences)
    del weights
    weights = expected.exp_()
    expected_sum = weights.sum(-1)
    of_reference = _weighted_sum(weights, differences)
    own_log, expected_log = own_sum.log(), expected_sum.log()
    # log q - log p is a difference of logits, and of the two logarithms in every column alike.
    apart = expected_log - own_log
    return (
        own_log - own_true,
        -of_reference / expected_sum - apart,
        of_cell / own_sum + apart,
        own_true.exp() / own_sum - expected_true.exp() / expected_sum,
        expected_sum.reciprocal(),
    )


def _weighted_sum(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Sum of each row of values times its weights, which are overwritten; no weight counts nothing.

    Nothing times infinity is no number, and is passed over. In a row of logits with one that is no
    number all weights are none, and so is their sum.
    """
    return weights.mul_(values).nansum(-1)


def _blocks(logits: torch.Tensor) -> list[slice]:
    """Rows of logits (n, vocabulary) that are taken to fp64 together."""
    return slices(0, len(logits), block_rows(logits.shape[1], logits.device.type))


def slices(first: int, end: int, length: int) -> list[slice]:
    """Places from `first` up to `end`, at most `length` at once."""
    return [slice(at, min(at + length, end)) for at in range(first, end, length)]
