"""bf16 on GPUs that do not multiply it, those before Ampere (T4, V100, RTX 20).

torch computes it there all the same: products in fp32, and attention by its definition, with all
scores at once. So what is timed in bf16 says little of what the GPU can do, which fp16 shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.number_types import BF16, FP16
from qbench.finetune import training_options
from qbench.precisions import options_of, products_of
from qbench.predict.devices import device_here

if TYPE_CHECKING:
    from qbench.core.record import Environment
    from qbench.core.spec import Cell, PrecisionRef
    from qbench.predict.devices import DeviceMemory

_TYPES = ("dtype", "compute_dtype")
"""Options of a precision that name a floating type."""


def has_bf16(environment: Environment) -> bool:
    """Whether the device multiplies bf16, or emulates it no worse than other types."""
    found = device_here(
        environment.device,
        0,
        kind=environment.device_type,
        capability=environment.capability,
    )
    return multiplies_bf16(found)


def multiplies_bf16(device: DeviceMemory) -> bool:
    """As `has_bf16`: it came with flash attention."""
    return device.kind != "cuda" or device.flash


def bf16_warning(cell: Cell, environment: Environment) -> str | None:
    """What to know of a cell that computes in bf16 where nothing multiplies it; None for others."""
    if has_bf16(environment):
        return None
    instead = _instead(cell)
    if instead is None:
        return None
    return (
        f"{environment.device} does not multiply bf16, which came with compute capability 8.0:"
        f" torch computes it in fp32, slowly, and attention in it holds all scores; {instead}"
    )


def in_fp16(precision: PrecisionRef) -> PrecisionRef:
    """The precision with fp16 where its options say bf16."""
    changed = dict.fromkeys(_bf16_options(precision), FP16)
    return precision.model_copy(update={"options": {**precision.options, **changed}})


def is_bf16(precision: PrecisionRef) -> bool:
    """Whether the weights themselves are numbers in bf16."""
    products = products_of(precision)
    return products is not None and products.kind == "floating" and products.rest == BF16


def _instead(cell: Cell) -> str | None:
    """What to ask for instead; None where nothing is computed in bf16."""
    training, options = cell.training, _bf16_options(cell.precision)
    if training is not None:
        if training_options(training).compute == BF16:
            return "train with compute: fp32, or on a newer GPU"
        held = is_bf16(cell.precision) or options
        return "train on a base in fp32, or on a newer GPU" if held else None
    if is_bf16(cell.precision):
        return "take the precision fp16"
    return f"set {' and '.join(f'{name}: fp16' for name in options)}" if options else None


def _bf16_options(precision: PrecisionRef) -> list[str]:
    options = options_of(precision)
    return [name for name in _TYPES if getattr(options, name, None) == BF16]
