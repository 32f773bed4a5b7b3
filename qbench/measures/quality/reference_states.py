"""The reference's final hidden states, kept in the cache so that cells can be compared with it.

For Mistral-7B they take 8 KB a token in 16 bits, against 64 KB of 16-bit logits, and lose nothing:
the reference's own head, kept beside them, turns them back into its logits chunk by chunk.

    <cache>/states/<key of the reference's quality record>/states.safetensors
        states       (scored tokens, hidden), in the order of the windows, in the model's type
        head.weight  (vocabulary, hidden); head.bias where there is one
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from qbench.core.cache import cache_folder
from qbench.core.errors import MeasurementError
from qbench.measures.quality.head import OutputHead
from qbench.sources.sealed import broken_seal, sealed_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel


class Reference(Protocol):
    """Gives the reference's logits for a stretch of scored tokens."""

    def logits(self, start: int, own_states: torch.Tensor) -> torch.Tensor:
        """Logits in fp32, (n, vocabulary), of the n scored tokens from `start` on.

        `own_states` (n, hidden) are those of the cell that is being scored.
        """


def states_path(key: str) -> Path:
    """Where the states of the reference's record of that key lie, if they are there."""
    return cache_folder() / "states" / key / "states.safetensors"


def has_states(key: str) -> bool:
    """Whether the states are there, and are what the reference's measurement left."""
    return broken_seal(states_path(key).parent, key) is None


def kept_states(key: str) -> Path:
    """The file of the states, once it is known to be what the reference left.

    Raises `MeasurementError` where there is none, or another.
    """
    path = states_path(key)
    damage = broken_seal(path.parent, key)
    if not path.exists():
        raise MeasurementError(
            f"the reference's states are not in the cache as {key}: it was not measured itself, as"
            " its record says, or they could not be kept"
        )
    if damage is not None:
        raise MeasurementError(
            f"{path.parent}: not the states that the reference left there: {damage}; run again,"
            " and they are made again"
        )
    return path


@dataclass
class OwnStates:
    """The reference scored against itself, its states collected on the way."""

    head: OutputHead
    _collected: list[torch.Tensor] = field(default_factory=list)

    def logits(self, start: int, own_states: torch.Tensor) -> torch.Tensor:
        """The reference's logits are its own."""
        # Into pinned memory, while the device goes on; whole once its sums have been read.
        self._collected.append(own_states.to("cpu", non_blocking=True))
        return self.head.logits(own_states)

    @property
    def states(self) -> torch.Tensor:
        """Those that were collected, (scored tokens, hidden), in the machine's memory."""
        import torch

        return torch.cat(self._collected)

    def save(
        self,
        key: str,
        ids_sha256: str,
        rounding_kl: float | None,
        beside: Mapping[str, str] | None = None,
    ) -> None:
        """Writes the states, the head, and the KL that rounding alone makes in the reference.

        `beside` are texts by the names of files that are to stand beside them. Raises
        `NotKeptError` when that is not possible.
        """
        from safetensors.torch import save_file

        output = self.head.model.get_output_embeddings()
        tensors = {
            "states": self.states,
            "head.weight": output.weight.detach().cpu(),
        }
        if getattr(output, "bias", None) is not None:
            tensors["head.bias"] = output.bias.detach().cpu()
        metadata = {"route": self.head.route, "ids_sha256": ids_sha256}
        if rounding_kl is not None:
            metadata["rounding_kl"] = repr(rounding_kl)
        path = states_path(key)
        with sealed_folder(path.parent, key) as waiting:
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, waiting / path.name, metadata=metadata)
            for name, text in (beside or {}).items():
                (waiting / name).write_text(text, encoding="utf-8")


class CachedStates:
    """The reference's states and head, read from the cache as they are needed."""

    def __init__(self, key: str, head: OutputHead, ids_sha256: str) -> None:
        """Opens the states; `head` is the cell's, on whose device the reference's is put.

        Raises `MeasurementError` when there are none, they are not what was written, or they are of
        other token ids.
        """
        from safetensors import safe_open

        path = kept_states(key)
        open_file: Any = safe_open  # untyped in safetensors
        self._file = open_file(path, framework="pt")
        metadata = self._file.metadata()
        if metadata["ids_sha256"] != ids_sha256:
            raise MeasurementError("the reference was scored on other token ids than this cell")
        self.rounding_kl = float(metadata["rounding_kl"]) if "rounding_kl" in metadata else None
        """What rounding alone makes in the reference; None where it was not known."""
        self._states = self._file.get_slice("states")
        self._device = head.device
        weight = self._file.get_tensor("head.weight").to(self._device)
        bias = None
        if "head.bias" in self._file.keys():  # noqa: SIM118 - it is no mapping
            bias = self._file.get_tensor("head.bias").to(self._device)
        self._weight, self._bias = weight, bias
        self._stub = _bodyless(head.model, weight, bias) if metadata["route"] == "stub" else None

    def logits(self, start: int, own_states: torch.Tensor) -> torch.Tensor:
        """The reference's head applied to its states of the same tokens."""
        from torch.nn.functional import linear

        states = self._states[start : start + len(own_states)]
        states = states.to(self._device, non_blocking=True)
        if self._stub is not None:
            return self._stub.logits(states)
        return linear(states, self._weight, self._bias).float()


def _bodyless(
    model: PreTrainedModel, weight: torch.Tensor, bias: torch.Tensor | None
) -> OutputHead:
    """The reference's head within its architecture's own forward, which scales or caps logits."""
    import torch
    from transformers import AutoModelForCausalLM

    values = json.loads(model.config.to_json_string(use_diff=False))
    values.pop("quantization_config", None)
    values["num_hidden_layers"] = 0
    if "layer_types" in values:
        values["layer_types"] = []
    config = type(model.config).from_dict(values)
    with torch.device(weight.device):
        shell = AutoModelForCausalLM.from_config(config, dtype=weight.dtype)
    output = shell.get_output_embeddings()
    output.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        output.bias = torch.nn.Parameter(bias, requires_grad=False)
    return OutputHead(shell.eval(), "stub")
