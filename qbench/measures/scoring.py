"""One pass over the windows: each token's loss, and its divergence from the reference.

The body of the model runs once a window; logits exist for `CHUNK_TOKENS` positions at a time, the
reference's beside the cell's. Softmax and sums are in fp64 of fp32 logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qbench.measures.head import CHUNK_TOKENS, OutputHead

if TYPE_CHECKING:
    import torch

    from qbench.measures.reference_states import Reference
    from qbench.measures.windows import Window

NOISE_WINDOWS = 16
"""Windows that the noise floor is taken on."""


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
    token_kl: list[torch.Tensor] = field(default_factory=list)
    """KL of each token, in the text's order, a tensor a chunk."""
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

    `vocabulary` is the tokenizer's size: columns beyond it pad the model's head and are left out
    of the divergence.
    """
    import torch

    scores = Scores()
    start = 0
    for group in in_groups(windows, batch):
        ids = torch.tensor([window.ids for window in group], device=head.model.device)
        states = head.states(ids)
        for row, window in enumerate(group):
            first = window.first_scored
            _add_window(
                scores, head, states[row, first - 1 : -1], ids[row, first:],
                vocabulary=vocabulary, reference=reference, start=start,
            )  # fmt: skip
            start += window.scored
    return scores


def noise_floor(
    head: OutputHead, windows: list[Window], batch: int, vocabulary: int
) -> tuple[float | None, str | None]:
    """Mean KL of the model against itself under the plain attention kernel, or why there is none.

    The first `NOISE_WINDOWS` windows, in the model's own type: what is below it is jitter.
    """
    import torch

    model = head.model
    own = model.config._attn_implementation  # noqa: SLF001 - there is no public name for it
    other = "sdpa" if own == "eager" else "eager"
    total, tokens = 0.0, 0
    for group in in_groups(windows[:NOISE_WINDOWS], batch):
        ids = torch.tensor([window.ids for window in group], device=model.device)
        states = head.states(ids)
        try:
            model.set_attn_implementation(other)
            changed = head.states(ids)
        except (ValueError, ImportError, NotImplementedError) as error:
            return None, f"the model has no other attention kernel than {own} ({error})"
        finally:
            model.set_attn_implementation(own)
        for row, window in enumerate(group):
            for chunk in _chunks(window.first_scored - 1, len(window.ids) - 1):
                kl = _divergence(
                    log_probabilities(head.logits(states[row, chunk])[:, :vocabulary]),
                    log_probabilities(head.logits(changed[row, chunk])[:, :vocabulary]),
                )
                total += float(kl.sum())
                tokens += len(kl)
    return total / tokens, None


def _add_window(
    scores: Scores,
    head: OutputHead,
    states: torch.Tensor,
    targets: torch.Tensor,
    *,
    vocabulary: int,
    reference: Reference | None,
    start: int,
) -> None:
    """Adds one window: states (n, hidden) that predict targets (n,), from scored token `start`."""
    import torch

    nll = kl = squared = 0.0
    same = 0
    for chunk in _chunks(0, len(targets)):
        logits = head.logits(states[chunk])
        # One sum tells that all are finite; they are counted one by one only when it is not.
        if not torch.isfinite(logits.sum()):
            scores.nonfinite += int((~torch.isfinite(logits)).sum())
        scores.logits += logits.numel()
        own = log_probabilities(logits)
        true = targets[chunk, None]
        nll -= float(own.gather(1, true).sum())
        if reference is None:
            continue
        wanted = reference.logits(start + chunk.start, states[chunk])
        if logits.shape[1] > vocabulary:
            logits, wanted = logits[:, :vocabulary], wanted[:, :vocabulary]
            own = log_probabilities(logits)
        expected = log_probabilities(wanted)
        token_kl = _divergence(expected, own)
        scores.token_kl.append(token_kl.cpu())
        kl += float(token_kl.sum())
        same += int((logits.argmax(1) == wanted.argmax(1)).sum())
        change = own.gather(1, true).exp() - expected.gather(1, true).exp()
        squared += float(change.square().sum())
    scores.nll.append(nll)
    if reference is not None:
        scores.kl.append(kl)
        scores.same_top.append(float(same))
        scores.squared_change.append(squared)


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Log-softmax over the last dimension, in fp64."""
    return logits.double().log_softmax(-1)


def _divergence(expected: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """KL(expected ‖ own) of each row of log-probabilities: Σ p (log p - log q), in nats."""
    probabilities = expected.exp()
    return (probabilities * (expected - own)).where(probabilities > 0, 0.0).sum(-1)


def _chunks(first: int, end: int) -> list[slice]:
    return [slice(at, min(at + CHUNK_TOKENS, end)) for at in range(first, end, CHUNK_TOKENS)]


def in_groups(windows: list[Window], batch: int) -> list[list[Window]]:
    """Neighbouring windows of equal length, at most `batch` together, in the text's order."""
    groups: list[list[Window]] = []
    for window in windows:
        if groups and len(groups[-1]) < batch and len(groups[-1][0].ids) == len(window.ids):
            groups[-1].append(window)
        else:
            groups.append([window])
    return groups
