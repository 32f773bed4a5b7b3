"""CUDA's two operators for packed 4-bit codes, by their definition, for tensors on the CPU.

As ATen's `int4mm.cu` writes them: where each code lies, and what is multiplied. torch has neither
for CPUs.
"""

from __future__ import annotations

import numpy as np
import torch

_LIBRARIES: list[torch.library.Library] = []
LANES, ROWS, BYTES = 32, 8, 8
"""Lanes of a warp; rows of a tile; bytes of a row of a tile of 16 columns."""


def install() -> None:
    """Gives both to torch, once."""
    if _LIBRARIES:
        return
    library = torch.library.Library("aten", "IMPL")
    library.impl("_convert_weight_to_int4pack", to_int4pack, "CPU")
    library.impl("_weight_int4pack_mm", int4pack_mm, "CPU")
    _LIBRARIES.append(library)


def to_int4pack(pairs: torch.Tensor, inner_tiles: int) -> torch.Tensor:
    """(n, k/2) bytes, the even column in the upper half, to (n/8, k/(16·inner), 32, inner/2)."""
    given = pairs.numpy().astype(np.uint32)
    rows, half = given.shape
    shape = -(-rows // ROWS), half // (inner_tiles * BYTES), LANES, inner_tiles // 2
    given = np.pad(given, ((0, shape[0] * ROWS - rows), (0, 0)))
    made = np.zeros(shape, np.uint32)
    row, columns = _places(shape, inner_tiles)
    for place, column in enumerate(columns):
        made |= (given[row, column] >> 4) << (4 * place)
        made |= (given[row, column] & 15) << (16 + 4 * place)
    return torch.from_numpy(made.view(np.int32))


def int4pack_mm(
    given: torch.Tensor, held: torch.Tensor, group: int, constants: torch.Tensor
) -> torch.Tensor:
    """(m, k) in bf16 times ((code - 8)·scale + zero)ᵀ, with scale and zero by (group, n, 2)."""
    words = held.numpy().view(np.uint32)
    inner_tiles = 2 * words.shape[3]
    codes = np.zeros((words.shape[0] * ROWS, words.shape[1] * inner_tiles * 2 * BYTES), np.float32)
    row, columns = _places(words.shape, inner_tiles)
    for place, column in enumerate(columns):
        codes[row, 2 * column] = words >> (4 * place) & 15
        codes[row, 2 * column + 1] = words >> (16 + 4 * place) & 15
    spread = constants.float().repeat_interleave(group, dim=0).transpose(0, 1)
    weight = (torch.from_numpy(codes) - 8) * spread[..., 0] + spread[..., 1]
    if given.shape[1] != weight.shape[1] or given.dtype != torch.bfloat16:
        raise RuntimeError(f"{tuple(given.shape)} of {given.dtype} does not fit {weight.shape}")
    return (given.float() @ weight.bfloat16().float().T).bfloat16()


def _places(shape: tuple[int, ...], inner_tiles: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Of each word its row, and which four bytes of the row it holds."""
    tile, outer, lane, word = np.indices(shape)
    first = (outer * inner_tiles + 2 * word) * BYTES + lane % 4
    return tile * ROWS + lane // 4, (first, first + 4, first + BYTES, first + BYTES + 4)
