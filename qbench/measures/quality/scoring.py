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
from qbench.measures.quality.comparing import compare_logits, losses_of, nonfinite_count, slices
from qbench.predict.inference import CHUNK_TOKENS

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
    reverse_kl: list[float] = field(default_factory=list)
    """Summed KL(cell ‖ reference) of each window, in nats; infinite where the reference gives no
    probability to a token that the cell gives one."""
    change: list[float] = field(default_factory=list)
    """Summed change of the true token's probability of each window, the cell's less the
    reference's."""
    token_kl: torch.Tensor | None = None
    """KL of each token, (scored tokens,), in the text's order; None without a reference."""
    token_nll: torch.Tensor | None = None
    """Negative log-likelihood of each, in the same order; None where nothing was scored."""
    token_change: torch.Tensor | None = None
    """Change of each true token's probability; None without a reference, as the next two."""
    token_confidence: torch.Tensor | None = None
    """The highest probability that the reference gives to any token in each place."""
    token_same_top: torch.Tensor | None = None
    """1 in each place where both put the same token first, else 0."""
    token_true_top: torch.Tensor | None = None
    """1 in each place where the cell puts the true token first, else 0; None without a
    reference."""
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
    tokens: list[torch.Tensor] = []
    logits = start = 0
    for group in in_groups(windows, batch):
        ids = ids_of(group, head.model.device)
        states = head.window_states(group, ids)
        targets = ids.to(head.device)
        for row, window in enumerate(group):
            first = window.first_scored
            found = _score_window(
                head, states[row, first - 1 : -1], targets[row, first:],
                vocabulary=vocabulary, reference=reference, start=start,
            )  # fmt: skip
            sums.append(found.sums)
            tokens += found.tokens
            logits += found.logits
            start += window.scored
    return _gather(sums, tokens, logits)


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
            states = head.window_states(group, ids)
        try:
            with attention_kernel(model, other), watching_attention() as other_ran:
                changed = head.window_states(group, ids)
        except MeasurementError as error:
            return None, str(error)
        if own_ran == other_ran:
            ran = ", ".join(sorted(own_ran)) or "none"
            return None, f"the attention kernel that runs is {ran}, whichever is asked for"
        for row, window in enumerate(group):
            for chunk in slices(window.first_scored - 1, len(window.ids) - 1, CHUNK_TOKENS):
                targets = ids[row, chunk.start + 1 : chunk.stop + 1].to(head.device)
                wanted, found = head.logits(states[row, chunk]), head.logits(changed[row, chunk])
                total += compare_logits(found, wanted, targets, vocabulary).kl.sum()
                tokens += len(targets)
        if tokens >= ROUNDING_TOKENS:
            break
    return float(total) / tokens / 2, None


@dataclass(frozen=True)
class _Window:
    """What one window gives, still on the device."""

    sums: torch.Tensor
    """(7,), fp64: nonfinite, nll, kl, reverse_kl, same_top, change and squared_change, as in
    `Scores`."""
    tokens: list[torch.Tensor]
    """A tensor a chunk, (6, positions), fp64: nll, kl, change, confidence, same_top and true_top of
    each position; (1, positions) with the first alone without a reference."""
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

    sums = torch.zeros(7, dtype=torch.float64, device=targets.device)
    tokens: list[torch.Tensor] = []
    counted = 0
    for chunk in slices(0, len(targets), CHUNK_TOKENS):
        logits = head.logits(states[chunk])
        sums[0] += nonfinite_count(logits)
        counted += logits.numel()
        if reference is None:
            losses = losses_of(logits, targets[chunk])
            sums[1] += losses.sum()
            tokens.append(losses[None])
            continue
        wanted = reference.logits(start + chunk.start, states[chunk])
        found = compare_logits(logits, wanted, targets[chunk], vocabulary)
        padded = logits.shape[1] > vocabulary
        losses = losses_of(logits, targets[chunk]) if padded else found.losses
        summed = (losses, found.kl, found.reverse_kl, found.same_top, found.change)
        sums[1:] += torch.stack([*(one.sum() for one in summed), found.change.square().sum()])
        told = (found.kl, found.change, found.confidence, found.same_top, found.true_top)
        tokens.append(torch.stack((losses, *told)))
    return _Window(sums, tokens, counted)


def _gather(sums: list[torch.Tensor], tokens: list[torch.Tensor], logits: int) -> Scores:
    """Asks the device for all that it has summed up, once."""
    import torch

    nonfinite, nll, kl, reverse, same, change, squared = torch.stack(sums, dim=1).tolist()
    scores = Scores(nll=nll, nonfinite=int(sum(nonfinite)), logits=logits)
    scores.token_nll, *compared = torch.cat(tokens, dim=1).cpu()
    if compared:
        scores.kl, scores.reverse_kl, scores.same_top = kl, reverse, same
        scores.change, scores.squared_change = change, squared
        scores.token_kl, scores.token_change = compared[:2]
        scores.token_confidence, scores.token_same_top, scores.token_true_top = compared[2:]
    return scores


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
