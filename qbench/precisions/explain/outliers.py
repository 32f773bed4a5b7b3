"""LLM.int8()'s outlier columns shown on made-up activations, quantized by bitsandbytes."""

from __future__ import annotations

from qbench.core.page import words_table
from qbench.precisions.explain.sections import Section, section

OUTLIER = 60.0
"""The one large activation: sizes that trained models have in a few columns."""
_SEED = 0


def outlier_section(width: int, threshold: float) -> Section:
    """What one outlier does to a token's other activations, with the threshold and without."""
    rows = tuple(
        (
            words,
            f"{step:.4g}",
            f"{100 * relative:.3g} %",
            "in 16 bits" if apart else "in 8 bits",
        )
        for words, at in _cases(threshold)
        for step, relative, apart in (outlier_effect(width, at),)
    )
    return section(
        title="Outlier columns: activations are rounded to 8 bits as well, with a scale a token",
        lines=(
            _rule(threshold),
            (
                "they meet the same weights, dequantized to 16 bits for it: outliers cost time, and"
                " no memory"
            ),
            f"one token of {width} normally distributed activations, one of them {OUTLIER:g}:",
        ),
        table=words_table(
            ("threshold", "step", "error of the others", "the outlier"), rows, right=(1, 2)
        ),
        notes=(
            (
                "Made-up activations: which columns are outliers depends on the text, not on this"
                " tensor."
            ),
        ),
    )


def outlier_effect(width: int, threshold: float) -> tuple[float, float, bool]:
    """The step of a token's scale, the relative error of all but its outlier, and whether the
    outlier was left out.
    """  # noqa: D205 - three results, told in one sentence
    import torch
    from bitsandbytes.functional import int8_vectorwise_quant

    activations = torch.randn(1, width, generator=torch.Generator().manual_seed(_SEED))
    activations = activations.clamp(-5, 5).half()
    place = width // 2
    activations[0, place] = OUTLIER
    codes, scales, columns = int8_vectorwise_quant(activations.clone(), threshold=threshold)
    others = torch.arange(width) != place
    step = float(scales[0]) / 127
    held, before = codes[0, others].double() * step, activations[0, others].double()
    relative = float((held - before).norm() / before.norm())
    return step, relative, columns is not None and place in columns.tolist()


def _cases(threshold: float) -> tuple[tuple[str, float], ...]:
    without = ("0: turned off", 0.0)
    return (without, (f"{threshold:g}", threshold)) if threshold else (without,)


def _rule(threshold: float) -> str:
    if not threshold:
        return "`threshold: 0` turns it off: no column is left in 16 bits"
    return (
        f"columns of the activations with a size of {threshold:g} or more (option `threshold`; 0"
        " turns it off) are left in 16 bits"
    )
