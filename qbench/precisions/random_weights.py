"""A model with random weights, made on its device and quantized weight by weight as it is made.

transformers builds the model without data; each weight is then filled and, where the precision asks
for it, quantized by the operation that it would meet when a checkpoint is loaded. So never more
than one layer is there unquantized, and a model that fits in 4 bits can be made where it would not
fit in 16. Each weight follows from the seed and its own name: the same in every precision of the
same type, whatever the order.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from qbench.precisions.placement import EVERY_GPU, device_of, dispatch, plan_placement
from qbench.sources.models.random_models import SEED
from qbench.sources.shapes.meta import stays_in_fp32

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from qbench.core.checkpoint import Checkpoint

_DEFAULT_SPREAD = 0.02
"""Standard deviation of a matrix's elements where the configuration states none."""


def make_random(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    quantization: QuantizationConfigMixin | None = None,
) -> PreTrainedModel:
    """The model of the folder's config.json, frozen, in eval mode.

    `dtype` is the type of everything that is not quantized. Matrices are normally distributed as
    the configuration says (`initializer_range`), biases zero, and other vectors one.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.quantizers import AutoHfQuantizer

    device, trust_remote_code = checkpoint.device, checkpoint.trust_remote_code
    config = AutoConfig.from_pretrained(
        str(checkpoint.folder), trust_remote_code=trust_remote_code, local_files_only=True
    )
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    # Before layers are replaced: as they would stand in a checkpoint, shared ones under each name.
    stored = dict(model.named_parameters(remove_duplicate=False))
    quantizer = None
    if quantization is not None:
        quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
        quantizer.preprocess_model(model=model, dtype=dtype, device_map={"": device})
    placement = plan_placement(model, quantizer) if device == EVERY_GPU else {"": device}
    make_buffers(model, placement)
    made: dict[int, torch.nn.Parameter] = {}
    for name, weight in stored.items():
        if id(weight) in made:
            _place(model, name, made[id(weight)])
            continue
        own = torch.float32 if stays_in_fp32(model, name, dtype) else weight.dtype
        values = _values(name, weight, own, device_of(name, placement), _spread(config))
        if quantizer is not None and quantizer.param_needs_quantization(model, name):
            operation = quantizer.get_quantize_ops()
            converted = operation.convert({name: values}, model=model, full_layer_name=name)
            for own_name, quantized in converted.items():
                _place(model, own_name, quantized)
            del converted
        else:
            made[id(weight)] = torch.nn.Parameter(values, requires_grad=False)
            _place(model, name, made[id(weight)])
        del values  # or it would live until the next one is made
    if quantizer is not None:
        model.hf_quantizer = quantizer
        quantizer.postprocess_model(model)
    if device == EVERY_GPU:
        dispatch(model, placement)
    model.eval()
    model.requires_grad_(requires_grad=False)
    return model


def make_buffers(model: PreTrainedModel, placement: dict[str, Any]) -> None:
    """Puts the buffers on their devices, computed as the model's own initialisation does."""
    import torch

    with torch.no_grad():
        for module_name, module in model.named_modules():
            buffers = dict(module.named_buffers(recurse=False))
            for name, buffer in buffers.items():
                full_name = f"{module_name}.{name}"
                made = torch.zeros_like(
                    buffer,
                    device=device_of(full_name, placement),
                    dtype=torch.float32
                    if stays_in_fp32(model, full_name, buffer.dtype)
                    else buffer.dtype,
                )
                module._buffers[name] = made  # noqa: SLF001 - no public way keeps whether it is saved
            if buffers:
                model._init_weights(module)  # noqa: SLF001 - what transformers calls for this


def _values(
    name: str, weight: torch.Tensor, dtype: torch.dtype, device: torch.device, spread: float
) -> torch.Tensor:
    """What a weight of that name holds."""
    import torch

    values = torch.empty(weight.shape, dtype=dtype, device=device)
    if weight.dim() > 1:
        generator = torch.Generator(device).manual_seed(SEED + zlib.crc32(name.encode()))
        return values.normal_(0.0, spread, generator=generator)
    return values.fill_(0.0 if name.endswith("bias") else 1.0)


def _spread(config: Any) -> float:
    stated = getattr(config, "initializer_range", None)
    return float(stated) if stated else _DEFAULT_SPREAD


def _place(model: PreTrainedModel, name: str, weight: torch.nn.Parameter) -> None:
    """Puts a parameter where its name says."""
    place, _, own_name = name.rpartition(".")
    model.get_submodule(place)._parameters[own_name] = weight  # noqa: SLF001 - as transformers does
