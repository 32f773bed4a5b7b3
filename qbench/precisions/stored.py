"""stored: a checkpoint that is already quantized, loaded, verified and measured as it is.

What transformers quantized and saved with bitsandbytes runs wherever bitsandbytes does, and is
verified as the precision that would have made it. What others made takes the packages of its method
(`qbench.precisions.checkpoint_formats.methods`) and is held against its own files, layer by layer,
by the definition of its format; the record names the layers whose format is not written out.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.number_types import float_type
from qbench.core.spec import Frozen
from qbench.precisions.bnb4bit import FourBit, FourBitOptions, keep_codes
from qbench.precisions.checkpoint_formats.files import CheckpointFiles
from qbench.precisions.checkpoint_formats.methods import METHODS, unknown_method
from qbench.precisions.checkpoint_formats.verifying import check_files, verify_by_files
from qbench.precisions.gguf.gguf import block_products
from qbench.precisions.int8 import Int8, Int8Options
from qbench.precisions.inventory import inventory
from qbench.precisions.layer_weights import LibraryWeights
from qbench.precisions.loading import load_pretrained
from qbench.precisions.precision import Precision
from qbench.precisions.products import Products
from qbench.precisions.storage import fixed_bytes, static_bytes
from qbench.sources.models.config import read_config
from qbench.sources.models.gguf_models import METHOD, gguf_of
from qbench.sources.shapes.stored import DEQUANTIZED, quantization_method, quantizes_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.record import Environment
    from qbench.core.spec import ModelShape, ResolvedModel, StaticBytes, TensorShape
    from qbench.precisions.verification import Verification

NAME = "stored"


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
        """A checkpoint that transformers has no loader for."""
        method = model.quantization
        if method is None:
            return None
        known = METHODS.get(method)
        return unknown_method(method) if known is None else known.misfit(method)

    def needs_of(self, model: ResolvedModel, options: StoredOptions) -> tuple[str, ...]:
        """What holds the checkpoint's layers."""
        known = METHODS.get(model.quantization or "")
        return () if known is None else known.needs

    def unavailable_for(
        self, model: ResolvedModel, options: StoredOptions, environment: Environment
    ) -> str | None:
        """A GPU or packages that the checkpoint's method needs."""
        method = model.quantization or ""
        return METHODS[method].unavailable(method, environment) if method in METHODS else None

    def products(
        self, options: StoredOptions, config: Mapping[str, Any] | None = None
    ) -> Products | None:
        """Those of what bitsandbytes quantized, and of plain numbers; None for all others."""
        stated = config or {}
        quantized = stated.get("quantization_config") or {}
        rest = float_type(str(stated.get("dtype") or stated.get("torch_dtype")))
        compute = float_type(str(quantized.get("bnb_4bit_compute_dtype") or "float32"))
        if rest is None or compute is None:
            return None
        if quantized.get("quant_method") == METHOD:
            return block_products(rest)
        if quantized.get("quant_method") in DEQUANTIZED and not quantizes_inputs(quantized):
            return Products("floating", rest, rest)
        if quantized.get("load_in_8bit"):
            return Products("outliers", rest, rest)
        return Products("4bit", rest, compute) if quantized.get("load_in_4bit") else None

    def storage(self, shape: ModelShape, options: StoredOptions) -> StaticBytes:
        """Bytes by the checkpoint's header, the rest in the type that config.json states."""

        def linear(tensor: TensorShape) -> tuple[int, int]:
            return tensor.stored_bytes or (fixed_bytes(tensor, 4), 0)

        plain = static_bytes(shape, 4, linear)
        # GGUF files hold these in blocks too.
        tables = [one for one in shape.tensors if one.role in {"embedding", "head"}]
        held = sum(sum(linear(one)) for one in tables)
        return plain.model_copy(update={"embeddings_and_head": held})

    def packed_bytes(self, shape: ModelShape, options: StoredOptions) -> float | None:
        """What the files hold, where libraries load plain numbers in the place of codes."""
        if not any(tensor.packed_bytes for tensor in shape.tensors):
            return None
        packed = [
            tensor.model_copy(update={"stored_bytes": (tensor.packed_bytes, 0), "role": "linear"})
            if tensor.packed_bytes
            else tensor
            for tensor in shape.tensors
        ]
        return self.storage(shape.model_copy(update={"tensors": tuple(packed)}), options).total

    def load(self, checkpoint: Checkpoint, options: StoredOptions) -> PreTrainedModel:
        """Loads codes and state as they are stored, or plain numbers in their place."""
        if gguf_of(checkpoint.folder) is not None:
            from qbench.precisions.gguf.file import load_file

            return load_file(checkpoint)
        with CheckpointFiles(checkpoint.folder) as files:
            quantized = files.quantization
            check_files(files)
        with warnings.catch_warnings():
            # That the checkpoint's own configuration stays, but for what it is loaded as.
            warnings.filterwarnings("ignore", "You passed `quantization_config`")
            model = load_pretrained(checkpoint, dtype="auto", quantization=_as_numbers(quantized))
        keep_codes(model)
        for module in model.modules():
            if hasattr(module, "infeatures"):  # auto-round's name of what all others call so
                module.in_features, module.out_features = module.infeatures, module.outfeatures
        if quantizes_inputs(quantized):
            import torch

            with torch.no_grad():  # compressed-tensors decompresses before a model first computes
                model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
        return model

    def unwritable(self, options: StoredOptions) -> str:
        """It is there."""
        return "it is a checkpoint already, which was measured as it is: copy its folder"

    def verify(self, model: PreTrainedModel, options: StoredOptions) -> Verification:
        """Layers of bitsandbytes as the precision that would have made them, others by files."""
        folder, rest = Path(model.name_or_path), _own_name(str(model.dtype))
        config: dict[str, Any] = read_config(folder)["quantization_config"]
        method = quantization_method({"quantization_config": config}, str(folder)) or ""
        if method == METHOD:
            from qbench.precisions.gguf.file import verify_file

            found = verify_file(model)
        elif config.get("load_in_4bit"):
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
            return _by_files(model, folder, method, rest)
        return replace(found, details={**found.details, "stored": method})


def _as_numbers(quantized: Mapping[str, Any]) -> Any:
    """What has transformers load plain numbers in the place of codes; None where it keeps them.

    compressed-tensors does so by itself in layers that round their inputs, as these do not.
    """
    import transformers

    method = str(quantized.get("quant_method")).lower()
    if method not in DEQUANTIZED or quantizes_inputs(quantized):
        return None
    made = {
        "compressed-tensors": "CompressedTensorsConfig",
        "mxfp4": "Mxfp4Config",
        "metal": "MetalConfig",
    }.get(method, "FineGrainedFP8Config")
    return getattr(transformers, made)(dequantize=True)


def _by_files(model: PreTrainedModel, folder: Path, method: str, rest: str) -> Verification:
    """What the loaded model has of the files' codes, and whether it changes as it computes."""
    import torch

    codes_bytes = linear_bytes(model)
    with torch.inference_mode():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
    with CheckpointFiles(folder) as files:
        found = verify_by_files(model, files, method=method, rest=rest)
        packed = sum(held.bytes for held in files.modules.values())
    computed_bytes = linear_bytes(model)
    said, details = list(found.warnings), dict(found.details)
    if method in DEQUANTIZED:
        details["unlike_served"] = f"computed in {rest}, with the numbers that the codes stand for"
        said.append(
            f"transformers loads this checkpoint as {rest} numbers: the bytes that are held and the"
            f" times are those of {rest}; its codes take {packed} bytes in the files, and the"
            " quality is that of its weights"
        )
        if files.quantization.get("activation_scheme"):
            said.append(
                "inputs of its layers are rounded to 8 bits where this checkpoint is served, and"
                " are not here: its quality there may be lower"
            )
    elif computed_bytes > codes_bytes:
        said.append(
            f"the kernels of {method} keep the codes in an order of their own: from the first"
            f" forward pass on they take {computed_bytes} bytes, where {codes_bytes} were loaded"
        )
    return replace(found, details=details, warnings=tuple(said))


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
