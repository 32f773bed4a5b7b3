"""The options of the precisions whose weights are floating-point codes."""

from __future__ import annotations

from typing import Annotated, Literal

from qbench.core.aliases import Also
from qbench.core.number_types import FloatOption
from qbench.core.spec import Frozen


class FloatingCodesOptions(Frozen):
    """Options of `nvfp4`, which all others have too."""

    activations: Literal["none", "dynamic"] = "none"
    """Inputs of the linear layers: left alone, or rounded to the same format as they come."""
    dtype: Annotated[FloatOption, Also("torch_dtype")] = "bf16"
    """Type of what is not quantized (embeddings, head, norms, activations), and of the dequantized
    weights and their products."""


class Fp8Options(FloatingCodesOptions):
    """Options of `fp8`."""

    granularity: Literal["row", "tensor"] = "row"
    """What shares one scale of 32 bits: an output row (of inputs a token), or the whole weight (all
    inputs)."""


class MxOptions(FloatingCodesOptions):
    """Options of `mxfp8` and `mxfp4`."""

    scaling: Literal["floor", "ceil"] = "ceil"
    """How a block's power of two is chosen: `floor`, as the specification proposes, which cuts off
    what lies above the largest code; `ceil`, as NVIDIA's kernels do, which cuts off nothing."""


class Fp8DynamicOptions(Fp8Options):
    """Options of `fp8-w8a8`."""

    activations: Literal["dynamic"] = "dynamic"
    """Part of fp8-w8a8; for weights alone take fp8."""


class MxDynamicOptions(MxOptions):
    """Options of `mxfp8-w8a8` and `mxfp4-w4a4`."""

    activations: Literal["dynamic"] = "dynamic"
    """Part of the format; for weights alone take mxfp8 or mxfp4."""


class Nvfp4DynamicOptions(FloatingCodesOptions):
    """Options of `nvfp4-w4a4`."""

    activations: Literal["dynamic"] = "dynamic"
    """Part of nvfp4-w4a4; for weights alone take nvfp4."""
