"""Number types, by the names that options, records and rates call them.

A precision that holds all weights in one floating type is called like it; a name in code means
the type wherever it comes from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from qbench.core.aliases import AlsoValues

if TYPE_CHECKING:
    import torch

FP32: Final = "fp32"
BF16: Final = "bf16"
FP16: Final = "fp16"
INT8: Final = "int8"

FloatType = Literal["bf16", "fp16", "fp32"]
"""What weights, activations and sums of a model are in, in the order that messages show."""
NumberType = Literal["fp32", "bf16", "fp16", "int8"]
"""What products are taken in."""
AutocastType = Literal["bf16", "fp32"]
"""What torch's autocast casts to; fp32 for none."""
MasterType = Literal["fp32", "bf16"]
"""What weights are kept in while all of them are trained."""
TorchNames = AlsoValues(
    {
        f"{module}{name}": own
        for name, own in (("float32", FP32), ("bfloat16", BF16), ("float16", FP16))
        for module in ("", "torch.")
    }
)
"""Of an option that names a floating type: torch's names for it."""
FloatOption = Annotated[FloatType, TorchNames]

ITEM_BYTES: dict[str, int] = {FP32: 4, BF16: 2, FP16: 2}
"""Bytes an element of each floating type."""
TORCH_NAMES: dict[str, str] = {FP32: "float32", BF16: "bfloat16", FP16: "float16", INT8: "int8"}
"""What torch calls each of them."""
_OWN_NAMES: dict[str, FloatType] = {"float32": FP32, "bfloat16": BF16, "float16": FP16}


def float_type(torch_name: str) -> FloatType | None:
    """The floating type that torch calls `torch.bfloat16`, or `bfloat16`; None for any other."""
    return _OWN_NAMES.get(torch_name.removeprefix("torch."))


def torch_type(name: str) -> torch.dtype:
    """The type of torch's that qbench calls `fp32`, `bf16`, `fp16` or `int8`."""
    import torch

    found: torch.dtype = getattr(torch, TORCH_NAMES[name])
    return found
