"""A linear layer that dequantizes torchao's codes and rounds its inputs, where no kernel does."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn


def emulate(
    layer: nn.Linear, round_inputs: Callable[[torch.Tensor], torch.Tensor] | None
) -> nn.Linear:
    """A layer with the same codes and bias; `round_inputs` takes and gives (rows, inputs)."""
    made: nn.Linear = _layer_class()(layer, round_inputs)
    return made


@cache
def _layer_class() -> Any:
    """The layer; made when it is first needed, since planning must not import torch."""
    from torch import nn

    class EmulatedLinear(nn.Linear):
        """Multiplies in floating point what codes say, weights and inputs."""

        def __init__(self, coded: nn.Linear, round_inputs: Any) -> None:
            super().__init__(coded.in_features, coded.out_features, bias=False, device="meta")
            self.weight = coded.weight
            self.bias = coded.bias
            self.round_inputs = round_inputs

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            """As a linear layer with rounded inputs."""
            if self.round_inputs is not None:
                rows = inputs.reshape(-1, self.in_features)
                inputs = self.round_inputs(rows).reshape(inputs.shape)
            held: Any = self.weight
            return nn.functional.linear(inputs, held.dequantize(), self.bias)

    return EmulatedLinear
