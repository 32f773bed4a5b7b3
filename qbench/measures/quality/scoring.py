"""One pass over the windows: each token's loss, and its divergence from the reference.

The body of the model runs once a window; logits exist for `CHUNK_TOKENS` positions at a time, the
reference's beside the cell's. Softmax and sums are in fp64 of fp32 logits, a block of them at a
time (`block_rows`): of 8 bytes each, they would otherwise be the peak.

Sums stay on the device until all windows are done: a GPU that is asked for a number waits for all
that was begun, and has nothing to do while the next is being prepared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qbench.core.errors import MeasurementError, NonFiniteError
from qbench.measures.attention import (
    EAGER,
    SDPA,
    attention_kernel,
    own_kernel,
    watching_attention,
)
from qbench.predict.inference import CHUNK_TOKENS, block_rows

if TYPE_CHECKING:
    import torch

    from qbench.measures.quality.head import OutputHead
    from qbench.measures.quality.reference_states import Reference
    from qbench.measures.quality.windows import Window

ROUNDING_TOKENS = 1024
"""The share of rounding is taken on the first windows that hold as many tokens."""

LARGEST_MEAN_LOSS = 700.0
"""Nats a token beyond which exp() has no finite value."""


@dataclass
class Scores:
    """Sums by window, and the divergence of each scored token."""

    nll: list[float] = field(default_factory=list)
    """Summed negative log-likelihood of each window, in nats."""
    kl: list[float] = field(default_factory=list)
    """Summed KL(reference ‖ cell) of each window, in nats; empty without a reference."""
    same_top: list[float] = field(default_factory=list)
    """Tokens of each window with the same most likely next token, the lowest id of tied ones."""
    squared_change: list[float] = field(default_factory=list)
    """Summed squared change of the true token's probability of each window."""
    token_kl: torch.Tensor | None = None
    """KL of each token, (scored tokens,), in the text's order; None without a reference."""
    token_nll: torch.Tensor | None = None
    """Negative log-likelihood of each, in the same order; None where nothing was scored."""
    nonfinite: int = 0
    logits: int = 0


def score_windows(
    head: OutputHead,
    windows: list[Window],
    batch: int,
    vocabulary: int,
    reference: Reference | None,
) -> Scores:
    """Scores all windows, in the text's order, `batch` of equal length at once.

    `vocabulary` is one more than the tokenizer's highest id: columns beyond it pad the model's head
    and are left out of the divergence.
    """
    sums: list[torch.Tensor] = []
    token_kl: list[torch.Tensor] = []
    token_nll: list[torch.Tensor] = []
    logits = start = 0
    for group in in_groups(windows, batch):
        ids = ids_of(group, head.model.device)
        states = head.states(ids)
        targets = ids.to(head.device)
        for row, window in enumerate(group):
            first = window.first_scored
            found = _score_window(
                head, states[row, first - 1 : -1], targets[row, first:],
                vocabulary=vocabulary, reference=reference, start=start,
            )  # fmt: skip
            sums.append(found.sums)
            token_kl += found.token_kl
            token_nll += found.token_nll
            logits += found.logits
            start += window.scored
    return _gather(sums, token_kl, token_nll, logits)


def check_losses(scores: Scores, tokens: int) -> None:
    """Raises `NonFiniteError` where the mean loss of so many tokens has no finite exponential."""
    mean = math.fsum(scores.nll) / tokens
    if not mean < LARGEST_MEAN_LOSS:
        bad = sum(not math.isfinite(loss) for loss in scores.nll)
        raise NonFiniteError(
            f"the loss of {bad} of {len(scores.nll)} windows is not finite, the mean loss is"
            f" {mean:.4g} nats a token, and {scores.nonfinite / scores.logits:.2%} of the logits"
            " are not finite"
        )


def rounding_kl(
    head: OutputHead, windows: list[Window], batch: int, vocabulary: int
) -> tuple[float | None, str | None]:
    """Mean KL that rounding alone makes in the model's own type, or why it is not known.

    Half of the KL between the model under its own attention kernel and under another, on the first
    windows of `ROUNDING_TOKENS`. To second order a KL is half the variance, under p, of what the
    log-probabilities differ by; two runs that round independently differ by the rounding of both,
    so half of it is that of one: what the model's KL from exact arithmetic has of rounding.
    """
    import torch

    model = head.model
    other = SDPA if own_kernel(model) == EAGER else EAGER
    total, tokens = torch.zeros((), dtype=torch.float64, device=head.device), 0
    for group in in_groups(windows, batch):
        ids = ids_of(group, model.device)
        with watching_attention() as own_ran:
            states = head.states(ids)
        try:
            with attention_kernel(model, other), watching_attention() as other_ran:
                changed = head.states(ids)
        except MeasurementError as error:
            return None, str(error)
        if own_ran == other_ran:
            ran = ", ".join(sorted(own_ran)) or "none"
            return None, f"the attention kernel that runs is {ran}, whichever is asked for"
        for row, window in enumerate(group):
            for chunk in _slices(window.first_scored - 1, len(window.ids) - 1, CHUNK_TOKENS):
                targets = ids[row, chunk.start + 1 : chunk.stop + 1].to(head.device)
                wanted, found = head.logits(states[row, chunk]), head.logits(changed[row, chunk])
                total += _compare(found, wanted, targets, vocabulary).kl.sum()
                tokens += len(targets)
        if tokens >= ROUNDING_TOKENS:
            break
    return float(total) / tokens / 2, None


@dataclass(frozen=True)
class _Window:
    """What one window gives, still on the device."""

    sums: torch.Tensor
    """(5,), fp64: nll, kl, same_top, squared_change and nonfinite, as in `Scores`."""
    token_kl: list[torch.Tensor]
    """KL of each position, a tensor a chunk; empty without a reference."""
    token_nll: list[torch.Tensor]
    """Loss of each position, a tensor a chunk."""
    logits: int


def _score_window(
    head: OutputHead,
    states: torch.Tensor,
    targets: torch.Tensor,
    *,
    vocabulary: int,
    reference: Reference | None,
    start: int,
) -> _Window:
    """Scores states (n, hidden) that predict targets (n,), the first of them token `start`."""
    import torch

    nll, kl, same, squared, nonfinite = torch.zeros(5, dtype=torch.float64, device=targets.device)
    token_kl: list[torch.Tensor] = []
    token_nll: list[torch.Tensor] = []
    counted = 0
    for chunk in _slices(0, len(targets), CHUNK_TOKENS):
        logits = head.logits(states[chunk])
        nonfinite = nonfinite + _nonfinite(logits)
        counted += logits.numel()
        if reference is None:
            token_nll.append(_losses(logits, targets[chunk]))
            nll = nll + token_nll[-1].sum()
            continue
        wanted = reference.logits(start + chunk.start, states[chunk])
        found = _compare(logits, wanted, targets[chunk], vocabulary)
        padded = logits.shape[1] > vocabulary
        token_nll.append(_losses(logits, targets[chunk]) if padded else found.losses)
        nll = nll + token_nll[-1].sum()
        token_kl.append(found.kl)
        kl = kl + found.kl.sum()
        same = same + found.same_top
        squared = squared + found.squared_change
    sums = torch.stack([nll, kl, same, squared, nonfinite])
    return _Window(sums, token_kl, token_nll, counted)


def _gather(
    sums: list[torch.Tensor],
    token_kl: list[torch.Tensor],
    token_nll: list[torch.Tensor],
    logits: int,
) -> Scores:
    """Asks the device for all that it has summed up, once."""
    import torch

    nll, kl, same, squared, nonfinite = torch.stack(sums, dim=1).tolist()
    scores = Scores(nll=nll, nonfinite=int(sum(nonfinite)), logits=logits)
    scores.token_nll = torch.cat(token_nll).cpu()
    if token_kl:
        scores.kl, scores.same_top, scores.squared_change = kl, same, squared
        scores.token_kl = torch.cat(token_kl).cpu()
    return scores


def _nonfinite(logits: torch.Tensor) -> torch.Tensor:
    """How many of the logits are infinite or not a number."""
    import torch

    # What is finite less itself is zero, all else is no number, which is not zero.
    blocks = (logits[block] for block in _blocks(logits))
    return torch.stack([torch.count_nonzero(block - block) for block in blocks]).sum()


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood, (n,), of targets (n,) under logits (n, columns), in nats."""
    import torch
    from torch.nn.functional import cross_entropy

    losses = [
        cross_entropy(logits[block].double(), targets[block], reduction="none")
        for block in _blocks(logits)
    ]
    return torch.cat(losses)


@dataclass(frozen=True)
class _Compared:
    """What one chunk of positions gives against the reference, in fp64."""

    losses: torch.Tensor
    """Negative log-likelihood of each true token, (n,), in nats."""
    kl: torch.Tensor
    """KL(reference ‖ cell) of each position, (n,), in fp64 nats."""
    same_top: torch.Tensor
    """Positions with the same most likely token."""
    squared_change: torch.Tensor
    """Summed squared change of the true token's probability."""


def _compare(
    logits: torch.Tensor, wanted: torch.Tensor, targets: torch.Tensor, vocabulary: int
) -> _Compared:
    """Holds logits (n, columns) against the reference's, the first `vocabulary` columns of both."""
    import torch

    logits, wanted = logits[:, :vocabulary], wanted[:, :vocabulary]
    same = (logits.argmax(1) == wanted.argmax(1)).sum()
    kl, losses = [], []
    squared = torch.zeros((), dtype=torch.float64, device=logits.device)
    for block in _blocks(logits):
        own = logits[block].double().log_softmax(-1)
        expected = wanted[block].double().log_softmax(-1)
        true = targets[block, None]
        likelihood = own.gather(1, true)
        losses.append(-likelihood[:, 0])
        change = likelihood.exp() - expected.gather(1, true).exp()
        squared = squared + change.square().sum()
        own.sub_(expected).neg_()
        kl.append(_expectation(expected.exp_(), own))
    return _Compared(torch.cat(losses), torch.cat(kl), same, squared)


def _expectation(probabilities: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Mean of each row of values under its row of probabilities; what has none counts nothing.

    Both are overwritten.
    """
    values.mul_(probabilities)
    # Nothing times infinity is no number.
    return values.masked_fill_(probabilities == 0, 0.0).sum(-1)


def _blocks(logits: torch.Tensor) -> list[slice]:
    """Rows of logits (n, vocabulary) that are taken to fp64 together."""
    return _slices(0, len(logits), block_rows(logits.shape[1], logits.device.type))


def _slices(first: int, end: int, length: int) -> list[slice]:
    return [slice(at, min(at + length, end)) for at in range(first, end, length)]


def ids_of(group: list[Window], device: torch.device) -> torch.Tensor:
    """The token ids of windows of equal length, (windows, tokens), on a device."""
    import torch

    # Copied beside the computing: `torch.tensor(…, device=…)` would wait for the device.
    return torch.tensor([window.ids for window in group]).to(device, non_blocking=True)


def in_groups(windows: list[Window], batch: int) -> list[list[Window]]:
    """Neighbouring windows of equal length, at most `batch` together, in the text's order."""
    groups: list[list[Window]] = []
    for window in windows:
        if groups and len(groups[-1]) < batch and len(groups[-1][0].ids) == len(window.ids):
            groups[-1].append(window)
        else:
            groups.append([window])
    return groups
