"""Checkpoints of merged models in the cache: made once, loaded like any other checkpoint.

    <cache>/merged/<key>/         config.json and other small files of the base, merged weights
    <cache>/merged/<key>.lock     held by whoever makes it

The key is the hash of the adapter's files, the base, the deployment, the type and the versions.
Merging is done in fp32 and rounded once. A merged model is loaded from its checkpoint by its
precision: its load time, its memory and its quantization are those of one that was downloaded.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from qbench.core.cache import cache_folder
from qbench.core.errors import MeasurementError
from qbench.core.number_types import FP32, torch_type
from qbench.core.record import content_key
from qbench.finetune.artifact import ArtifactInfo
from qbench.finetune.lora_extra import NO_BIAS_TO_MERGE, TIED_MERGE
from qbench.finetune.serve.adapter_storage import WEIGHTS_FILE
from qbench.finetune.serve.attach import ADAPTER, attach_adapter, expected_warnings, read_adapter
from qbench.precisions import options_of, precisions
from qbench.precisions.floating import in_type
from qbench.precisions.inventory import inside, output_head
from qbench.precisions.layer_weights import exact_weight
from qbench.sources.fingerprint import files_sha256
from qbench.sources.sealed import broken_seal, maker_lock, sealed_folder

if TYPE_CHECKING:
    from pathlib import Path

    from peft import LoraModel
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.spec import PrecisionRef
    from qbench.precisions.precision import Precision

_LOG = logging.getLogger(__name__)
_DECIDING_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
_COPIED_SUFFIXES = {".json", ".py"}


def merged_checkpoint(
    base: Checkpoint, artifact: Path, dtype: str, *, dequantized_from: PrecisionRef | None
) -> Path:
    """The folder of the base with the adapter merged into it, made if it is not there.

    `dequantized_from` is what the base was held in while it was trained, to merge into its
    dequantized weights; None merges into the original ones. `dtype` is what the result is rounded
    to. Raises `MeasurementError`.
    """
    base_fingerprint, adapter = _fingerprints(artifact)
    identity = {
        "base": base_fingerprint,
        "adapter": adapter,
        # Quantized by other kernels on another device, to other codes.
        "dequantized": None
        if dequantized_from is None
        else [dequantized_from.name, dequantized_from.options, base.device.partition(":")[0]],
        "dtype": dtype,
        "versions": {package: version(package) for package in _DECIDING_PACKAGES},
    }
    made = cache_folder() / "merged" / content_key(identity)
    with maker_lock(made):
        damage = broken_seal(made, made.name)
        if damage is not None:
            if made.exists():
                _LOG.warning("%s: not what was merged: %s; it is merged again", made, damage)
            _save(_merged_model(base, artifact, dequantized_from), base.folder, made, dtype)
    return made


def merge_attached(model: PreTrainedModel, tuner: LoraModel) -> PreTrainedModel:
    """Merges the attached adapter into the layers it is attached to, whatever they hold.

    A quantized layer is dequantized by PEFT, and what is merged is quantized again in the same
    format. Raises `MeasurementError` where the merged model would not be the attached one.
    """
    config = tuner.peft_config[ADAPTER]
    if _divides_tied(model):
        raise MeasurementError(TIED_MERGE)
    if config.lora_bias:
        for name, layer in model.named_modules():
            if hasattr(layer, "lora_B") and getattr(layer.base_layer, "bias", None) is None:
                raise MeasurementError(NO_BIAS_TO_MERGE.format(layer=name))
    with expected_warnings():
        merged: PreTrainedModel = tuner.merge_and_unload()
    merged.eval()
    merged.requires_grad_(requires_grad=False)
    return merged


def _divides_tied(model: PreTrainedModel) -> bool:
    """Whether an adapter is on one of two layers that share a matrix, and not on the other."""
    head, embedding = output_head(model), inside(model.get_input_embeddings())
    if head is None or embedding is None or not _same_matrix(head, embedding):
        return False
    around = (model.get_output_embeddings(), model.get_input_embeddings())
    if any(hasattr(layer, "base_layer") for layer in around):
        return True
    rows = [getattr(layer, "token_adapter", None) for layer in around]
    return rows[0] is not None and rows[0].tied_adapter is None


def _fingerprints(artifact: Path) -> tuple[str, str]:
    """Of the base that the artifact was made from, and of its adapter."""
    try:
        info = ArtifactInfo.model_validate_json((artifact / "artifact.json").read_bytes())
        adapter = files_sha256([artifact / "adapter_config.json", artifact / WEIGHTS_FILE])
    except (OSError, ValidationError) as error:
        raise MeasurementError(
            f"{artifact}: the tuned model cannot be read ({str(error).splitlines()[0]}); delete the"
            " folder and run the training again"
        ) from error
    return info.base_fingerprint, adapter


def _merged_model(
    base: Checkpoint, artifact: Path, dequantized_from: PrecisionRef | None
) -> PreTrainedModel:
    """The merged model in fp32, on the CPU."""
    whole = in_type(FP32)
    plain = precisions()[whole.name].load(replace(base, device="cpu"), options_of(whole))
    if dequantized_from is not None:
        precision = precisions()[dequantized_from.name]
        held = precision.load(base, options_of(dequantized_from))
        _copy_dequantized(held, plain, precision)
        del held
    return merge_attached(plain, attach_adapter(plain, read_adapter(artifact)))


def _copy_dequantized(held: PreTrainedModel, plain: PreTrainedModel, precision: Precision) -> None:
    """Gives the plain fp32 model the weights that the quantized one computes with."""
    from transformers.pytorch_utils import Conv1D

    quantized = dict(held.named_modules())
    for name, module in plain.named_modules():
        for parameter_name, parameter in module.named_parameters(recurse=False):
            layer = quantized[name]
            if parameter_name != "weight":
                weight = getattr(layer, parameter_name)
            else:
                weight = exact_weight(layer, precision)
                # A Conv1D holds (in, out); the linear layer that replaced it (out, in).
                if isinstance(module, Conv1D) and not isinstance(layer, Conv1D):
                    weight = weight.T
            parameter.data.copy_(weight)


def _save(model: PreTrainedModel, base: Path, made: Path, dtype: str) -> None:
    """Writes the checkpoint beside its place and moves it there whole."""
    from transformers import GenerationConfig

    model.to(torch_type(dtype))
    # The base's own may hold settings that transformers refuses to save; it is copied below.
    model.generation_config = GenerationConfig()
    with sealed_folder(made, made.name) as waiting:
        model.save_pretrained(waiting)
        # The base's small files as they are: its configuration, and code of its own if any.
        for path in base.iterdir():
            if path.suffix in _COPIED_SUFFIXES and not path.name.endswith(".index.json"):
                shutil.copyfile(path, waiting / path.name)
        _note_untied(model, waiting / "config.json")


def _note_untied(model: PreTrainedModel, config: Path) -> None:
    """Says in the configuration that a head which was tied has a matrix of its own now."""
    told = json.loads(config.read_text(encoding="utf-8"))
    if told.get("tie_word_embeddings") and not model.config.tie_word_embeddings:
        config.write_text(json.dumps({**told, "tie_word_embeddings": False}), encoding="utf-8")


def _same_matrix(head: Any, embedding: Any) -> bool:
    same: bool = head.weight.data_ptr() == embedding.weight.data_ptr()
    return same
