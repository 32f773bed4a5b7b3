"""What a form of checkpoint is, and how all of them are saved: safetensors, in shards if large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

_SHARD = "5GB"
"""The most that a file of weights holds."""


@dataclass(frozen=True)
class CheckpointForm:
    """A way to hold a loaded model in a folder."""

    name: str
    """As `--form` takes it: the library whose configuration says what the layers are held in."""
    write: Callable[[PreTrainedModel, Path], None]
    """Writes weights and configuration. The model is good for nothing else afterwards.

    Raises `UsageError` where this model cannot be written so.
    """
    told: str
    """What the files hold, and what is computed with once they are loaded."""
    needs: tuple[str, ...] = ()
    """Packages that load it, beside torch and transformers."""
    tolerance: float = 0.0
    """How far logits may be off, relative by norm, once it is loaded again."""
    inexact: str | None = None
    """Why they may be off; None where they are the same, bit for bit."""
    same_bytes: bool = True
    """Whether it is held in as many bytes as were measured, once it is loaded."""
    elsewhere: str | None = None
    """What whoever loads it without qbench must know, a sentence; None where it is the same."""
    library: str = "transformers"
    """What loads it: that, or `peft`."""


@dataclass(frozen=True)
class WrittenFolder:
    """What was written, and how it compares with what was measured."""

    form: CheckpointForm
    size_bytes: int
    """Of the files with weights."""
    layers: dict[str, int]
    """Linear layers by what they are held in; of an adapter those that it is on."""
    difference: float
    """Of the logits after it was loaded again, relative by norm; 0 where each bit is the same."""


def save_checkpoint(
    model: PreTrainedModel,
    folder: Path,
    *,
    library: Any | None = None,
    quantization: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
) -> None:
    """Saves a model whose layers a library holds, or the tensors that are given in their place.

    `library` is its configuration as transformers has it, for one that saves its own tensors;
    `quantization` what config.json says of given ones.
    """
    from transformers import GenerationConfig
    from transformers.quantizers.auto import AutoHfQuantizer

    kept: Any = model
    # The source's own may hold settings that transformers refuses to save; its file is copied.
    kept.generation_config = GenerationConfig()
    kept.hf_quantizer = None
    if library is not None:
        kept.hf_quantizer = AutoHfQuantizer.from_config(library, pre_quantized=True)
    stated = library if library is not None else quantization
    if stated is not None:
        kept.config.quantization_config = stated
    elif hasattr(kept.config, "quantization_config"):
        del kept.config.quantization_config
    kept.save_pretrained(str(folder), state_dict=tensors, max_shard_size=_SHARD)
    (folder / "generation_config.json").unlink(missing_ok=True)


def _write_plain(model: PreTrainedModel, folder: Path) -> None:
    save_checkpoint(model, folder)


PLAIN = CheckpointForm("safetensors", _write_plain, "all weights as numbers of their own type")
"""For a model whose layers are not quantized."""
