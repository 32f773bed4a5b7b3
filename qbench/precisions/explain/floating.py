"""fp32, bf16 and fp16 explained: fields, range, spacing, and a weight's bits taken apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qbench.core.number_types import torch_type
from qbench.core.page import Page, words_table
from qbench.core.picture import histogram_figures, picture_of
from qbench.precisions.explain.errors_made import error_figures, error_section
from qbench.precisions.explain.formats import FORMATS
from qbench.precisions.explain.sections import Section, joined, section

if TYPE_CHECKING:
    import torch

    from qbench.core.page import Picture
    from qbench.precisions.explain.errors_made import ErrorFigures
    from qbench.precisions.explain.formats import FloatFormat
    from qbench.precisions.explain.weights import Weight

_QUANTILES = {"small (10 % are smaller)": 0.1, "median": 0.5, "large (10 % are larger)": 0.9}
_SAMPLE = 1 << 20
"""Weights that quantiles are taken from; torch sorts no more than 2^24 of them."""


def explain(name: str, weight: Weight) -> Page:
    """Explains a floating format by a weight that torch rounds to it."""
    kind = FORMATS[name]
    held = weight.values.to(torch_type(name))
    error = error_figures(weight.values, held)
    picture = _picture(weight.values)
    return Page(
        title=f"{name}: a floating format of {kind.bits} bits",
        parts=joined(
            _format(kind),
            _one_weight(kind, weight, held),
            _spacing(kind, weight.values),
            _error(kind, weight, held, error),
            _pictured(kind, picture),
        ),
        data={
            "bits_per_weight": {"code": kind.bits, "scales": 0, "stored": float(kind.bits)},
            "format": {
                "sign_bits": 1,
                "exponent_bits": kind.exponent_bits,
                "mantissa_bits": kind.mantissa_bits,
                "exponent_bias": kind.bias,
                "largest": kind.largest,
                "smallest_normal": kind.smallest_normal,
                "smallest_subnormal": kind.smallest_subnormal,
                "epsilon": kind.epsilon,
                "finite_values": kind.finite_values,
            },
            "error": error.plain(),
            "histogram": histogram_figures(picture),
        },
    )


def bit_pattern(value: torch.Tensor) -> int:
    """The bits of one element of a floating tensor, as an unsigned number."""
    import torch

    bits = 8 * value.element_size()
    signed = value.reshape(1).view(torch.int32 if bits == 32 else torch.int16)
    return int(signed) % (1 << bits)


def _format(kind: FloatFormat) -> Section:
    exponent, mantissa = kind.exponent_bits, kind.mantissa_bits
    top = (1 << exponent) - 1
    rows = (
        ("sign", "1 bit", "0 is +, 1 is -"),
        ("exponent", f"{exponent} bits", f"a field of 0 to {top}, less the bias of {kind.bias}"),
        ("mantissa", f"{mantissa} bits", "stored; a normal number has a 1 before them"),
        ("bits a weight", f"{kind.bits}", f"1 + {exponent} + {mantissa}"),
        ("largest", f"{kind.largest:.6g}", f"(2 - 2^-{mantissa}) · 2^{kind.bias}"),
        ("smallest normal", f"{kind.smallest_normal:.6g}", f"2^{1 - kind.bias}"),
        (
            "smallest subnormal",
            f"{kind.smallest_subnormal:.6g}",
            f"2^{1 - kind.bias - mantissa}: exponent field 0, no 1 before the mantissa",
        ),
        ("machine epsilon", f"{kind.epsilon:.6g}", f"2^-{mantissa}: from 1 to the next number"),
        (
            "largest rounding",
            f"{100 * kind.epsilon / 2:.3g} %",
            f"of a normal number: half of 2^-{mantissa}",
        ),
    )
    return section(
        title="How it holds a number",
        lines=(
            (
                f"(-1)^sign · 2^(exponent - {kind.bias}) · (1 + mantissa / 2^{mantissa});"
                f" an exponent field of {top} means infinity or not a number"
            ),
        ),
        table=words_table(("part", "value", "meaning"), rows, right=(1,)),
    )


def _one_weight(kind: FloatFormat, weight: Weight, held: torch.Tensor) -> Section:
    row, column = weight.typical()
    stored = float(weight.values[row, column])
    parts = kind.take_apart(bit_pattern(held[row, column]))
    title = "One weight taken apart"
    place = f"Row {row}, column {column}: the file has {stored:.9g}, a weight of typical size."
    if parts.exponent == (1 << kind.exponent_bits) - 1:
        return section(title, lines=(place, f"It is beyond the range: {parts.written} is infinity"))
    rows = (
        ("sign", f"{parts.sign}", "-" if parts.sign else "+"),
        ("exponent", f"{parts.exponent}", f"2^{parts.power}"),
        ("mantissa", f"{parts.mantissa}", f"{parts.significand:.9g}"),
        ("number", parts.written, f"{parts.value:.9g}"),
        ("error", "", f"{parts.value - stored:.3g}"),
    )
    return section(
        title, lines=(place,), table=words_table(("part", "bits", "stands for"), rows, (1, 2))
    )


def _spacing(kind: FloatFormat, values: torch.Tensor) -> Section:
    sizes = values.abs().reshape(-1)
    sample = sizes[:: math.ceil(sizes.numel() / _SAMPLE)]
    chosen = {words: float(sample.quantile(at)) for words, at in _QUANTILES.items()}
    chosen["largest"] = float(sizes.max())
    rows = tuple(
        (
            words,
            f"{size:.4g}",
            f"{kind.spacing(size):.4g}",
            f"{100 * kind.spacing(size) / 2 / size:.3g} %" if size else "none: the weight is 0",
        )
        for words, size in chosen.items()
    )
    small = int(((sizes < kind.smallest_normal) & (sizes > 0)).sum())
    return section(
        title="Spacing of the numbers around the weights",
        table=words_table(("weight", "size", "spacing", "most rounding"), rows, right=(1, 2, 3)),
        notes=(
            (
                f"{small:,} of {sizes.numel():,} weights are below the smallest normal number,"
                " where the spacing no longer shrinks."
            ),
        ),
    )


def _error(kind: FloatFormat, weight: Weight, held: torch.Tensor, error: ErrorFigures) -> Section:
    import torch

    used = int(torch.unique(held.float()).numel())
    return error_section(
        weight,
        error,
        levels=(f"{used:,}", f"different numbers, of {kind.finite_values:,} that are finite"),
        notes=(f"Rounded by torch, to nearest, ties to even, from {weight.stored}.",),
    )


def _picture(values: torch.Tensor) -> Picture | None:
    """The weights with powers of two marked; None where all are 0."""
    high = float(values.abs().max())
    if not high:
        return None
    powers = [math.ldexp(1.0, math.frexp(high)[1] - 1 - down) for down in range(6)]
    places = [sign * power for power in powers for sign in (-1, 1)]
    return picture_of(values, -high, high, places)


def _pictured(kind: FloatFormat, picture: Picture | None) -> Section:
    title = "The weights"
    if picture is None:
        return section(title, notes=("All weights are 0: there is nothing to draw.",))
    return section(
        title=title,
        picture=picture,
        notes=(
            (
                "▲ marks powers of two: from one to the next the spacing of"
                f" {kind.name} doubles, and towards 0 it halves with each."
            ),
        ),
    )
