"""The options of the precisions whose weights are floating-point codes."""

from __future__ import annotations

from typing import Annotated, Literal

from qbench.core.aliases import Also
from qbench.core.number_types import FloatOption
from qbench.core.spec import Frozen


class FloatingCodesOptions(Frozen):
    """What all of them have."""

    dtype: Annotated[FloatOption, Also("torch_dtype")] = "bf16"
    """Type of what is not quantized (embeddings, head, norms, activations), and of the dequantized
    weights and their products."""


class Fp8Options(FloatingCodesOptions):
    """Options of `fp8`."""

    granularity: Literal["row", "tensor"] = "row"
    """What shares one scale of 32 bits: an output row, or the whole weight."""
