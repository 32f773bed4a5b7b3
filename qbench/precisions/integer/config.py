"""torchao's configuration for an integer format: what `torchao.quantization.quantize_` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchao.core.config import AOBaseConfig

    from qbench.precisions.integer.options import IntegerOptions


def torchao_config(options: IntegerOptions) -> AOBaseConfig:
    """The configuration that quantizes one linear layer's weight to nearest levels.

    Of the three below, the first two are what torchao trains for (`QATConfig`):

        weights alone           IntxWeightOnlyConfig; a whole tensor's scale: `one_scale_config`
        dynamic, simulated      Int8DynamicActivationIntxWeightConfig: activations are asymmetric,
                                a scale a token, rounded and multiplied in floating point
        dynamic, int8 products  Int8DynamicActivationInt8WeightConfig: activations are symmetric

    Static activations have the last one's weights; their scales come layer by layer, from
    calibration. GPTQ and SmoothQuant choose other codes for the same format.
    """
    import torch
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8DynamicActivationIntxWeightConfig,
        IntxWeightOnlyConfig,
        MappingType,
        PerAxis,
        PerGroup,
        PerRow,
        PerTensor,
    )
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

    if options.uses_int8_kernel:
        over = PerTensor() if options.granularity == "tensor" else PerRow()
        return Int8DynamicActivationInt8WeightConfig(
            granularity=[PerRow(), over], set_inductor_config=False
        )
    mapping = MappingType[options.mapping.upper()]
    code: Any = getattr(torch, f"int{options.bits}")
    if options.granularity == "tensor":
        from qbench.precisions.integer.whole_tensor import one_scale_config

        return one_scale_config(code, mapping)
    granularity = PerAxis(0) if options.group is None else PerGroup(options.group)
    chosen = IntxChooseQParamsAlgorithm["HQQ_SCALE_ONLY" if options.scales == "hqq" else "AFFINE"]
    if options.activations == "dynamic":
        return Int8DynamicActivationIntxWeightConfig(
            weight_dtype=code,
            weight_granularity=granularity,
            weight_mapping_type=mapping,
            intx_choose_qparams_algorithm=chosen,
        )
    return IntxWeightOnlyConfig(
        weight_dtype=code,
        granularity=granularity,
        mapping_type=mapping,
        intx_choose_qparams_algorithm=chosen,
    )
