"""Experts of a mixture, which are loaded as one tensor for all of them, by what the files hold.

transformers fuses them: `gate_up_proj` (experts, 2 · inner, hidden) of each expert's gate and up,
`down_proj` (experts, hidden, inner). gpt-oss has both the other way round, in files and in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.precisions.checkpoint_formats.definitions import definition, e2m1, powers_of_two
from qbench.precisions.checkpoint_formats.layer_definition import MalformedError, telling_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch
    from transformers import PreTrainedModel

    from qbench.precisions.checkpoint_formats.files import ModuleFiles

_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


@dataclass(frozen=True)
class Experts:
    """A tensor of all experts of a layer."""

    module: str
    own_name: str
    held: torch.Tensor
    """As it was loaded, (experts, …)."""
    packed_bytes: int
    """What the files hold of it."""
    naive: Callable[[int], torch.Tensor]
    """One expert's part of it by definition, in fp32."""


def experts_of(
    model: PreTrainedModel, files: Mapping[str, ModuleFiles], quantization: Mapping[str, Any]
) -> Iterator[Experts]:
    """The fused tensors that the files have codes of, by the names that both give them."""
    for module, layer in model.named_modules():
        for own_name, parameter in layer.named_parameters(recurse=False):
            if own_name not in _PARTS or parameter.dim() != 3:
                continue
            if f"{own_name}_blocks" in files.get(module, ()):
                naive = _mx_blocks(files[module], own_name)
                size = files[module].bytes_of(f"{own_name}_blocks", f"{own_name}_scales")
            elif f"{module}.0.{_PARTS[own_name][0]}" in files:
                naive = _one_by_one(module, own_name, files, quantization)
                names = (
                    f"{module}.{index}.{part}"
                    for index in range(len(parameter))
                    for part in _PARTS[own_name]
                )
                size = sum(files[name].bytes for name in names if name in files)
            else:
                continue
            yield Experts(module, own_name, parameter, size, naive)


def check_blocks(held: ModuleFiles) -> None:
    """Raises `ModelError` for experts' codes whose scales are not there, or do not fit."""
    with telling_of(held):
        for blocks in (own for own in held.tensors if own.endswith("_blocks")):
            exponents = blocks.removesuffix("_blocks") + "_scales"
            if held.shape(exponents) != held.shape(blocks)[:-1]:
                raise MalformedError(f"{list(held.shape(exponents))} {exponents} for its {blocks}")


def _mx_blocks(held: ModuleFiles, own_name: str) -> Callable[[int], torch.Tensor]:
    """Blocks (experts, out, blocks, 16) of two e2m1 codes a byte, a power of two for each."""
    blocks, exponents = f"{own_name}_blocks", f"{own_name}_scales"

    def naive(expert: int) -> torch.Tensor:
        one = slice(expert, expert + 1)
        values = e2m1(held.read(blocks, one)) * powers_of_two(held.read(exponents, one))[..., None]
        return values.flatten(2)[0].T

    return naive


def _one_by_one(
    module: str,
    own_name: str,
    files: Mapping[str, ModuleFiles],
    quantization: Mapping[str, Any],
) -> Callable[[int], torch.Tensor]:
    """A module for each expert and each of its matrices."""

    def naive(expert: int) -> torch.Tensor:
        import torch

        found = []
        for part in _PARTS[own_name]:
            held = files.get(f"{module}.{expert}.{part}")
            defined = None if held is None else definition(held, quantization)
            if defined is None:
                raise ModelError(
                    f"{module}.{expert}.{part}: found no codes where other experts have them;"
                    " expected those of all experts; copy or download the checkpoint again"
                )
            found.append(defined.rows(slice(0, defined.shape[0])))
        return torch.cat(found)

    return naive
