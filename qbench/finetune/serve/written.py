"""Tuned models as folders: what is served attached is written as PEFT's adapter, beside no base.

All other deployments are whole models, which their precision writes.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from qbench.finetune.serve.adapter_storage import BLOCK, WEIGHTS_FILE, load_stored, store_adapter
from qbench.precisions import options_of, precisions
from qbench.precisions.computing import compute_type
from qbench.precisions.writing.form import CheckpointForm

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.spec import Deployment, ResolvedModel
    from qbench.finetune.serve.deployment import ServedModel

_ATTACHED: frozenset[Deployment] = frozenset({"attached", "attached-fp16", *BLOCK})


def _not_by_precision(model: PreTrainedModel, folder: Path) -> None:
    raise NotImplementedError("an adapter is written by `write_adapter`, from what is served")


ADAPTER_FORM = CheckpointForm(
    "peft",
    _not_by_precision,
    "a LoRA adapter as PEFT saves it, in fp32 as it was trained; its base is not in the folder",
    needs=("peft",),
    library="peft",
)


def is_adapter(deployment: Deployment | None) -> bool:
    """Whether it is written as an adapter."""
    return deployment in _ATTACHED


def why_unwritable(deployment: Deployment | None) -> str | None:
    """Why no folder holds it, with what can be written; None for what can be."""
    if deployment != "fake-quantized":
        return None
    return (
        "its layers round their weights as they compute, which no checkpoint says; export the"
        " converted model, `quantized`"
    )


def write_adapter(served: ServedModel, base: ResolvedModel, folder: Path) -> int:
    """Writes the adapter that is served, with the base as its users find it.

    Returns how many layers it is on. Raises `MeasurementError` for an artifact that cannot be read.
    """
    from safetensors.torch import save_file

    from qbench.finetune.serve.attach import read_adapter

    adapter = read_adapter(served.artifact)
    tensors = adapter.tensors
    if served.deployment in BLOCK:
        tensors = load_stored(store_adapter(served.artifact, served.deployment))
    config = copy.deepcopy(adapter.config)
    is_of_hub = base.ref.kind == "hub"
    config.base_model_name_or_path = base.ref.location if is_of_hub else str(served.base.folder)
    config.revision = base.revision if is_of_hub else None
    config.inference_mode = True
    config.save_pretrained(str(folder))
    held = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(held, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return sum("lora_A" in name or "lora_embedding_A" in name for name in tensors)


def load_written(served: ServedModel, base: Checkpoint, folder: Path) -> PreTrainedModel:
    """The adapter of a folder on its base by PEFT's own loader, computing as it was served.

    PEFT leaves factors in fp32 or in the base's type; they are brought to the type that the base
    computes in.
    """
    from peft import PeftModel

    from qbench.finetune.serve.attach import cast_adapter, expected_warnings

    held = served.precision
    model = precisions()[held.name].load(base, options_of(held))
    with expected_warnings():
        tuned: PreTrainedModel = PeftModel.from_pretrained(model, str(folder))
    cast_adapter(tuned, compute_type(held))
    tuned.eval()
    return tuned
