"""One tensor of a model, read from its safetensors files alone: no model is built."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError, UsageError
from qbench.core.names import did_you_mean
from qbench.core.number_types import torch_type
from qbench.core.untrusted import read_bounded
from qbench.sources.bundled import bundled_models
from qbench.sources.models.config import LARGEST_BYTES, parse_config
from qbench.sources.models.headers import read_headers, weight_files
from qbench.sources.models.resolve import parse_model
from qbench.sources.shapes.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from qbench.core.spec import ModelRef
    from qbench.sources.models.headers import StoredTensor
    from qbench.sources.shapes.architectures import Architecture

STORED = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
"""Types of weights that can be explained, by safetensors' names."""

_NO_LINEAR = re.compile(r"embed|lm_head|\bw[tp]e\b|norm|\bln_")
"""Matrices outside linear layers, in architectures that qbench does not know itself."""
_MLP = re.compile(r"mlp|\bfc|ffn|feed_forward|\bdense_")
"""Names of MLPs, in the architectures that are known and in others."""
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Weight:
    """A tensor of a checkpoint, as a linear layer of qbench would take it."""

    model: str
    """As written by the user."""
    name: str
    stored: str
    """What the file holds it in: fp32, bf16 or fp16."""
    values: torch.Tensor
    """(out, in) in fp32, which holds all the stored types exactly."""
    linear: bool
    """Whether it is a linear layer's weight: what the quantized precisions quantize."""

    @property
    def rms(self) -> float:
        """Root of the mean square: the size of a typical weight."""
        return float(self.values.double().square().mean().sqrt())

    def typical(self) -> tuple[int, int]:
        """Row and column of the first weight whose size is nearest to the root mean square."""
        flat = int((self.values.abs() - self.rms).abs().argmin())
        return divmod(flat, self.values.shape[1])


def rounded(weight: Weight, dtype: str, reason: str) -> torch.Tensor:
    """The values in `fp32`, `bf16` or `fp16`, which they are rounded to for this reason.

    Raises `UsageError` where a value is beyond the type's range.
    """
    values = weight.values.to(torch_type(dtype))
    beyond = int((~values.isfinite()).sum())
    if beyond:
        raise UsageError(
            f"--tensor: {weight.name} of {weight.model} has {beyond:,} values beyond the range of"
            f" {dtype}, {reason}; expected all within it; choose another tensor, or set another"
            " type with --set where the precision has the option"
        )
    return values


def read_weight(source: str, name: str | None, *, base: Path, group: int | None = None) -> Weight:
    """Reads a tensor: the one of this name, or else the first weight of an MLP.

    `source` is a model as in a suite; of a hub model only what is downloaded is read. Weights that
    are as wide as whole groups of `group` go before others, which stay unquantized. Raises
    `ModelError` for a model that is not there, `UsageError` for a tensor that is not or that holds
    no finite floating numbers.
    """
    folder = _folder(parse_model(source, base=base))
    tensors = read_headers(weight_files(folder))
    architecture = _architecture(folder)
    chosen = _first_of_mlp(tensors, architecture, source, group) if name is None else name
    if chosen not in tensors:
        raise UsageError(_unknown_tensor(chosen, list(tensors), source))
    stored = tensors[chosen]
    if stored.dtype not in STORED or 0 in stored.shape:
        found = f"{stored.dtype} of shape {list(stored.shape)}"
        raise UsageError(
            f"--tensor: {chosen} of {source} is {found}; expected weights in"
            f" {', '.join(STORED)}; choose another tensor"
        )
    linear = _is_linear(chosen, stored, architecture)
    transposed = linear and architecture is not None and architecture.transposed
    values = _read(stored.file, chosen)
    values = values.reshape(-1, values.shape[-1] if values.dim() else 1)
    values = (values.T if transposed else values).float().contiguous()
    wrong = int((~values.isfinite()).sum())
    if wrong:
        raise UsageError(
            f"--tensor: {chosen} of {source} holds {wrong} infinite or not-a-number values;"
            " expected finite weights; choose another tensor, or download the model again"
        )
    return Weight(source, chosen, STORED[stored.dtype], values, linear)


def _folder(ref: ModelRef) -> Path:
    if ref.kind == "random":
        raise ModelError(
            f"{ref.source}: found random weights, whose error tells nothing; expected a trained"
            " model: give bundled:<name>, a folder, or a hub id that is downloaded"
        )
    if ref.kind == "bundled":
        return bundled_models()[ref.location]
    if ref.kind == "hub":
        from qbench.sources.models import hub

        snapshot = hub.cached_snapshot(ref.location, ref.revision)
        if snapshot is None:
            raise ModelError(
                f"{ref.source}: not downloaded; expected weights on this machine; run"
                f" `hf download {ref.location}`, or give a folder or bundled:tiny-mistral"
            )
        return snapshot
    folder = Path(ref.location)
    if not folder.is_dir():
        found = "found a file" if folder.exists() else "no such folder"
        raise ModelError(
            f"{folder}: {found}; expected a folder with safetensors; check the path, or give"
            " bundled:tiny-mistral"
        )
    return folder


def _architecture(folder: Path) -> Architecture | None:
    """What qbench knows of the model's architecture; None for one that it does not know."""
    path = folder / "config.json"
    try:
        config = parse_config(read_bounded(path, LARGEST_BYTES), str(path))
    except FileNotFoundError:
        return None  # the weights are enough
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    return ARCHITECTURES.get(str(config.get("model_type")))


def _is_linear(name: str, stored: StoredTensor, architecture: Architecture | None) -> bool:
    module, _, parameter = name.rpartition(".")
    if parameter != "weight" or len(stored.shape) != 2:
        return False
    if architecture is None:
        return _NO_LINEAR.search(name) is None
    inner = module.removeprefix(f"{architecture.prefix}.")
    return re.fullmatch(architecture.linear, inner) is not None


def _first_of_mlp(
    tensors: Mapping[str, StoredTensor],
    architecture: Architecture | None,
    source: str,
    group: int | None,
) -> str:
    """The first by layer, then by name; the first linear layer where no name tells of an MLP.

    Of those alone that the group divides, if there are any.
    """
    names = [
        name
        for name, stored in tensors.items()
        if stored.dtype in STORED and _is_linear(name, stored, architecture)
    ]
    if not names:
        raise UsageError(
            f"{source}: found no weight of a linear layer in {', '.join(STORED)}; name a tensor"
            f" with --tensor. {_holdings(list(tensors))}"
        )
    inputs = 0 if architecture is not None and architecture.transposed else 1
    whole = [name for name in names if not group or not tensors[name].shape[inputs] % group]
    return min(whole or names, key=lambda name: (_MLP.search(name) is None, _by_number(name)))


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts layer 10 behind layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _unknown_tensor(name: str, names: list[str], source: str) -> str:
    near = did_you_mean(name, names)
    hint = f"{near} " if near else ""
    return f"--tensor: {source} has no tensor {name!r}; {hint}{_holdings(names)}"


def _holdings(names: list[str]) -> str:
    shown = ", ".join(sorted(names, key=_by_number)[:_NAMES_SHOWN])
    more = ", …" if len(names) > _NAMES_SHOWN else ""
    return f"It has {len(names)} tensors: {shown}{more}"


def _read(file: str, name: str) -> torch.Tensor:
    from safetensors import SafetensorError, safe_open

    open_file: Any = safe_open  # untyped in safetensors
    try:
        with open_file(file, framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{file}: {name} cannot be read ({error}); copy or download the model again"
        ) from error
    return tensor
