"""One pass over the windows: each token's loss, and its divergence from the reference.

The body of the model runs once a window; logits exist for `CHUNK_TOKENS` positions at a time, the
reference's beside the cell's. Softmax and sums are in fp64 of fp32 logits, `BLOCK_LOGITS` of them
at a time: of 8 bytes each, they would otherwise be the peak.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qbench.errors import MeasurementError
from qbench.predict.inference import CHUNK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import PreTrainedModel

    from qbench.measures.head import OutputHead
    from qbench.measures.reference_states import Reference
    from qbench.measures.windows import Window

NOISE_TOKENS = 1024
"""The noise floor is taken on the first windows that hold as many tokens."""
BLOCK_LOGITS = 2**18
"""Logits that exist in fp64 at once: 2 MiB, which also keeps them within a CPU's cache."""


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

    The first windows of `NOISE_TOKENS`, in the model's own type: what is below it is jitter.
    """
    import torch

    model = head.model
    own = model.config._attn_implementation  # noqa: SLF001 - there is no public name for it
    other = "sdpa" if own == "eager" else "eager"
    total, tokens = 0.0, 0
    for group in in_groups(windows, batch):
        ids = torch.tensor([window.ids for window in group], device=model.device)
        states = head.states(ids)
        try:
            with attention_kernel(model, other):
                changed = head.states(ids)
        except MeasurementError as error:
            return None, str(error)
        for row, window in enumerate(group):
            for chunk in _slices(window.first_scored - 1, len(window.ids) - 1, CHUNK_TOKENS):
                targets = ids[row, chunk.start + 1 : chunk.stop + 1]
                wanted, found = head.logits(states[row, chunk]), head.logits(changed[row, chunk])
                total += float(_compare(found, wanted, targets, vocabulary).kl.sum())
                tokens += len(targets)
        if tokens >= NOISE_TOKENS:
            break
    return total / tokens, None


@contextmanager
def attention_kernel(model: PreTrainedModel, kernel: str | None) -> Iterator[None]:
    """The model under an attention kernel (None: its own), then under its own again.

    Raises `MeasurementError` for one that it does not have.
    """
    own = model.config._attn_implementation  # noqa: SLF001 - there is no public name for it
    try:
        model.set_attn_implementation(kernel or own)
    except (ValueError, ImportError, NotImplementedError) as error:
        raise MeasurementError(
            f"the model has no attention kernel {kernel}, only {own} ({error})"
        ) from error
    try:
        yield
    finally:
        model.set_attn_implementation(own)


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
    for chunk in _slices(0, len(targets), CHUNK_TOKENS):
        logits = head.logits(states[chunk])
        # One sum tells that all are finite; they are counted one by one only when it is not.
        if not torch.isfinite(logits.sum()):
            scores.nonfinite += int((~torch.isfinite(logits)).sum())
        scores.logits += logits.numel()
        if reference is None:
            nll += _loss(logits, targets[chunk])
            continue
        wanted = reference.logits(start + chunk.start, states[chunk])
        found = _compare(logits, wanted, targets[chunk], vocabulary)
        padded = logits.shape[1] > vocabulary
        nll += _loss(logits, targets[chunk]) if padded else found.loss
        scores.token_kl.append(found.kl.cpu())
        kl += float(found.kl.sum())
        same += found.same_top
        squared += found.squared_change
    scores.nll.append(nll)
    if reference is not None:
        scores.kl.append(kl)
        scores.same_top.append(float(same))
        scores.squared_change.append(squared)


def _loss(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Summed negative log-likelihood of targets (n,) under logits (n, columns), in nats."""
    from torch.nn.functional import cross_entropy

    return sum(
        float(cross_entropy(logits[block].double(), targets[block], reduction="sum"))
        for block in _blocks(logits)
    )


@dataclass(frozen=True)
class _Compared:
    """What one chunk of positions gives against the reference."""

    loss: float
    """Summed negative log-likelihood of the true tokens, in nats."""
    kl: torch.Tensor
    """KL(reference ‖ cell) of each position, (n,), in fp64 nats."""
    same_top: int
    """Positions with the same most likely token."""
    squared_change: float
    """Summed squared change of the true token's probability."""


def _compare(
    logits: torch.Tensor, wanted: torch.Tensor, targets: torch.Tensor, vocabulary: int
) -> _Compared:
    """Holds logits (n, columns) against the reference's, the first `vocabulary` columns of both."""
    import torch

    logits, wanted = logits[:, :vocabulary], wanted[:, :vocabulary]
    same = int((logits.argmax(1) == wanted.argmax(1)).sum())
    kl, loss, squared = [], 0.0, 0.0
    for block in _blocks(logits):
        own = logits[block].double().log_softmax(-1)
        expected = wanted[block].double().log_softmax(-1)
        true = targets[block, None]
        likelihood = own.gather(1, true)
        loss -= float(likelihood.sum())
        squared += float((likelihood.exp() - expected.gather(1, true).exp()).square().sum())
        own.sub_(expected).neg_()
        kl.append(_expectation(expected.exp_(), own))
    return _Compared(loss, torch.cat(kl), same, squared)


def _expectation(probabilities: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Mean of each row of values under its row of probabilities; what has none counts nothing."""
    import torch

    sums: torch.Tensor = torch.linalg.vecdot(probabilities, values)
    if sums.isfinite().all():
        return sums
    return (probabilities * values).where(probabilities > 0, 0.0).sum(-1)


def _blocks(logits: torch.Tensor) -> list[slice]:
    """Rows of logits (n, vocabulary) that are taken to fp64 together."""
    return _slices(0, len(logits), max(1, BLOCK_LOGITS // logits.shape[1]))


def _slices(first: int, end: int, length: int) -> list[slice]:
    return [slice(at, min(at + length, end)) for at in range(first, end, length)]


def in_groups(windows: list[Window], batch: int) -> list[list[Window]]:
    """Neighbouring windows of equal length, at most `batch` together, in the text's order."""
    groups: list[list[Window]] = []
    for window in windows:
        if groups and len(groups[-1]) < batch and len(groups[-1][0].ids) == len(window.ids):
            groups[-1].append(window)
        else:
            groups.append([window])
    return groups
