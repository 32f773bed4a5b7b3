"""How the layers of a precision are stored and computed, as far as bytes depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from qbench.finetune.lora import FOUR_BIT
from qbench.precisions.integer.options import SHORT_NAMES, IntegerOptions, is_integer
from qbench.precisions.loading import TORCH_DTYPE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import PrecisionRef
    from qbench.predict.shapes import Floating, Format

UNKNOWN_LAYERS = "how the layers of this precision compute is not known here"
FLOATING = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Formats:
    """Types of one precision."""

    weights: Format
    """What the linear layers are stored as."""
    rest: Floating
    """Type of what is not quantized, and of the activations between layers."""
    compute: Floating
    """Type that 4-bit weights are multiplied in."""
    integer: IntegerOptions | None = None
    """Of integer weights: what shares a scale."""


_SHORT = {name: cast("Floating", own) for own, name in TORCH_DTYPE.items()}


def stored_formats(config: Mapping[str, Any]) -> Formats | None:
    """Those of a checkpoint that bitsandbytes quantized, by its configuration; else None."""
    quantized = config.get("quantization_config") or {}
    rest = _SHORT.get(str(config.get("dtype") or config.get("torch_dtype")))
    stated = str(quantized.get("bnb_4bit_compute_dtype") or "float32").removeprefix("torch.")
    compute = _SHORT.get(stated)
    if rest is None or compute is None:
        return None
    if quantized.get("load_in_8bit"):
        return Formats("int8", rest, rest)
    return Formats("4bit", rest, compute) if quantized.get("load_in_4bit") else None


def read_formats(precision: PrecisionRef) -> Formats | None:
    """The types of a precision; None for one whose layers are not known here."""
    options = precision.options
    if precision.name in FLOATING:
        own = cast("Floating", precision.name)
        return Formats(own, own, own)
    compute = cast("Floating", options.get("compute_dtype") or "bf16")
    rest = cast("Floating", options.get("dtype") or compute)
    if precision.name == "int8":
        return Formats("int8", rest, rest)
    if precision.name in FOUR_BIT:
        return Formats("4bit", rest, compute)
    if is_integer(precision.name):
        fixed = SHORT_NAMES[precision.name][1] if precision.name in SHORT_NAMES else {}
        chosen = IntegerOptions.model_validate({**fixed, **options})
        if chosen.activations == "none":
            return Formats("integer", chosen.dtype, chosen.dtype, chosen)
    return None
