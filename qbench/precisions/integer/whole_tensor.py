"""One scale for a whole weight at any width, which torchao's own configurations do not offer.

Its tensor of unpacked codes takes a block of any shape, its configuration an output row at most;
so this configuration hands it the whole weight as one block.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def one_scale_config(weight_dtype: torch.dtype, mapping_type: Any) -> Any:
    """The configuration for codes of a type and one of torchao's mappings."""
    return _config_class()(weight_dtype, mapping_type)


@cache
def _config_class() -> Any:
    """The class of the configuration, made known to torchao: its base can only be imported late."""
    import torch
    from torchao.core.config import AOBaseConfig
    from torchao.quantization import IntxUnpackedToInt8Tensor
    from torchao.quantization.transform_module import register_quantize_module_handler

    base: Any = AOBaseConfig

    class OneScaleConfig(base):  # type: ignore[misc]  # torchao is not typed
        """Weights alone, quantized with one scale a weight."""

        def __init__(self, weight_dtype: torch.dtype, mapping_type: Any) -> None:
            self.weight_dtype = weight_dtype
            self.mapping_type = mapping_type

    def quantize(module: Any, config: OneScaleConfig) -> Any:
        codes = IntxUnpackedToInt8Tensor.from_hp(
            module.weight,
            tuple(module.weight.shape),
            config.weight_dtype,
            mapping_type=config.mapping_type,
        )
        module.weight = torch.nn.Parameter(codes, requires_grad=False)
        return module

    register_quantize_module_handler(OneScaleConfig)(quantize)
    return OneScaleConfig
