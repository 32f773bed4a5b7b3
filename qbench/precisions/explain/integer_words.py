"""What is said of an integer format: its grid, its activations, how its codes were chosen here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.number_types import ITEM_BYTES
from qbench.core.page import words_table
from qbench.precisions.explain.sections import Section, section

if TYPE_CHECKING:
    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.integer.options import IntegerOptions

_BITS_LISTED = 4
"""The codes of wider formats are too many for a table."""
_GPTQ = (
    "GPTQ chooses the codes of this format by a calibration text, so that they make up for each"
    " other's errors; one tensor alone is rounded to nearest here, which has the smaller error in a"
    " weight and the larger one in the layer's output."
)
_SMOOTHQUANT = (
    "SmoothQuant first multiplies the weights' columns by factors from a calibration text, and"
    " divides the activations by them; one tensor alone is rounded without them here."
)
_AWQ = (
    "AWQ first multiplies the weights' columns by factors from a calibration text, larger where the"
    " inputs are large, multiplies the inputs by their reciprocals, and clips a group's largest"
    " weights where the outputs gain by it; one tensor alone is rounded without them here."
)
_AUTOROUND = (
    "AutoRound rounds each weight up or down, and narrows the range of each group, as a tuning on a"
    " calibration text finds best for the outputs of a whole block; one tensor alone is rounded to"
    " nearest here."
)
_HOW_CHOSEN = {
    "rtn": (),
    "gptq": (_GPTQ,),
    "awq": (_AWQ,),
    "autoround": (_AUTOROUND,),
    "smoothquant": (_SMOOTHQUANT,),
}


def shared_by(options: IntegerOptions) -> str:
    """What has one scale."""
    if options.granularity == "tensor":
        return "the whole weight"
    return "each row" if options.group is None else f"{options.group} weights of a row"


def beside_weights(options: IntegerOptions) -> str:
    """What else is kept with the codes of a layer, as a continued sentence."""
    static = ", one of 32 bits for the activations" if options.activations == "static" else ""
    bits = {"smoothquant": 32, "awq": 8 * ITEM_BYTES[options.dtype]}.get(options.weights)
    return static if bits is None else f"{static}, a factor of {bits} bits a column"


def grid_section(options: IntegerOptions, counts: list[int]) -> Section:
    """The formulas, and the codes with the weights that have them where there are few."""
    limit, steps = 2 ** (options.bits - 1), 2**options.bits - 1
    rule: tuple[str, ...]
    if options.scales == "hqq":
        rule = (
            f"scale: from absmax / {limit} on, in up to 20 steps, the one with the least squared",
            "error for codes at the nearest levels (torchao's HQQ_SCALE_ONLY); the zero point is 0",
        )
    elif options.mapping == "symmetric":
        rule = (
            (
                f"scale = 2 · absmax / {steps}, where absmax is the largest size in the group; the"
                " zero point is 0"
            ),
        )
    else:
        rule = (
            f"scale = (max - min) / {steps} of the group, the range widened to hold 0",
            f"zero point = {-limit} - round(min / scale), the code that stands for 0 exactly",
        )
    total = sum(counts)
    rows = tuple(
        (f"{code}", f"{code % 2**options.bits:0{options.bits}b}", f"{100 * count / total:.2f} %")
        for code, count in enumerate(counts, start=-limit)
    )
    few = options.bits <= _BITS_LISTED
    return section(
        title="How it holds a weight",
        lines=(
            f"what shares one scale: {shared_by(options)}",
            *rule,
            f"code = round(weight / scale) + zero point, kept within {-limit} and {limit - 1}",
            "weight = (code - zero point) · scale: even steps, 0 among them",
        ),
        table=words_table(("code", "bits", "share of the weights"), rows, right=(0, 2))
        if few
        else None,
        notes=(_top_is_clipped(limit),)
        if (options.mapping, options.scales) == ("symmetric", "minmax")
        else (),
    )


def activations_section(options: IntegerOptions) -> Section:
    """How the inputs of the layer are rounded; empty where they are left alone."""
    if options.activations == "none":
        return ()
    lines = {
        "dynamic": "each token has a scale of its own, found as it comes",
        "static": "all have one scale a layer, found beforehand on a calibration text"
        f" (`calibration_method: {options.calibration_method}`); what lies beyond it is clipped",
    }
    kernel = (
        "symmetric; codes are multiplied as integers and summed in 32 bits"
        if options.uses_int8_kernel
        else f"asymmetric; rounded, then multiplied in {options.dtype}: 8 bits are simulated"
    )
    return section(
        title="Activations are rounded to 8 bits as well",
        lines=(lines[options.activations], kernel, "they take no bits of the weights"),
    )


def remarks(weight: Weight, options: IntegerOptions) -> tuple[str, ...]:
    """How the weights came to be what they are held as."""
    return (
        (
            f"As it is loaded: {weight.stored} in the file, rounded to {options.dtype} (option"
            " `dtype`), quantized and dequantized by torchao on the CPU."
        ),
        *_HOW_CHOSEN[options.weights],
    )


def _top_is_clipped(limit: int) -> str:
    return (
        f"absmax lies {limit - 0.5:g} scales from 0, half a step beyond the highest code"
        f" {limit - 1}, which it is held as; -absmax has a code on either side."
    )
