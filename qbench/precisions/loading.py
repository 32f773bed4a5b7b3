"""Loading a checkpoint folder through transformers, the same way for every precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils.quantization_config import QuantizationConfigMixin

TORCH_DTYPE = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Names of torch's types by qbench's names."""


def load_pretrained(
    folder: str,
    *,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    quantization: QuantizationConfigMixin | None = None,
) -> PreTrainedModel:
    """Loads a causal language model from a local folder, safetensors only, in eval mode.

    `dtype` is `fp32`, `bf16` or `fp16`: the type of everything that is not quantized. The whole
    model goes to one device, so that no layer is silently offloaded. Raises `ModelError` for a
    checkpoint that lacks tensors of the model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    arguments: dict[str, Any] = {}
    if quantization is not None:
        arguments["quantization_config"] = quantization
    model: PreTrainedModel
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder,
        output_loading_info=True,
        dtype=getattr(torch, TORCH_DTYPE[dtype]),
        device_map={"": device},
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        local_files_only=True,
        **arguments,
    )
    unusable = sorted({*loading["missing_keys"], *map(str, loading["mismatched_keys"])})
    if unusable:
        raise ModelError(
            f"{folder}: the checkpoint does not hold {', '.join(unusable[:3])}"
            f"{' …' if len(unusable) > 3 else ''} ({len(unusable)} tensors) as"
            f" {type(model).__name__} needs them, which would be filled with random numbers;"
            " use a checkpoint that matches its config.json"
        )
    model.eval()
    model.requires_grad_(requires_grad=False)
    return model
