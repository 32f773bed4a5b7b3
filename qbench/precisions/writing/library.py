"""Checkpoints of layers that bitsandbytes or torchao holds, saved by them as they are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.errors import UsageError
from qbench.precisions.plain_layers import is_transposed
from qbench.precisions.verification import first_few, head_name, linear_layers
from qbench.precisions.writing.form import CheckpointForm, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel


def bitsandbytes_form(config: Callable[[], Any], *, elsewhere: str | None = None) -> CheckpointForm:
    """Of a model that is held in one format; `config` makes transformers' configuration of it."""

    def write(model: PreTrainedModel, folder: Path) -> None:
        save_checkpoint(model, folder, library=config())

    return CheckpointForm(
        "bitsandbytes",
        write,
        "codes and scales as bitsandbytes holds them",
        needs=("bitsandbytes", "accelerate"),
        elsewhere=elsewhere,
    )


def torchao_form(config: Callable[[], Any]) -> CheckpointForm:
    """Of a model whose codes are torchao's tensors; `config` makes its configuration of them."""

    def write(model: PreTrainedModel, folder: Path) -> None:
        from transformers import TorchAoConfig

        refuse_transposed(model)
        left = [name for name, one in linear_layers(model) if not hasattr(one.weight, "qdata")]
        chosen = TorchAoConfig(
            quant_type=config(), modules_to_not_convert=[*left, *head_name(model)]
        )
        save_checkpoint(model, folder, library=chosen)

    return CheckpointForm(
        "torchao",
        write,
        "codes and scales as torchao holds them: an integer in a byte, whatever its width",
        needs=("torchao", "accelerate"),
    )


def refuse_transposed(model: PreTrainedModel) -> None:
    """Raises `UsageError` for layers whose checkpoint has its weights the other way round."""
    turned = [name for name, one in linear_layers(model) if is_transposed(one)]
    if turned:
        raise UsageError(
            f"the model's own layers are Conv1D ({first_few(turned)}), whose weights lie the other"
            " way round: this form of checkpoint knows linear layers alone; export a floating type,"
            " one of bitsandbytes, or give --form numbers"
        )
