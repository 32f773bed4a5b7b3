"""Integer formats explained: an even grid of codes, scale and zero point, shared by a group.

Jacob et al. 2018, arXiv 1712.05877; quantized and dequantized by torchao.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.page import Page, words_table
from qbench.core.picture import histogram_figures, picture_of
from qbench.precisions.explain.errors_made import error_figures, error_section
from qbench.precisions.explain.integer_codes import quantize
from qbench.precisions.explain.integer_words import (
    activations_section,
    beside_weights,
    grid_section,
    remarks,
    shared_by,
)
from qbench.precisions.explain.sections import Section, joined, section
from qbench.precisions.explain.stored_bits import stored_bits

if TYPE_CHECKING:
    import torch

    from qbench.core.page import Picture
    from qbench.precisions.explain.integer_codes import IntegerCodes
    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.integer.options import IntegerOptions

_BITS_MARKED = 5
"""Wider codes lie closer than characters."""


def explain(name: str, weight: Weight, chosen: IntegerOptions) -> Page:
    """Explains an integer format by a weight that torchao quantizes."""
    quantized = quantize(weight, chosen)
    counts = _counts(quantized.codes, chosen.bits)
    error = error_figures(weight.values, quantized.held)
    picture = _picture_of(quantized, chosen.bits)
    scales, zero_points = overhead_bits(chosen, quantized)
    stored = stored_bits(name, weight, chosen)
    used = sum(count > 0 for count in counts)
    limit = 2 ** (chosen.bits - 1)
    return Page(
        title=f"{name}: {chosen.bits}-bit integers, {chosen.mapping}, a scale for"
        f" {shared_by(chosen)}{'' if chosen.activations == 'none' else '; 8-bit activations'}",
        parts=joined(
            grid_section(chosen, counts),
            _bits(chosen, quantized, stored),
            _one_weight(weight, chosen, quantized),
            activations_section(chosen),
            error_section(
                weight,
                error,
                levels=(f"{used}", f"different codes, of {2 * limit}"),
                notes=remarks(weight, chosen),
            ),
            _picture(chosen, picture),
        ),
        data={
            "bits_per_weight": {
                "code": chosen.bits,
                "scales": scales,
                "zero_points": zero_points,
                "nominal": chosen.bits + scales + zero_points,
                "stored": stored,
            },
            "format": {
                "lowest_code": -limit,
                "highest_code": limit - 1,
                "weights_by_code": counts,
                "mapping": chosen.mapping,
                "group_weights": quantized.group_weights,
                "groups": quantized.scales.numel(),
                "smallest_scale": float(quantized.scales.min()),
                "largest_scale": float(quantized.scales.max()),
                "lowest_zero_point": int(quantized.zero_points.min()),
                "highest_zero_point": int(quantized.zero_points.max()),
                "activations": chosen.activations,
            },
            "error": error.plain(),
            "histogram": histogram_figures(picture),
        },
    )


def overhead_bits(options: IntegerOptions, quantized: IntegerCodes) -> tuple[float, float]:
    """Bits a weight of scales and of zero points, were these as narrow as the codes.

    A symmetric format needs no zero points.
    """
    shared = quantized.group_weights
    zero_points = options.bits / shared if options.mapping == "asymmetric" else 0.0
    return 8 * quantized.scale_bytes / shared, zero_points


def _counts(codes: torch.Tensor, bits: int) -> list[int]:
    """How many weights have each code, from the lowest to the highest."""
    limit = 2 ** (bits - 1)
    counted = (codes.reshape(-1).long() + limit).bincount(minlength=2 * limit)
    return [int(count) for count in counted.tolist()]


def _bits(options: IntegerOptions, quantized: IntegerCodes, stored: float) -> Section:
    bits, shared = options.bits, quantized.group_weights
    scales, zero_points = overhead_bits(options, quantized)
    scale_bits = 8 * quantized.scale_bytes
    term, words = f"{bits} + {scale_bits} / {shared}", f"the code, and the {scale_bits}-bit scale"
    if zero_points:
        term, words = f"{term} + {bits} / {shared}", f"{words} and the {bits}-bit zero point"
    wide = (
        "torchao keeps every code in a byte of its own, so narrow codes make a model no smaller"
        " here: what the nominal bits save takes kernels that unpack them"
    )
    return section(
        title="Bits a weight",
        lines=(
            f"nominal: {term} = {bits + scales + zero_points:.6g}: {words} of {shared:,} weights",
            (
                f"in memory: {stored:.6g}: 8 bits for the code, for {shared:,} weights a scale of"
                f" {scale_bits} bits and a zero point of 8{beside_weights(options)}"
            ),
            *((wide,) if bits < 8 else ()),
        ),
    )


def _one_weight(weight: Weight, options: IntegerOptions, quantized: IntegerCodes) -> Section:
    row, column = weight.typical()
    group = quantized.group_of(row, column)
    around = quantized.group_values(group)
    value, taken = float(weight.values[row, column]), float(quantized.loaded[row, column])
    scale, zero_point = float(quantized.scales[group]), int(quantized.zero_points[group])
    code, held = int(quantized.codes[row, column]), float(quantized.held[row, column])
    steps = 2**options.bits - 1
    low, high = min(float(around.min()), 0.0), max(float(around.max()), 0.0)
    if options.mapping == "symmetric":
        absmax = max(-low, high)
        start = ("2 · absmax / steps", f"{2 * absmax / steps:.6g}", f"{steps} steps between codes")
        if options.scales == "hqq":
            lowest = 2 ** (options.bits - 1)
            start = (f"absmax / {lowest}", f"{absmax / lowest:.6g}", "where its search begins")
        limits: tuple[tuple[str, str, str], ...] = (
            ("absmax of the group", f"{absmax:.6g}", "the largest size among its weights"),
            start,
        )
    else:
        limits = (
            ("least of the group", f"{low:.6g}", "0 at the most"),
            ("largest of the group", f"{high:.6g}", "0 at the least"),
            ("range / steps", f"{(high - low) / steps:.6g}", f"{steps} steps between the codes"),
            ("zero point", f"{zero_point}", "lowest code - round(least / scale)"),
        )
    short = (("rounded", f"{taken:.6g}", "to the type it is loaded in"),) if taken != value else ()
    pattern = f"{code % 2**options.bits:0{options.bits}b}"
    rows = (
        ("weight", f"{value:.6g}", "a weight of typical size"),
        *short,
        *limits,
        ("scale", f"{scale:.6g}", f"as held, in {8 * quantized.scale_bytes} bits"),
        ("code", f"{code}", f"{pattern} in two's complement"),
        ("held as", f"{held:.6g}", "(code - zero point) · scale"),
        ("error", f"{held - value:.3g}", ""),
    )
    scales = quantized.scales
    spread = (
        f"The {scales.numel():,} scales: smallest {float(scales.min()):.4g}, median"
        f" {float(scales.median()):.4g}, largest {float(scales.max()):.4g}."
    )
    return section(
        title=f"One weight: row {row}, column {column}",
        table=words_table(("part", "value", "meaning"), rows, right=(1,)),
        notes=(spread,) if scales.numel() > 1 else (),
    )


def _picture_of(quantized: IntegerCodes, bits: int) -> Picture:
    """The weights in units of their group's step, where the codes are whole numbers."""
    limit = 2 ** (bits - 1)
    # A group of zeros may have a scale of about 0.
    steps = quantized.loaded / quantized.spread(quantized.scales).clamp(min=1e-38)
    places = steps + quantized.spread(quantized.zero_points.float())
    marks = range(-limit, limit) if bits <= _BITS_MARKED else ()
    return picture_of(places, -limit - 0.5, limit + 0.5, map(float, marks))


def _picture(options: IntegerOptions, picture: Picture) -> Section:
    limit = 2 ** (options.bits - 1)
    shift = ", moved by its zero point," if options.mapping == "asymmetric" else ""
    grid = f"every whole number from {-limit} to {limit - 1}"
    return section(
        title=f"The weights, each over its scale{shift} and the codes",
        picture=picture,
        notes=(f"▲ marks the codes: {grid}." if picture.marks else f"The codes are {grid}.",),
    )
