"""stored: a checkpoint that is already quantized, loaded, verified and measured as it is.

What transformers quantized and saved with bitsandbytes runs wherever bitsandbytes does. For GPTQ,
AWQ and compressed-tensors it takes the package that holds their layers; these cannot be held
against the definition of their format, and the record says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qbench.core.number_types import float_type
from qbench.core.spec import Frozen
from qbench.precisions.bnb4bit import FourBit, FourBitOptions, keep_codes
from qbench.precisions.int8 import Int8, Int8Options
from qbench.precisions.inventory import inventory, is_packed, logical_weights
from qbench.precisions.layer_weights import LibraryWeights
from qbench.precisions.loading import load_pretrained
from qbench.precisions.precision import Precision
from qbench.precisions.products import Products
from qbench.precisions.storage import fixed_bytes, static_bytes
from qbench.precisions.verification import (
    Verification,
    attention_backend,
    linear_layers,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.spec import ModelShape, ResolvedModel, StaticBytes, TensorShape

NAME = "stored"
NEEDS = {
    "bitsandbytes": ("bitsandbytes", "accelerate"),
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel", "accelerate"),
    "compressed-tensors": ("compressed-tensors",),
}
"""Packages by the `quant_method` of a checkpoint's config.json."""
_ON_TRUST = (
    "this format's layers are not compared with their definition, as those of bitsandbytes are:"
    " what they compute is not checked"
)


class StoredOptions(Frozen):
    """`stored` has no options: the checkpoint says everything."""


@dataclass(frozen=True)
class Stored(LibraryWeights, Precision):
    """Whatever the checkpoint holds."""

    name: str = NAME
    summary: str = "a checkpoint that is already quantized, as it is"
    options: type[Frozen] = StoredOptions
    order: int = 50
    by_default: bool = False
    takes_quantized: bool = True
    stand_in: str | None = "nf4"

    def misfit(self, options: StoredOptions, model: ResolvedModel) -> str | None:
        """A checkpoint that another library has quantized than those that are measured."""
        if model.quantization is None or model.quantization in NEEDS:
            return None
        return (
            f"the checkpoint is quantized by {model.quantization}, which qbench does not measure;"
            f" expected one of {', '.join(NEEDS)}; give another checkpoint, or the original model"
        )

    def needs_of(self, model: ResolvedModel) -> tuple[str, ...]:
        """What holds the checkpoint's layers."""
        return NEEDS.get(model.quantization or "", ())

    def products(
        self, options: StoredOptions, config: Mapping[str, Any] | None = None
    ) -> Products | None:
        """Those of a checkpoint that bitsandbytes quantized; None for all others."""
        stated = config or {}
        quantized = stated.get("quantization_config") or {}
        rest = float_type(str(stated.get("dtype") or stated.get("torch_dtype")))
        compute = float_type(str(quantized.get("bnb_4bit_compute_dtype") or "float32"))
        if rest is None or compute is None:
            return None
        if quantized.get("load_in_8bit"):
            return Products("outliers", rest, rest)
        return Products("4bit", rest, compute) if quantized.get("load_in_4bit") else None

    def storage(self, shape: ModelShape, options: StoredOptions) -> StaticBytes:
        """Bytes by the checkpoint's header, the rest in the type that config.json states."""

        def linear(tensor: TensorShape) -> tuple[int, int]:
            return tensor.stored_bytes or (fixed_bytes(tensor, 4), 0)

        return static_bytes(shape, 4, linear)

    def load(self, checkpoint: Checkpoint, options: StoredOptions) -> PreTrainedModel:
        """Loads codes and state as they are stored."""
        model = load_pretrained(checkpoint, dtype="auto")
        keep_codes(model)
        return model

    def verify(self, model: PreTrainedModel, options: StoredOptions) -> Verification:
        """Layers of bitsandbytes as the precision that would have made them; others by class."""
        stored = model.config.quantization_config
        config: dict[str, Any] = stored if isinstance(stored, dict) else stored.to_dict()
        method = str(getattr(config["quant_method"], "value", config["quant_method"]))
        rest = _own_name(str(model.dtype))
        if config.get("load_in_4bit"):
            found = FourBit(
                name=NAME,
                summary="",
                quant_type=config["bnb_4bit_quant_type"],
                double_quant=bool(config["bnb_4bit_use_double_quant"]),
            ).verify(
                model,
                FourBitOptions.model_validate(
                    {
                        "compute_dtype": _own_name(str(config["bnb_4bit_compute_dtype"])),
                        "dtype": rest,
                    }
                ),
            )
        elif config.get("load_in_8bit"):
            said = {"dtype": rest, "threshold": config["llm_int8_threshold"]}
            found = Int8().verify(model, Int8Options.model_validate(said))
        else:
            found = _by_class(model, method, rest)
        return replace(found, details={**found.details, "stored": method})


def _by_class(model: PreTrainedModel, method: str, rest: str) -> Verification:
    """Which linear layers hold codes of the format's own, and which are plain ones."""
    import torch

    packed = [name for name, module in model.named_modules() if is_packed(module)]
    plain = [name for name, layer in linear_layers(model) if not is_packed(layer)]
    quantized = sum(
        held.logical_weights
        for held in inventory(model)
        if held.module in packed and held.kind == "linear"
    )
    share = quantized / logical_weights(model)
    with torch.inference_mode():
        codes_bytes = linear_bytes(model)
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
        computed_bytes = linear_bytes(model)
    warnings = [_ON_TRUST]
    if computed_bytes > codes_bytes:
        warnings.append(
            f"{method} decompressed its layers at the first forward pass: what is measured from"
            f" here on has {computed_bytes} bytes of linear weights where the checkpoint has"
            f" {codes_bytes}; its memory and speed are not those of the format"
        )
    return Verification(
        details={
            "dtype": rest,
            "linear_modules": len(plain) + len(packed),
            "quantized_modules": len(packed),
            "quantized_weights": quantized,
            "quantized_share": share,
            "left_out": plain,
            "attention": attention_backend(model),
        },
        faults=() if packed else ("no layer of the model holds codes",),
        warnings=tuple(warnings),
    )


def linear_bytes(model: PreTrainedModel) -> int:
    """Bytes that the linear layers hold, quantization state included."""
    return sum(
        held.tensor.untyped_storage().nbytes()
        for held in inventory(model)
        if held.kind in ("linear", "quantization_state")
    )


def _own_name(torch_name: str) -> str:
    """The name in qbench of a type that torch calls `torch.bfloat16`, or `bfloat16`."""
    return float_type(torch_name) or torch_name


PRECISIONS = (Stored(),)
