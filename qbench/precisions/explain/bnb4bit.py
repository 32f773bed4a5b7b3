"""fp4, nf4 and nf4-dq explained: sixteen levels, blocks of 64, and double quantization.

Dettmers et al. 2023 (QLoRA), arXiv 2305.14314; quantized and dequantized by bitsandbytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.number_types import torch_type
from qbench.core.page import Page, words_table
from qbench.core.picture import WIDTH, column, histogram_figures, picture_of
from qbench.precisions.bnb4bit import BLOCK, NESTED_BLOCK
from qbench.precisions.explain.bnb4bit_codes import quantize
from qbench.precisions.explain.double_quant import double_quant_figures, double_quant_section
from qbench.precisions.explain.errors_made import error_figures, error_section
from qbench.precisions.explain.sections import Section, joined, section
from qbench.precisions.explain.stored_bits import stored_bits
from qbench.precisions.explain.weights import rounded

if TYPE_CHECKING:
    import torch

    from qbench.core.page import Picture
    from qbench.precisions.bnb4bit import FourBitOptions
    from qbench.precisions.explain.bnb4bit_codes import FourBitCodes
    from qbench.precisions.explain.weights import Weight

_WORDS = {
    "fp4": "4-bit floating point: sign, two bits of exponent, one of mantissa",
    "nf4": "4-bit normal float: levels at quantiles of a normal distribution",
    "nf4-dq": "4-bit normal float with its block scales quantized too",
}
_LEVELS_COME_FROM = {
    "fp4": "The levels are bitsandbytes' own, over the largest, 12: its order of the patterns and"
    " its smallest level, 0.0625 / 12, are not those of other formats called FP4.",
    "nf4": "The levels are quantiles Q(p) of a normal distribution over the largest of them: above"
    " 0 at the first 8 of 9 even steps of p from 0.9677 to 0.5, below at the first 7 of 8, and 0"
    " itself. So they stand closest where a normal distribution has most weights.",
}


def explain(name: str, weight: Weight, options: FourBitOptions) -> Page:
    """Explains a 4-bit format by a weight that bitsandbytes quantizes."""
    compute, rest = options.compute_dtype, options.rest
    taken = rounded(weight, rest, "which it is loaded in (option `dtype`)")
    quant_type, double_quant = name.removesuffix("-dq"), name.endswith("-dq")
    quantized = quantize(taken, quant_type, double_quant=double_quant)
    held = quantized.held.to(torch_type(compute))
    error = error_figures(weight.values, held)
    used = sum(count > 0 for count in quantized.counts)
    picture = picture_of(quantized.scaled, -1, 1, sorted(set(quantized.levels)))
    row, place = weight.typical()
    block = (row * weight.values.shape[1] + place) // BLOCK
    stored = stored_bits(name, weight, options)
    return Page(
        title=f"{name}: {_WORDS[name]}",
        parts=joined(
            _format(quant_type, quantized),
            _bits(stored, double_quant=double_quant),
            _one_weight(weight, taken, quantized, held),
            double_quant_section(quantized, block),
            error_section(
                weight,
                error,
                levels=(
                    f"{used}",
                    f"codes, of 16 with {len(set(quantized.levels))} different levels",
                ),
                notes=_remarks(weight, quantized, rest, compute),
            ),
            _picture(picture),
        ),
        data={
            "bits_per_weight": {
                "code": 4,
                "scales": bits_per_weight(double_quant=double_quant) - 4,
                "stored": stored,
            },
            "format": {
                "levels": list(quantized.levels),
                "weights_by_code": list(quantized.counts),
                "block": BLOCK,
                "double_quant": double_quant_figures(quantized),
            },
            "error": error.plain(),
            "kernel_error": quantized.kernel_error,
            "histogram": histogram_figures(picture),
        },
    )


def bits_per_weight(*, double_quant: bool) -> float:
    """The code, and the share of a weight in its block's scale and in the scales' own."""
    if double_quant:
        return 4 + 8 / BLOCK + 32 / (BLOCK * NESTED_BLOCK)
    return 4 + 32 / BLOCK


def _format(quant_type: str, quantized: FourBitCodes) -> Section:
    total = sum(quantized.counts)
    by_level = sorted(zip(quantized.levels, range(16), quantized.counts, strict=True))
    rows = tuple(
        (f"{code}", f"{code:04b}", f"{level:.10g}", f"{100 * count / total:.2f} %")
        for level, code, count in by_level
    )
    return section(
        title="How it holds a weight",
        lines=(
            f"{BLOCK} weights in a row make a block; absmax = the largest size in the block",
            "code = the level that is nearest to weight / absmax",
            "weight = level · absmax",
        ),
        table=words_table(("code", "bits", "level", "share of the weights"), rows, right=(0, 2, 3)),
        notes=(_LEVELS_COME_FROM[quant_type],),
    )


def _bits(stored: float, *, double_quant: bool) -> Section:
    single = bits_per_weight(double_quant=False)
    lines: tuple[str, ...] = (
        f"4 + 32 / {BLOCK} = {single:.4g}: the code, and the fp32 absmax shared by {BLOCK} weights",
    )
    if double_quant:
        double = bits_per_weight(double_quant=True)
        lines = (
            (
                f"4 + 8 / {BLOCK} + 32 / ({BLOCK} · {NESTED_BLOCK}) = {double:.4g}: the code, 8"
                f" bits of absmax a block, and one fp32 a group of {NESTED_BLOCK} blocks"
            ),
            (
                f"the scales take {double - 4:.3f} bits a weight; without double quantization they"
                f" take 32 / {BLOCK} = {single - 4:.3g}: {single - double:.3f} bits are saved"
            ),
        )
    tables = "with the layer's code books" + (" and offset" if double_quant else "")
    real = f"in memory, {tables}: {stored:.5g} bits a weight of this tensor"
    return section(title="Bits a weight", lines=(*lines, real))


def _one_weight(
    weight: Weight, loaded: torch.Tensor, quantized: FourBitCodes, held: torch.Tensor
) -> Section:
    row, place = weight.typical()
    flat = row * weight.values.shape[1] + place
    block, value, taken = flat // BLOCK, *(float(x[row, place]) for x in (weight.values, loaded))
    absmax, scale = float(quantized.absmax[block]), float(quantized.scales[block])
    code, kept = int(quantized.codes[flat]), float(held[row, place])
    short = (("rounded", f"{taken:.6g}", "to the type it is loaded in"),) if taken != value else ()
    decoded = (
        (("absmax as held", f"{scale:.6g}", "decoded from 8 bits"),) if scale != absmax else ()
    )
    rows = (
        ("weight", f"{value:.6g}", "a weight of typical size"),
        *short,
        ("absmax of the block", f"{absmax:.6g}", "the largest size among its weights"),
        *decoded,
        ("weight / absmax", f"{taken / absmax if absmax else 0.0:.6g}", ""),
        ("code", f"{code}", f"{code:04b}: level {quantized.levels[code]:.6g}"),
        ("held as", f"{kept:.6g}", "level · absmax, in the type it is multiplied in"),
        ("error", f"{kept - value:.3g}", ""),
    )
    return section(
        title=f"One weight: row {row}, column {place}, in block {block}",
        table=words_table(("part", "value", "meaning"), rows, right=(1,)),
    )


def _remarks(weight: Weight, quantized: FourBitCodes, rest: str, compute: str) -> tuple[str, ...]:
    types = (
        f"As it is loaded: {weight.stored} in the file, rounded to {rest} (option `dtype`),"
        f" quantized and dequantized by bitsandbytes on the CPU, multiplied in {compute} (option"
        " `compute_dtype`)."
    )
    if quantized.kernel_error is None:
        return (types,)
    width = weight.values.shape[1]
    return (
        types,
        (
            f"bitsandbytes' kernel on the CPU dequantizes rows of {width} weights wrongly (off by"
            f" {100 * quantized.kernel_error:.2g} %): the figures are those of the format, computed"
            " from the codes, not of that kernel."
        ),
    )


def _picture(picture: Picture) -> Section:
    notes = ["▲ marks the levels."]
    if len({column(level, -1, 1, WIDTH) for level in picture.marks}) < len(picture.marks):
        notes.append("Levels closer than a character share a mark.")
    return section(
        title="The weights, each over its block's absmax, and the levels",
        picture=picture,
        notes=(" ".join(notes),),
    )
