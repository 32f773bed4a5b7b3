"""torchao's unpacked codes with a factor a column, which the layer's inputs are multiplied by.

Its int8 tensor has such factors (`act_pre_scale`), its tensor of narrower codes has not. AWQ's own
code folds them into the layer before where it knows the model's parts; kept with the codes they
need no knowledge of them, and cost a number a column.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def with_factors(codes: Any, factors: torch.Tensor) -> Any:
    """The same codes, for inputs that are multiplied by the factors, (in,), first."""
    made = scaled_codes_class()
    return made(
        codes.qdata,
        codes.scale,
        codes.zero_point,
        factors,
        codes.target_dtype,
        codes.block_size,
        codes.dtype,
        codes.activation_quantization,
    )


@cache
def scaled_codes_class() -> Any:
    """The class of the tensor: its base can only be imported late."""
    import torch
    from torch.utils import _python_dispatch
    from torchao.quantization import IntxUnpackedToInt8Tensor

    base: Any = IntxUnpackedToInt8Tensor
    as_alias: Any = _python_dispatch.return_and_correct_aliasing

    class ScaledCodes(base):  # type: ignore[misc]  # torchao is not typed
        """Codes and a factor a column."""

        tensor_data_names = [*base.tensor_data_names, "act_pre_scale"]  # noqa: RUF012 - torchao's
        tensor_attribute_names = base.tensor_attribute_names

        def __new__(cls, *parts: Any) -> Any:
            qdata, scale, zero_point, _, *rest = parts
            return base.__new__(cls, qdata, scale, zero_point, *rest)

        def __init__(self, *parts: Any) -> None:
            qdata, scale, zero_point, factors, *rest = parts
            super().__init__(qdata, scale, zero_point, *rest)
            self.act_pre_scale = factors

        def to(self, *where: Any, **how: Any) -> Any:
            return with_factors(super().to(*where, **how), self.act_pre_scale.to(*where, **how))

    linear = torch.nn.functional.linear

    def multiply(_func: Any, _types: Any, args: Any, _kwargs: Any) -> Any:
        inputs, weight = args[0], args[1]
        bias = args[2] if len(args) > 2 else None
        return linear(inputs * weight.act_pre_scale, weight.dequantize(), bias)

    def cut(func: Any, _types: Any, args: Any, kwargs: Any) -> Any:
        whole, dim, *ends = args
        names = (*base.tensor_data_names, *base.tensor_attribute_names)
        part = func(base(*(getattr(whole, name) for name in names)), dim, *ends)
        factors = whole.act_pre_scale if dim == 0 else func(whole.act_pre_scale, 0, *ends)
        return as_alias(func, args, kwargs, with_factors(part, factors))

    ScaledCodes.implements(torch.ops.aten.slice.Tensor)(cut)
    ScaledCodes.implements(torch.ops.aten.linear.default)(multiply)
    ScaledCodes.implements_torch_function(linear)(multiply)
    return ScaledCodes
