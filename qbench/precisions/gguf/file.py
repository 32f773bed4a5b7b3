"""A GGUF file loaded as it is: its blocks in the layers, all else in one floating type."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.core.number_types import float_type
from qbench.precisions.gguf.gguf import NOT_SERVED
from qbench.precisions.placement import EVERY_GPU
from qbench.precisions.verification import (
    Verification,
    attention_backend,
    first_few,
    linear_layers,
)
from qbench.sources.models.gguf_file import read_gguf
from qbench.sources.models.gguf_models import (
    ARCHITECTURES,
    ROPE_FACTORS,
    gguf_of,
    named_tensors,
    rest_type,
    types_by_count,
)
from qbench.sources.models.gguf_types import DEQUANTIZED, FLOATING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.sources.models.gguf_file import GgufFile, GgufTensor

_KINDS, _TYPES = "gguf_kinds", "gguf_types"
"""Attributes of a loaded model: the type of each matrix by name, and tensors by type."""
_ROTATED = re.compile(r"\.attn_[qk]\.(weight|bias)$")


def load_file(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model of the file that a folder stands for, frozen, in eval mode.

    Raises `ModelError` for a file that is not there any longer, or does not hold the whole model.
    """
    import torch

    from qbench.precisions.gguf.skeleton import skeleton_of
    from qbench.precisions.random_weights import make_buffers

    path = gguf_of(checkpoint.folder)
    if path is None:
        raise ModelError(f"{checkpoint.folder}: stands for no GGUF file")
    if checkpoint.device == EVERY_GPU:
        raise ModelError(
            f"{path}: a GGUF file is loaded onto one device; leave out device_map for it"
        )
    file = read_gguf(path)
    dtype = getattr(torch, rest_type(file.tensors))
    model = skeleton_of(checkpoint, dtype=dtype)
    _check_names(model, file)
    make_buffers(model, {"": checkpoint.device})
    if ROPE_FACTORS in file.tensors:
        _scale_frequencies(model, _values(file, file.tensors[ROPE_FACTORS]))
    for name, (own, tensor) in named_tensors(file).items():
        _place(model, name, _unpermuted(file, own, tensor), tensor, checkpoint.device)
    setattr(model, _KINDS, {name: one.kind.name for name, (_, one) in named_tensors(file).items()})
    setattr(model, _TYPES, types_by_count(file))
    model.eval()
    model.requires_grad_(requires_grad=False)
    return model


def verify_file(model: PreTrainedModel) -> Verification:
    """Every matrix holds blocks of the file's type, or is a plain one."""
    from qbench.precisions.gguf.verify import verify_blocks

    stored: dict[str, str] = getattr(model, _KINDS)
    plain = (*FLOATING, *DEQUANTIZED)
    kinds = {name: None if kind in plain else kind for name, kind in stored.items()}
    dtype = float_type(str(model.dtype)) or str(model.dtype)
    made = sorted(name for name, kind in stored.items() if kind in DEQUANTIZED)
    details: dict[str, Any] = {
        "unlike_served": NOT_SERVED,
        "quant_type": "gguf",
        "tensor_types": getattr(model, _TYPES),
        "held_dequantized": made,
    }
    layers = [name for name, _ in linear_layers(model)]
    if any(kinds.get(f"{name}.weight") for name in layers):
        found = verify_blocks(model, kinds, dtype, details)
    else:
        found = Verification(
            details={
                **details,
                "dtype": dtype,
                "linear_modules": len(layers),
                "quantized_modules": 0,
                "quantized_weights": 0,
                "quantized_share": 0.0,
                "left_out": layers,
                "attention": attention_backend(model),
            }
        )
    if not made:
        return found
    types = ", ".join(sorted({stored[name] for name in made}))
    words = (
        f"{len(made)} matrices of {types} are held as weights in {dtype}, since no layer here"
        f" computes with such blocks ({first_few(made)}): quality is the file's, static bytes are"
        " not; `disk_bytes` is"
    )
    return Verification(
        found.details, found.faults, (words, *found.warnings), found.remedy, found.nonfinite
    )


def _check_names(model: PreTrainedModel, file: GgufFile) -> None:
    """Raises `ModelError` for tensors that lack, are too many, or have another shape."""
    expected = {name: tuple(one.shape) for name, one in model.named_parameters()}
    found = {name: one.shape for name, (_, one) in named_tensors(file).items()}
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        first = wrong[0]
        shown = {
            kind: "×".join(map(str, sizes[first])) if first in sizes else "none"
            for kind, sizes in (("expected", expected), ("found", found))
        }
        raise ModelError(
            f"{file.path}: its tensors are not those of {type(model).__name__}: {len(wrong)} differ"
            f" ({first}: found {shown['found']}, expected {shown['expected']}); download the file"
            " again, or give the original model"
        )


def _bytes(file: GgufFile, tensor: GgufTensor) -> torch.Tensor:
    import numpy as np
    import torch

    count = tensor.end - tensor.start
    held = np.fromfile(file.path, dtype=np.uint8, count=count, offset=tensor.start)
    return torch.from_numpy(held)


def _values(file: GgufFile, tensor: GgufTensor) -> torch.Tensor:
    """The numbers of a tensor that is in no blocks, or in ones that are made into weights."""
    import torch

    held = _bytes(file, tensor)
    if tensor.kind.name in FLOATING:
        return held.view(getattr(torch, FLOATING[tensor.kind.name])).reshape(tensor.shape)
    from gguf import GGMLQuantizationType, dequantize

    rows = held.reshape(-1, tensor.kind.row_bytes(tensor.shape[-1])).numpy()
    made = dequantize(rows, GGMLQuantizationType[tensor.kind.name])
    return torch.from_numpy(made).reshape(tensor.shape)


def _unpermuted(file: GgufFile, own: str, tensor: GgufTensor) -> torch.Tensor:
    """Blocks (out, bytes of a row) or values of a tensor, its rows as transformers has them.

    llama.cpp's rotary embedding takes the two halves of a head in turns: rows are moved whole, so
    that blocks stay as they are.
    """
    if tensor.kind.name in (*FLOATING, *DEQUANTIZED):
        held = _values(file, tensor)
    else:
        held = _bytes(file, tensor).reshape(-1, tensor.kind.row_bytes(tensor.shape[-1]))
    if not (ARCHITECTURES[file.architecture].permuted and _ROTATED.search(own)):
        return held
    of_keys = ".attn_k." in own and file.setting("attention.head_count_kv")
    heads = of_keys or file.setting("attention.head_count")
    pairs = held.reshape(heads, len(held) // heads // 2, 2, *held.shape[1:])
    return pairs.swapaxes(1, 2).reshape(held.shape)


def _place(
    model: PreTrainedModel, name: str, held: torch.Tensor, tensor: GgufTensor, device: str
) -> None:
    """Puts blocks or values where their name says, and into a head that shares them."""
    from torch import nn

    from qbench.precisions.gguf.convert import place_table
    from qbench.precisions.inventory import output_head

    module, _, own = name.rpartition(".")
    layer: Any = model.get_submodule(module)
    before = getattr(layer, own)
    if tensor.kind.name in (*FLOATING, *DEQUANTIZED):
        made = nn.Parameter(held.to(device, before.dtype), requires_grad=False)
        head: Any = output_head(model)
        if head is not None and head.weight is before:
            head.weight = made
        setattr(layer, own, made)
    else:
        blocks = nn.Parameter(held.contiguous().to(device), requires_grad=False)
        place_table(model, layer, blocks, tensor.kind.name)


def _scale_frequencies(model: PreTrainedModel, factors: torch.Tensor) -> None:
    """Divides the rotary frequencies, as Llama 3.1's formula does."""
    for module in model.modules():
        for name in ("inv_freq", "original_inv_freq"):
            held = getattr(module, name, None)
            if held is not None:
                held.div_(factors.to(held.device, held.dtype))
