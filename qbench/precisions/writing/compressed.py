"""Codes in compressed-tensors' formats, which vLLM and transformers load.

    pack-quantized          integers packed into words of 32 bits
    int-quantized           8-bit integers, inputs rounded too
    float-quantized         e4m3 codes with a scale a row, or one
    mxfp8-, mxfp4-, nvfp4-  floats in blocks

The codes are those of the loaded model; nothing is quantized again. transformers makes numbers of
them as it loads, or before the first forward pass; vLLM multiplies with the codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.verification import head_name, linear_layers
from qbench.precisions.writing.form import CheckpointForm, save_checkpoint
from qbench.precisions.writing.library import refuse_transposed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel

METHOD = "compressed-tensors"
_BYTES_HELD = "transformers computes with the numbers that they stand for, vLLM with the codes"
_ROUNDED_INPUTS = (
    "compressed-tensors divides inputs by their scales in the model's own type, so that in 16 bits"
    " some go to the next level"
)
_ROUNDED_INPUTS_TOLERANCE = 0.1


def compressed_form(
    kind: str,
    weights: Mapping[str, Any],
    tensors_of: Callable[[Any], Mapping[str, torch.Tensor]],
    *,
    inputs: Mapping[str, Any] | None = None,
    tolerance: float = 0.0,
    inexact: str | None = None,
) -> CheckpointForm:
    """Of a model whose codes are torchao's tensors.

    `kind` is the format, `weights` and `inputs` are arguments of compressed-tensors'
    `QuantizationArgs`; `tensors_of` has what a layer's weight becomes, by compressed-tensors' own
    names. Layers without codes stay as they are.
    """

    def write(model: PreTrainedModel, folder: Path) -> None:
        refuse_transposed(model)
        coded = {name: one for name, one in linear_layers(model) if hasattr(one.weight, "qdata")}
        left = [name for name, _ in linear_layers(model) if name not in coded]
        held: dict[str, Any] = {}
        for key, tensor in model.state_dict().items():
            name, _, own = key.rpartition(".")
            if name in coded and own == "weight":
                parts = tensors_of(coded[name])
                held |= {f"{name}.{part}": one.contiguous() for part, one in parts.items()}
            else:
                held[key] = tensor
        stated = _config(kind, weights, inputs, [*left, *head_name(model)])
        save_checkpoint(model, folder, quantization=stated, tensors=held)

    return CheckpointForm(
        METHOD,
        write,
        f"codes packed as {kind}: {_BYTES_HELD}",
        needs=(METHOD, "accelerate"),
        tolerance=tolerance or (0.0 if inputs is None else _ROUNDED_INPUTS_TOLERANCE),
        inexact=inexact or (None if inputs is None else _ROUNDED_INPUTS),
        same_bytes=False,
    )


def _config(
    kind: str, weights: Mapping[str, Any], inputs: Mapping[str, Any] | None, left: list[str]
) -> dict[str, Any]:
    """The quantization_config of config.json, as the library itself writes it."""
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
    )

    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(**weights),
        input_activations=None if inputs is None else QuantizationArgs(**inputs),
        format=kind,
    )
    made = QuantizationConfig(
        config_groups={"group_0": scheme},
        format=kind,
        quantization_status="compressed",
        ignore=left,
    )
    stated: dict[str, Any] = made.model_dump(mode="json")
    return stated
