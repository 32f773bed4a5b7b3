"""A trained adapter attached to a loaded model, which stays a plain transformers model.

PEFT's layers are put in place of the targeted ones; the model around them keeps its class, so
that whatever works with an untuned model (its body, its head, `generate`) works with a tuned one.
"""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.core.errors import MeasurementError, is_out_of_memory
from qbench.core.number_types import torch_type
from qbench.finetune.serve.adapter_storage import read_adapter_tensors
from qbench.precisions.inventory import adapter_modules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from peft import LoraConfig, LoraModel
    from transformers import PreTrainedModel

ADAPTER = "default"
"""PEFT's name for the first adapter of a model."""

_WRAPPER = "base_model.model."
_FACTORS = {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"}
_CHANGES_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Initialisations that take a part out of the base: PEFT would take it out of any base again."""
_EXPECTED_WARNINGS = (
    "Merge lora module to [48]-bit linear",  # merged in place: what it costs is what is measured
    "TorchaoLoraLinear was instantiated without",  # merged in place: none of its deployments
    "fan_in_fan_out is set to",  # PEFT fixes it by itself
    "Already found a `peft_config` attribute",  # several adapters on one base are asked for
    "Model has `tie_word_embeddings=True`",  # attached it is right; merged it is refused
    "Input and output embeddings are no longer tied",  # as the merged configuration says
    ".*lora_bias=True.* was passed but",  # merged it is refused
)


@dataclass(frozen=True)
class Adapter:
    """A trained LoRA adapter as it lies in its folder."""

    folder: Path
    config: LoraConfig
    tensors: dict[str, torch.Tensor]
    """By PEFT's names, on the CPU, in the type they were trained in."""


def read_adapter(folder: Path) -> Adapter:
    """Reads an adapter that PEFT saved.

    Raises `MeasurementError` when it cannot be read, or is not whole without a changed base.
    """
    from peft import LoraConfig

    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise MeasurementError(
            f"{folder}: no LoRA adapter that PEFT can read ({_first_line(error)}); delete the"
            " folder and run the training again"
        ) from error
    init = str(config.init_lora_weights).lower()
    if init.startswith(_CHANGES_THE_BASE):
        raise MeasurementError(
            f"{folder}: the adapter was initialised with {init}, which took a part out of the base,"
            " and was saved without that part; expected one that was saved as a plain adapter"
            " (PEFT's path_initial_model_for_weight_conversion)"
        )
    return Adapter(folder, config, read_adapter_tensors(folder))


def attach_adapter(model: PreTrainedModel, adapter: Adapter, name: str = ADAPTER) -> LoraModel:
    """Puts the adapter into the model, in fp32 as it was trained, active and frozen.

    Returns PEFT's handle, which can merge it; the model itself is changed in place. Raises
    `MeasurementError` for an adapter of another base.
    """
    from peft import LoraModel
    from peft.functional import cast_adapter_dtype, set_peft_model_state_dict
    from transformers.pytorch_utils import Conv1D

    config = copy.deepcopy(adapter.config)
    config.inference_mode = True
    config.fan_in_fan_out = any(isinstance(module, Conv1D) for module in model.modules())
    config.init_lora_weights = True  # what is put there is replaced below
    with expected_warnings():
        try:
            tuner = LoraModel(model, config, name)
            # PEFT makes the factors in the base's type; loading would round them to it.
            cast_adapter_dtype(model, name)
            # Saved from PEFT's wrapper; what it keeps of whole modules is looked up without it.
            own = {key.removeprefix(_WRAPPER): one for key, one in adapter.tensors.items()}
            loaded = set_peft_model_state_dict(model, own, adapter_name=name)
        except (ValueError, KeyError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise _of_another_base(adapter, _first_line(error)) from error
    lacking = [key for key in loaded.missing_keys if "lora_" in key and f".{name}" in key]
    foreign = list(loaded.unexpected_keys)
    if lacking or foreign:
        what = f"it lacks {lacking[0]}" if lacking else f"the model has no {foreign[0]}"
        raise _of_another_base(adapter, what)
    model.eval()
    model.requires_grad_(requires_grad=False)
    return tuner


def cast_adapter(model: PreTrainedModel, dtype: str) -> None:
    """Rounds the factors of all attached adapters to a type: `fp32`, `bf16` or `fp16`.

    A DoRA's magnitudes stay in fp32: they are few, and each scales a whole output row.
    """
    wanted = torch_type(dtype)
    for name, parameter in model.named_parameters():
        if _FACTORS & set(name.split(".")):
            parameter.data = parameter.data.to(wanted)


def adapter_bytes(model: PreTrainedModel, name: str = ADAPTER) -> int:
    """Bytes of the tensors of one attached adapter."""
    brought = adapter_modules(model)
    return sum(
        tensor.numel() * tensor.element_size()
        for tensor_name, tensor in (*model.named_parameters(), *model.named_buffers())
        # A factor is `…lora_A.<name>.weight`; in an embedding `…lora_embedding_A.<name>`.
        if tensor_name.rpartition(".")[0] in brought and name in tensor_name.split(".")[-2:]
    )


@contextmanager
def expected_warnings() -> Iterator[None]:
    """Keeps quiet what PEFT warns of and is meant to happen."""
    with warnings.catch_warnings():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


def _of_another_base(adapter: Adapter, why: str) -> MeasurementError:
    return MeasurementError(
        f"{adapter.folder}: the adapter does not fit this model ({why}); it was trained on another"
        " base: give that one, or train it on this"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch names what is wrong below a heading that ends with a colon.
    chosen = next((line for line in lines if not line.endswith(":")), None)
    return chosen or type(error).__name__
