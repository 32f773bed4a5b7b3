"""The error that a format makes on a tensor: its weights against what the format holds of them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.page import words_table
from qbench.precisions.explain.sections import Section, section

if TYPE_CHECKING:
    import torch

    from qbench.precisions.explain.weights import Weight

_CHUNK = 1 << 24
"""Weights whose errors are summed at once, in fp64."""


@dataclass(frozen=True)
class ErrorFigures:
    """How far the held weights are from the original ones; None comes with a reason."""

    weights: int
    rms: float | None
    largest: float | None
    relative: float | None
    """Frobenius norm of the error over that of the weights."""
    snr_db: float | None
    """10 · log10(sum of squared weights / sum of squared errors)."""
    zeros: int
    """Weights held as exactly 0."""
    zeros_before: int
    overflowed: int
    """Weights held as infinity or not a number."""
    reason: str | None = None
    """Why a figure is None."""

    def plain(self) -> dict[str, Any]:
        """By name, for programs."""
        return asdict(self)


def error_figures(original: torch.Tensor, held: torch.Tensor) -> ErrorFigures:
    """Figures of two tensors of one shape, summed in fp64. `original` must be finite."""
    signal = noise = largest = 0.0
    zeros = zeros_before = overflowed = 0
    flat_before, flat_after = original.reshape(-1), held.reshape(-1)
    for start in range(0, flat_before.numel(), _CHUNK):
        before, after = (flat[start : start + _CHUNK] for flat in (flat_before, flat_after))
        error = after.double() - before.double()
        signal += float(before.double().square().sum())
        noise += float(error.square().sum())
        largest = max(largest, float(error.abs().max()))
        zeros += int((after == 0).sum())
        zeros_before += int((before == 0).sum())
        overflowed += int((~after.isfinite()).sum())
    weights = original.numel()
    rms: float | None = math.sqrt(noise / weights)
    relative = math.sqrt(noise / signal) if signal else None
    measurable = bool(signal and noise and not overflowed)
    snr_db = 10 * math.log10(signal / noise) if measurable else None
    reason = None
    if overflowed:
        rms = relative = None
        reason = f"{overflowed:,} weights become infinite or not a number"
    elif not signal:
        reason = "all weights are 0"
    elif not noise:
        reason = "there is no error"
    return ErrorFigures(
        weights=weights,
        rms=rms,
        largest=None if overflowed else largest,
        relative=relative,
        snr_db=snr_db,
        zeros=zeros,
        zeros_before=zeros_before,
        overflowed=overflowed,
        reason=reason,
    )


def error_section(
    weight: Weight, figures: ErrorFigures, *, levels: tuple[str, str], notes: tuple[str, ...]
) -> Section:
    """The figures as a table; `levels` are how many are used, and what is counted as one."""
    largest = float(weight.values.abs().max())
    missing = f"none: {figures.reason}"

    def shown(value: float | None, unit: str = "") -> str:
        return missing if value is None else f"{value:.4g}{unit}"

    zeros, before = (
        f"{100 * count / figures.weights:.3g} %" for count in (figures.zeros, figures.zeros_before)
    )
    rows = [
        ("RMS error", shown(figures.rms), "root of the mean squared error of a weight"),
        ("largest error", shown(figures.largest), "of a single weight"),
        ("relative error", shown(figures.relative), "norm of the errors over norm of the weights"),
        ("signal to noise", shown(figures.snr_db, " dB"), "10·log10(Σ weights² / Σ errors²)"),
        ("exact zeros", zeros, f"share of the weights held as 0; {before} in the file"),
        ("levels used", *levels),
    ]
    outside = (
        (
            "This is no linear layer's weight: the quantized precisions leave it as it is. The"
            " figures show what the format would do to it."
        ),
    )
    return section(
        title=f"The error it makes on {weight.name}",
        lines=(
            (
                f"{weight.model}, {'×'.join(map(str, weight.values.shape))} weights, stored in"
                f" {weight.stored}, RMS {weight.rms:.4g}, largest {largest:.4g}"
            ),
        ),
        table=words_table(("figure", "value", "meaning"), tuple(rows), right=(1,)),
        notes=notes if weight.linear else (*notes, *outside),
    )
