"""An adapter's file in 8 or 4 bits: what it saves on disk and, once loaded again, what it costs.

A common claim is that QLoRA stores its adapter quantized. It does not: QLoRA quantizes the frozen
base alone; the adapter is trained and saved in 16 or 32 bits. Here the trained adapter is quantized
afterwards, for storage only: it is dequantized when it is loaded, and computes like any other.

    int8   one byte a weight: bitsandbytes' dynamic 8-bit code book, a block maximum every 256
    nf4    half a byte a weight: NormalFloat4, a block maximum every 64

Only matrices are quantized, row by row into blocks that cross the rows' ends; vectors (a DoRA's
magnitudes, biases) stay as they are. Dequantization is the definition: code book [code] · maximum.
Code books: Dettmers et al. 2022, arXiv 2110.02861 (dynamic 8 bits); 2023, arXiv 2305.14314 (NF4).
"""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from qbench.core.spec import Deployment

BLOCK: dict[Deployment, int] = {"adapter-int8": 256, "adapter-nf4": 64}
"""Weights that share one block maximum, by the deployment of an adapter stored so."""
_NF4: Deployment = "adapter-nf4"
WEIGHTS_FILE = "adapter_model.safetensors"
"""PEFT's name for an adapter's weights."""

_ABOUT = "adapter"
_CODE_BOOK = "code_book"
_CODES, _MAXIMA = ".codes", ".maxima"


def read_adapter_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """An adapter's tensors by PEFT's names, on the CPU, as they were saved.

    Raises `MeasurementError` for a folder without a readable `adapter_model.safetensors`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS_FILE
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise MeasurementError(
            f"{path}: the adapter's weights cannot be read ({str(error).splitlines()[0]}); delete"
            " the folder and run the training again"
        ) from error
    return tensors


def store_adapter(folder: Path, kind: Deployment) -> bytes:
    """The contents of a safetensors file with the folder's adapter quantized.

    Its length is the bytes on disk, codes, block maxima, one code book and the header together.
    Raises `MeasurementError` when the adapter cannot be read.
    """
    import torch
    from bitsandbytes.functional import quantize_4bit, quantize_blockwise
    from safetensors.torch import save

    stored: dict[str, torch.Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in read_adapter_tensors(folder).items():
        if tensor.dim() < 2:
            stored[name] = tensor
            continue
        # Flat: on a CPU bitsandbytes mistakes rows that are no multiple of a block.
        weights = tensor.float().reshape(-1)
        if kind == _NF4:
            codes, state = quantize_4bit(weights, blocksize=BLOCK[kind], quant_type=code_name(kind))
        else:
            codes, state = quantize_blockwise(weights, blocksize=BLOCK[kind])
        stored[name + _CODES] = codes.reshape(-1).view(torch.uint8).contiguous()
        stored[name + _MAXIMA] = state.absmax.contiguous()
        stored[_CODE_BOOK] = state.code.contiguous()
        shapes[name] = list(tensor.shape)
    # One entry: safetensors writes several in any order, and the same adapter is the same file.
    about = json.dumps({"kind": code_name(kind), "shapes": shapes})
    contents: bytes = save(stored, metadata={_ABOUT: about})
    return contents


def load_stored(contents: bytes) -> dict[str, torch.Tensor]:
    """The adapter's tensors from the contents of a file of `store_adapter`: matrices in fp32."""
    import torch
    from safetensors.torch import load

    stored: dict[str, torch.Tensor] = load(contents)
    about = _about(contents)
    kind = next(one for one in BLOCK if code_name(one) == about["kind"])
    shapes: dict[str, list[int]] = about["shapes"]
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        codes = stored.pop(name + _CODES)
        if kind == _NF4:  # the first of the two codes in a byte is its upper half
            codes = torch.stack([codes >> 4, codes & 0xF], dim=1).reshape(-1)
        maxima = stored.pop(name + _MAXIMA).repeat_interleave(BLOCK[kind])
        count = prod(shape)
        weights = stored[_CODE_BOOK][codes[:count].int()] * maxima[:count]
        tensors[name] = weights.reshape(shape)
    stored.pop(_CODE_BOOK, None)
    return {**tensors, **stored}


def code_name(kind: Deployment) -> str:
    """What a file calls its codes."""
    return kind.removeprefix("adapter-")


def _about(contents: bytes) -> dict[str, Any]:
    """What `store_adapter` noted in the header: safetensors reads that from files only."""
    length = int.from_bytes(contents[:8], "little")
    header = json.loads(contents[8 : 8 + length])
    about: dict[str, Any] = json.loads(header["__metadata__"][_ABOUT])
    return about
