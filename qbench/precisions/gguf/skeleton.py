"""A model without data: names and shapes of its layers, before any weight is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint


def skeleton_of(checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model of the folder's config.json on the meta device, linear layers in place of Conv1D.

    Its names are those that `load_layer_by_layer` hands out.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from qbench.precisions.plain_layers import replace_conv1d

    trusted = checkpoint.trust_remote_code
    config = AutoConfig.from_pretrained(
        str(checkpoint.folder), trust_remote_code=trusted, local_files_only=True
    )
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=trusted
        )
    replace_conv1d(model)
    return model
