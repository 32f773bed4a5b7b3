"""LLM.int8() explained: a scale a row, 255 levels, and outlier columns of the activations.

Dettmers et al. 2022, arXiv 2208.07339; quantized and dequantized by bitsandbytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.page import Page, words_table
from qbench.core.picture import WIDTH, histogram_figures, picture_of
from qbench.precisions.explain.errors_made import error_figures, error_section
from qbench.precisions.explain.outliers import outlier_section
from qbench.precisions.explain.sections import Section, joined, section
from qbench.precisions.explain.stored_bits import stored_bits
from qbench.precisions.explain.weights import rounded

if TYPE_CHECKING:
    import torch

    from qbench.core.page import Picture
    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.int8 import Int8Options

LARGEST_CODE = 127
LEVELS = 2 * LARGEST_CODE + 1
"""-127 to 127: -128 is never used, so that the grid is symmetric."""


def explain(weight: Weight, options: Int8Options) -> Page:
    """Explains int8 by a weight that bitsandbytes quantizes."""
    import torch
    from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant

    loaded = rounded(weight, options.dtype, "which it is loaded in (option `dtype`)").float()
    half = rounded(weight, "fp16", "which bitsandbytes rounds weights to")
    codes, scales, _ = int8_vectorwise_quant(loaded.to(half.dtype))
    error = error_figures(weight.values, int8_vectorwise_dequant(codes, scales))
    # A row of zeros has the scale 0.
    picture = picture_of(loaded / scales.clamp(min=1e-38)[:, None], -1, 1)
    stored = stored_bits("int8", weight, options)
    return Page(
        title="int8: LLM.int8(), even steps of a row's largest weight",
        parts=joined(
            _format(),
            _bits(weight, stored),
            _one_row(weight, codes, scales),
            outlier_section(weight.values.shape[1], options.threshold),
            error_section(
                weight,
                error,
                levels=(f"{int(torch.unique(codes).numel())}", f"different codes, of {LEVELS}"),
                notes=(
                    (
                        f"As it is loaded: {weight.stored} in the file, rounded to"
                        f" {options.dtype} (option `dtype`), quantized and dequantized by"
                        " bitsandbytes on the CPU."
                    ),
                ),
            ),
            _picture(picture),
        ),
        data={
            "bits_per_weight": {
                "code": 8,
                "scales": bits_per_weight(weight.values.shape[1]) - 8,
                "stored": stored,
            },
            "format": {
                "lowest_code": -LARGEST_CODE,
                "highest_code": LARGEST_CODE,
                "scale_per": "row",
                "smallest_absmax": float(scales.min()),
                "largest_absmax": float(scales.max()),
                "threshold": options.threshold,
            },
            "error": error.plain(),
            "histogram": histogram_figures(picture),
        },
    )


def bits_per_weight(row_weights: int) -> float:
    """8 bits for the code, and the row's fp32 scale shared by its weights."""
    return 8 + 32 / row_weights


def _format() -> Section:
    return section(
        title="How it holds a weight",
        lines=(
            "absmax of a row = its largest size, in fp32; one row is one output feature",
            f"code = round(weight · {LARGEST_CODE} / absmax), a whole number of 8 bits",
            f"weight = code · absmax / {LARGEST_CODE}",
            (
                f"{LEVELS} levels, -{LARGEST_CODE} to {LARGEST_CODE} in even steps, 0 among them"
                " exactly; -128 is not used"
            ),
            "bitsandbytes rounds the weights to fp16 before it takes the absmax",
        ),
    )


def _bits(weight: Weight, stored: float) -> Section:
    rows, width = weight.values.shape
    return section(
        title="Bits a weight",
        lines=(
            (
                f"8 + 32 / {width} = {bits_per_weight(width):.6g}: the code, and one fp32 scale for"
                f" the {width} weights of a row"
            ),
            (
                f"in memory: {rows * width:,} B of codes and {4 * rows:,} B of scales,"
                f" {stored:.6g} bits a weight"
            ),
        ),
    )


def _one_row(weight: Weight, codes: torch.Tensor, scales: torch.Tensor) -> Section:
    row, column = weight.typical()
    value, scale, code = (
        float(x) for x in (weight.values[row, column], scales[row], codes[row, column])
    )
    held = code * scale / LARGEST_CODE
    rows = (
        ("absmax of the row", f"{scale:.6g}", "fp32"),
        ("step", f"{scale / LARGEST_CODE:.6g}", f"absmax / {LARGEST_CODE}"),
        ("weight", f"{value:.6g}", f"column {column}, a weight of typical size"),
        ("code", f"{code:.0f}", f"{int(code) % 256:08b} in two's complement"),
        ("held as", f"{held:.6g}", f"code · absmax / {LARGEST_CODE}"),
        ("error", f"{held - value:.3g}", "at most half a step, and the rounding before it"),
    )
    return section(
        title=f"One weight of row {row}",
        table=words_table(("part", "value", "meaning"), rows, right=(1,)),
        notes=(
            (
                f"The absmax of the {scales.numel()} rows: smallest {float(scales.min()):.4g},"
                f" median {float(scales.median()):.4g}, largest {float(scales.max()):.4g}. One"
                " large weight widens the steps of its whole row, and of no other."
            ),
        ),
    )


def _picture(picture: Picture) -> Section:
    return section(
        title="The weights, each over its row's absmax",
        picture=picture,
        notes=(
            (
                f"The {LEVELS} levels lie evenly from -1 to 1, about {LEVELS / WIDTH:.0f} under"
                f" each character of a picture of {WIDTH}."
            ),
        ),
    )
