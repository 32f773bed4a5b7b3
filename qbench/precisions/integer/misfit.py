"""What of an integer format does not go with a model, known before anything is loaded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qbench.core.errors import TextError
from qbench.precisions.integer.text import window_tokens

if TYPE_CHECKING:
    from collections.abc import Collection

    from qbench.core.spec import ResolvedModel
    from qbench.precisions.integer.options import IntegerOptions


def integer_misfit(options: IntegerOptions, model: ResolvedModel) -> str | None:
    """Why the model cannot be held in the format; None if it can."""
    if options.calibrates:
        try:
            window_tokens(options, model.context_tokens)
        except TextError as error:
            return str(error)
    if options.group is None or model.shape is None:
        return None
    widths = {tensor.in_features for tensor in model.shape.tensors if tensor.role == "linear"}
    if any(width % options.group == 0 for width in widths):
        return None
    return no_layer_fits(options.group, widths)


def no_layer_fits(group: int | None, widths: Collection[int]) -> str:
    """What to say of a group that divides none of the widths."""
    return (
        f"group {group} divides the width of no linear layer"
        f" ({', '.join(map(str, sorted(widths)))}): nothing would be quantized;"
        f" {fitting_group(widths)}"
    )


def fitting_group(widths: Collection[int]) -> str:
    """Which groups would divide all of the widths."""
    common = math.gcd(*widths)
    if common == 1:
        return "no group fits every layer; set granularity: channel"
    return f"set a group that divides {common}, or granularity: channel, to quantize every layer"
