"""What the files of a checkpoint hold of each module, read a part at a time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from qbench.sources.models.config import read_config
from qbench.sources.models.headers import read_headers, weight_files
from qbench.sources.shapes.stored import (
    by_module,
    holds_layer_codes,
    loaded_name,
    packed_layer_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from qbench.sources.models.headers import StoredTensor


class CheckpointFiles:
    """A folder's quantization, and the modules that its files hold codes of; a context manager."""

    def __init__(self, folder: Path) -> None:
        found: dict[str, Any] = read_config(folder)["quantization_config"]
        self.quantization = found
        """The quantization_config of its config.json."""
        self._open = ExitStack()
        self._handles: dict[str, Any] = {}
        self._tensors = by_module(read_headers(weight_files(folder)))
        self.modules = {
            loaded_name(name): ModuleFiles(self, name, held)
            for name, held in self._tensors.items()
            if holds_layer_codes(held)
        }
        """Those with codes, by the names that they have once they are loaded."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def handle(self, path: str) -> Any:
        """An open file; each is opened once."""
        from safetensors import safe_open

        if path not in self._handles:
            opened = safe_open(path, framework="pt")
            self._handles[path] = self._open.enter_context(opened)
        return self._handles[path]


class ModuleFiles:
    """The tensors of one module, by their own names."""

    def __init__(
        self, files: CheckpointFiles, name: str, tensors: Mapping[str, StoredTensor]
    ) -> None:
        self._files = files
        self.name = name
        self.tensors = tensors

    @property
    def file(self) -> str:
        """The file that holds the first of them."""
        return next(iter(self.tensors.values())).file

    def __contains__(self, own_name: str) -> bool:
        return own_name in self.tensors

    @property
    def bytes(self) -> int:
        """Of codes and all that is needed beside them, without the bias, codes at their width."""
        return packed_layer_bytes(self.tensors, self._files.quantization)

    def bytes_of(self, *own_names: str) -> int:
        """Bytes of some of its tensors, of those that it has."""
        found = (self.tensors[own] for own in own_names if own in self.tensors)
        return sum(tensor.end - tensor.start for tensor in found)

    def shape(self, own_name: str) -> tuple[int, ...]:
        """The shape of one of the tensors."""
        return self.tensors[own_name].shape

    def read(self, own_name: str, *parts: slice) -> torch.Tensor:
        """One of the tensors, of its first dimensions the parts that are given.

        Raises `KeyError` where the module has no such tensor.
        """
        held = self.tensors[own_name]
        # Of `weight.absmax` and the like a module's name is not all that stands before a dot.
        handle, name = self._files.handle(held.file), f"{self.name}.{own_name}"
        read: torch.Tensor = handle.get_slice(name)[parts] if parts else handle.get_tensor(name)
        return read
