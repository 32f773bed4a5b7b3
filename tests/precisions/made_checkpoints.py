"""Small checkpoints that are already quantized: by packages that make them, or by definition."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

BLOCK = 128
LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def write_checkpoint(
    original: Path, folder: Path, tensors: dict[str, torch.Tensor], **quantization: Any
) -> Path:
    """A copy of a model with other tensors, and with what its configuration says of them."""
    shutil.copytree(original, folder)
    held = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def load_original(original: Path) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(original, dtype="auto")
    return model


def make_compressed(original: Path, folder: Path, preset: str) -> Path:
    """As llm-compressor saves it: scales by round-to-nearest, packed by compressed-tensors."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        apply_quantization_config,
        preset_name_to_scheme,
    )

    model = load_original(original)
    scheme = preset_name_to_scheme(preset, ["Linear"])
    if scheme.weights is not None and scheme.weights.group_size == BLOCK:
        scheme.weights.group_size = 32
    apply_quantization_config(
        model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"])
    )
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            _set_scales(module)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    for path in original.glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


def _set_scales(module: Any) -> None:
    """Scales and zero points from the weights' own range."""
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    args, weight = module.quantization_scheme.weights, module.weight.data.float()
    groups = weight
    if args.group_size:
        groups = weight.reshape(len(weight), -1, args.group_size)
    if args.strategy in ("group", "tensor_group", "channel"):
        low, high = groups.amin(-1), groups.amax(-1)
        if args.strategy == "channel":
            low, high = low[:, None], high[:, None]
    else:
        low, high = weight.min().reshape(1), weight.max().reshape(1)
    divisor = None
    if hasattr(module, "weight_global_scale"):
        divisor = generate_gparam(weight.min().reshape(1), weight.max().reshape(1))
        module.weight_global_scale.data.copy_(divisor)
    scale, zero = calculate_qparams(low, high, args, global_scale=divisor)
    module.weight_scale.data.copy_(scale)
    if hasattr(module, "weight_zero_point"):
        module.weight_zero_point.data.copy_(zero)
    if hasattr(module, "input_scale"):
        module.input_scale.data.fill_(0.02)


def make_torchao(original: Path, folder: Path, config: Any) -> Path:
    """As transformers saves what torchao quantized on loading."""
    from transformers import AutoModelForCausalLM, TorchAoConfig

    model = AutoModelForCausalLM.from_pretrained(
        original, dtype="auto", quantization_config=TorchAoConfig(config)
    )
    model.save_pretrained(folder)
    for path in original.glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


def make_fp8(original: Path, folder: Path) -> Path:
    """As DeepSeek-V3 has it: e4m3 codes, an fp32 scale for each block of 128 x 128."""
    made = {}
    for name, weight in load_file(original / "model.safetensors").items():
        if not _is_matrix_of_layer(name):
            made[name] = weight
            continue
        rows, columns = weight.shape
        down, across = -(-rows // BLOCK), -(-columns // BLOCK)
        padded = torch.zeros(down * BLOCK, across * BLOCK)
        padded[:rows, :columns] = weight.float()
        blocks = padded.reshape(down, BLOCK, across, BLOCK)
        scales = blocks.abs().amax((1, 3)) / 448
        codes = (blocks / scales[:, None, :, None]).reshape(padded.shape)[:rows, :columns]
        made |= {name: codes.to(torch.float8_e4m3fn), f"{name}_scale_inv": scales}
    return write_checkpoint(
        original,
        folder,
        made,
        quant_method="fp8",
        fmt="e4m3",
        activation_scheme="dynamic",
        weight_block_size=[BLOCK, BLOCK],
    )


def make_fp8_of_tensors(original: Path, folder: Path) -> Path:
    """E4m3 codes, a scale for each tensor and one for its inputs."""
    made = {}
    for name, weight in load_file(original / "model.safetensors").items():
        if not _is_matrix_of_layer(name):
            made[name] = weight
            continue
        scale = weight.float().abs().max() / 448
        made[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
        made[f"{name}_scale_inv"] = scale.to(weight.dtype)
        made[name.removesuffix("weight") + "activation_scale"] = torch.tensor(0.02).to(weight.dtype)
    static = {"activation_scheme": "static", "weight_block_size": None}
    return write_checkpoint(original, folder, made, quant_method="fp8", **static)


def make_mxfp8(original: Path, folder: Path) -> Path:
    """E4m3 codes, a power of two for each 32 of a row."""
    made = {}
    for name, weight in load_file(original / "model.safetensors").items():
        if not _is_matrix_of_layer(name):
            made[name] = weight
            continue
        blocks = weight.float().unflatten(1, (-1, 32))
        powers = torch.floor(torch.log2(blocks.abs().amax(-1))) - 8
        made[name] = (blocks / torch.exp2(powers)[..., None]).flatten(1).to(torch.float8_e4m3fn)
        made[f"{name}_scale_inv"] = (powers + 127).to(torch.uint8)
    dynamic = {"activation_scheme": "dynamic", "weight_block_size": [1, 32], "scale_fmt": "ue8m0"}
    return write_checkpoint(original, folder, made, quant_method="mxfp8", **dynamic)


def make_bitnet(original: Path, folder: Path) -> Path:
    """As microsoft/bitnet has it: -1, 0 and 1, four a byte, and what their sums are divided by."""
    made = {}
    for name, weight in load_file(original / "model.safetensors").items():
        if not _is_matrix_of_layer(name):
            made[name] = weight
            continue
        mean = weight.float().abs().mean()
        codes = (weight.float() / mean).round().clamp(-1, 1).add(1).to(torch.uint8)
        first, second, third, fourth = codes.chunk(4)
        made[name] = first | second << 2 | third << 4 | fourth << 6
        made[f"{name}_scale"] = (1 / mean).reshape(1).to(weight.dtype)
    return write_checkpoint(
        original,
        folder,
        made,
        quant_method="bitnet",
        linear_class="bitlinear",
        quantization_mode="offline",
        modules_to_not_convert=["lm_head"],
    )


def make_mxfp4(original: Path, folder: Path) -> Path:
    """As gpt-oss has it: experts in blocks of 32 e2m1 codes with a power of two, in pairs."""
    made = {}
    for name, weight in load_file(original / "model.safetensors").items():
        if weight.ndim != 3:
            made[name] = weight
            continue
        blocks = weight.transpose(1, 2).float().unflatten(-1, (-1, 32))
        powers = torch.floor(torch.log2(blocks.abs().amax(-1))) - 2
        values = blocks / torch.exp2(powers)[..., None]
        nearest = (values.abs()[..., None] - torch.tensor(LEVELS)).abs().argmin(-1)
        codes = (nearest + 8 * (values < 0)).to(torch.uint8)
        made[f"{name}_blocks"] = codes[..., 0::2] | codes[..., 1::2] << 4
        made[f"{name}_scales"] = (powers + 127).to(torch.uint8)
    not_converted = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"]
    return write_checkpoint(
        original,
        folder,
        made,
        quant_method="mxfp4",
        modules_to_not_convert=["model.embed_tokens", *not_converted],
    )


def _is_matrix_of_layer(name: str) -> bool:
    return re.fullmatch(r".*\.layers\..*\.(\w+_proj|w[123])\.weight", name) is not None
