"""Double quantization explained: the scales of the blocks of a 4-bit format, quantized too.

Dettmers et al. 2023 (QLoRA), arXiv 2305.14314, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import words_table
from qbench.precisions.bnb4bit import BLOCK, NESTED_BLOCK
from qbench.precisions.explain.sections import Section, section
from qbench.precisions.layer_probe import relative_error

if TYPE_CHECKING:
    from qbench.precisions.explain.bnb4bit_codes import FourBitCodes


def double_quant_section(quantized: FourBitCodes, block: int) -> Section:
    """Both stages, and the absmax of one block through them; empty where it is not used."""
    nested = quantized.nested
    if nested is None:
        return ()
    absmax, scale = float(quantized.absmax[block]), float(quantized.scales[block])
    code, own = int(nested.codes[block]), float(nested.absmax[block // NESTED_BLOCK])
    rows = (
        (f"absmax of block {block}", f"{absmax:.6g}", "stage 1: fp32, one a block"),
        ("offset", f"{nested.offset:.6g}", "the mean of all absmax, one fp32 a layer"),
        ("less the offset", f"{absmax - nested.offset:.6g}", "now of both signs"),
        ("absmax of its group", f"{own:.6g}", f"stage 2: fp32, one a group of {NESTED_BLOCK}"),
        ("code", f"{code}", f"{code:08b}: level {nested.levels[code]:.6g}"),
        ("held as", f"{scale:.6g}", "level · group's absmax + offset"),
        ("error", f"{scale - absmax:.3g}", ""),
    )
    relative = relative_error(quantized.scales, quantized.absmax)
    return section(
        title="Double quantization: the scales of the blocks, quantized",
        lines=(
            f"stage 1: {quantized.absmax.numel():,} blocks of {BLOCK} weights, an absmax each",
            (
                f"stage 2: {nested.absmax.numel():,} groups of {NESTED_BLOCK} absmax, each coded in"
                f" 8 bits with a code book of their own: {len(nested.levels)} levels from"
                f" {min(nested.levels):.6g} to {max(nested.levels):.6g}, closer towards 0 (a"
                " dynamic floating map)"
            ),
        ),
        table=words_table(("part", "value", "meaning"), rows, right=(1,)),
        notes=(f"It changes the scales by {100 * relative:.2g} % (norm of the changes).",),
    )


def double_quant_figures(quantized: FourBitCodes) -> dict[str, Any] | None:
    """Its constants in numbers; None where it is not used."""
    nested = quantized.nested
    if nested is None:
        return None
    return {
        "nested_block": NESTED_BLOCK,
        "blocks": quantized.absmax.numel(),
        "groups": nested.absmax.numel(),
        "offset": nested.offset,
        "levels": list(nested.levels),
        "relative_change_of_scales": relative_error(quantized.scales, quantized.absmax),
    }
