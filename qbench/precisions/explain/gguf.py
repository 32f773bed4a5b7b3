"""GGUF's block formats explained: a block taken apart, one of its weights made again.

The layouts are ggml's (`ggml-common.h`), as `qbench.precisions.gguf.layouts` has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.page import Page, words_table
from qbench.core.picture import histogram_figures, picture_of
from qbench.precisions.explain.errors_made import error_figures, error_section
from qbench.precisions.explain.sections import Section, joined, section
from qbench.precisions.explain.weights import rounded
from qbench.precisions.gguf.mixes import BLOCK, MIXES, fallback
from qbench.sources.models.gguf_types import BY_NAME

if TYPE_CHECKING:
    import torch

    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.gguf.gguf import GgufOptions

_BYTES_A_LINE = 24


def explain(name: str, mix: str, summary: str, weight: Weight, options: GgufOptions) -> Page:
    """Explains a file type of llama.cpp's by a weight that is made into blocks."""
    from qbench.precisions.gguf.layouts import decode
    from qbench.precisions.gguf.quantize import to_blocks

    taken = rounded(weight, options.dtype, "which it is loaded in").float()
    asked = MIXES[mix]
    kind = fallback(asked, taken.shape[1])
    if kind is None:
        return _unfit(f"{name}: {summary}", weight)
    blocks = to_blocks(taken, kind)
    held = decode(blocks, kind)
    error = error_figures(weight.values, held)
    row, column = weight.typical()
    size = BY_NAME[kind]
    block = column // size.weights
    own = blocks[row].view(-1, size.bytes)[block : block + 1]
    limit = float(weight.values.abs().max()) or 1.0
    picture = picture_of(weight.values, -limit, limit)
    different = len(set(held[row, block * size.weights : (block + 1) * size.weights].tolist()))
    return Page(
        title=f"{name}: {summary}",
        parts=joined(
            _bits(mix, asked, kind, taken.shape[1]),
            _one_weight(weight, taken, held, own, kind),
            error_section(
                weight,
                error,
                levels=(f"{different}", f"different values in the block of {size.weights}"),
                notes=(),
            ),
            section("The weights", picture=picture),
        ),
        data={
            "bits_per_weight": {"stored": size.bits},
            "format": {
                "type": kind,
                "block_weights": size.weights,
                "block_bytes": size.bytes,
                "block": own.flatten().tolist(),
            },
            "error": error.plain(),
            "histogram": histogram_figures(picture),
        },
    )


def _unfit(title: str, weight: Weight) -> Page:
    width = weight.values.shape[1]
    words = (
        f"{weight.name} has rows of {width} weights, and no block of GGUF's is shorter than"
        f" {BLOCK}: it stays in the type that it is loaded in."
    )
    return Page(
        title=title,
        parts=section("Bits a weight", (words,)),
        data={"bits_per_weight": {"stored": None}, "reason": words},
    )


def _bits(mix: str, asked: str, kind: str, width: int) -> Section:
    size = BY_NAME[kind]
    lines = [
        (
            f"{size.bits:.6g}: a block of {size.weights} weights takes {size.bytes} bytes, scales"
            " included; it is what a GGUF file holds, and what a layer here keeps"
        )
    ]
    if kind != asked:
        lines.append(
            f"{asked} holds rows that are multiples of {BY_NAME[asked].weights}; this one has"
            f" {width}, so llama.cpp takes {kind}"
        )
    if mix.upper() != kind:
        lines.append(
            f"{mix.upper()} is a mixture: most matrices are {asked}, some have more bits by their"
            " name and layer; `pure: true` leaves that out"
        )
    return section("Bits a weight", lines)


def _one_weight(
    weight: Weight, taken: torch.Tensor, held: torch.Tensor, block: torch.Tensor, kind: str
) -> Section:
    from qbench.precisions.gguf.layouts import LAYOUTS, constants_of, read

    layout, size = LAYOUTS[kind], BY_NAME[kind]
    row, column = weight.typical()
    place = column % size.weights
    value, own = float(weight.values[row, column]), float(taken[row, column])
    code = int(read(block, layout.codes)[0, place])
    scale, minimum, steps, floors = constants_of(block, kind)
    part = place // (size.weights // max(1, steps.shape[1]))
    rows = [("weight", f"{value:.6g}", "a weight of typical size")]
    if own != value:
        rows.append(("rounded", f"{own:.6g}", "to the type it is loaded in"))
    rows.append(("scale of the block", f"{float(scale):.6g}", _scale_words(kind)))
    formula = "scale · "
    if layout.steps:
        rows.append(("step of its part", f"{int(steps[0, part])}", f"part {part} of the block"))
        formula += "step · "
    if layout.table:
        rows.append(("entry of the table", f"{layout.table[code]}", f"of code {code}"))
        formula += "entry"
    else:
        bits = sum(field.bits for field in layout.codes)
        shown = code - 256 if layout.signed and code > 127 else code - layout.offset
        less = f", less {layout.offset}" if layout.offset else ""
        rows.append(("code", f"{shown}", f"{code:0{bits}b} in the block{less}"))
        formula += "code"
    if layout.floors:
        rows.append(("minimum of the block", f"{float(minimum):.6g}", "fp16"))
        rows.append(("floor of its part", f"{int(floors[0, part])}", f"part {part} of the block"))
        formula += " - minimum · floor"
    elif layout.minimum_at is not None:
        rows.append(("minimum of the block", f"{float(minimum):.6g}", "fp16"))
        formula += " + minimum"
    made = float(held[row, column])
    rows += [("held as", f"{made:.6g}", formula), ("error", f"{made - value:.3g}", "")]
    return section(
        f"One weight: row {row}, column {column}",
        lines=(f"its block, byte by byte: {_hexadecimal(block)}",),
        table=words_table(("part", "value", "meaning"), tuple(rows), right=(1,)),
    )


def _scale_words(kind: str) -> str:
    return "half of 2^(first byte - 127)" if kind == "MXFP4" else "fp16"


def _hexadecimal(block: torch.Tensor) -> str:
    numbers = [f"{number:02x}" for number in block.flatten().tolist()]
    more = f" … ({len(numbers)} bytes)" if len(numbers) > _BYTES_A_LINE else ""
    return " ".join(numbers[:_BYTES_A_LINE]) + more
