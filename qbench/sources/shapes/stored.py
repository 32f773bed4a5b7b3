"""What a checkpoint that is already quantized holds of each linear layer, by its header.

Its tensors stand beside the shape that the model has unquantized:

    bitsandbytes        weight (codes), weight.absmax, weight.quant_map, …; SCB of int8
    GPTQ, AWQ           qweight (codes), qzeros, scales, g_idx
    compressed-tensors  weight_packed or weight (codes), weight_scale, weight_zero_point, …
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import ModelShape, TensorShape
    from qbench.sources.models.headers import StoredTensor

_CODES = ("weight", "qweight", "weight_packed")
_OFFSET_BYTES = 4
"""Double quantization's offset: a number in the file's JSON, a tensor once it is loaded."""
_FLOATING = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_MASKS = ("BOOL", "I64")
_TYPES = ("float32", "bfloat16", "float16")


def quantization_method(config: Mapping[str, Any], place: str) -> str | None:
    """How the checkpoint of this configuration is quantized (`bitsandbytes`, `gptq` …), if it is.

    Raises `ModelError` for a `quantization_config` that does not say.
    """
    quantized = config.get("quantization_config")
    if not quantized:
        return None
    if isinstance(quantized, dict):
        method = quantized.get("quant_method")
        if isinstance(method, str) and re.fullmatch(r"[\w.-]{1,100}", method):
            return method.lower()
        if quantized.get("load_in_4bit") or quantized.get("load_in_8bit"):
            return "bitsandbytes"
    raise ModelError(
        f"{place}: already quantized, but the quantization_config of config.json has no"
        " quant_method; expected the method's name, such as bitsandbytes or gptq; save the model"
        " with a current version of transformers, or give the original"
    )


def holds_codes(tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether any tensor of the checkpoint is of a type that holds codes."""
    return any(tensor.dtype not in (*_FLOATING, *_MASKS) for tensor in tensors.values())


def stored_shape(
    shape: ModelShape, tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]
) -> ModelShape:
    """The unquantized shape with what the checkpoint holds: bytes of codes and state, types.

    The state is counted as it is once it is loaded.
    """
    rest = _rest_type(tensors, config)
    quantized = config["quantization_config"]
    four_bit = bool(quantized.get("load_in_4bit"))
    compute = str(quantized.get("bnb_4bit_compute_dtype") or "float32").removeprefix("torch.")
    layers = _by_module(tensors)
    made = []
    for tensor in shape.tensors:
        module, _, own_name = tensor.name.rpartition(".")
        stored = _stored_bytes(layers.get(module) or layers.get(module.partition(".")[2]) or {})
        changes: dict[str, Any] = {}
        if tensor.role == "linear" and stored is not None:
            changes["stored_bytes"] = stored
        elif tensor.dtype is None:
            # A 4-bit layer converts its bias to the type it computes in.
            of_codes = four_bit and own_name == "bias" and stored is not None
            changes["dtype"] = compute if of_codes else rest
        made.append(tensor.model_copy(update=changes))
    tensors_made: tuple[TensorShape, ...] = tuple(made)
    return shape.model_copy(update={"tensors": tensors_made})


def _rest_type(tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> str:
    """What transformers loads everything else in, when it is told to take the checkpoint's type."""
    for key in ("dtype", "torch_dtype"):
        stated = config.get(key)
        if stated in _TYPES:
            return str(stated)
    found = (_FLOATING.get(tensor.dtype) for tensor in tensors.values())
    return next((name for name in found if name in _TYPES), "float32")


def _by_module(tensors: Mapping[str, StoredTensor]) -> dict[str, dict[str, StoredTensor]]:
    """Tensors by their own names, by module: `weight.absmax` belongs to the module of `weight`."""
    layers: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        module, inner, rest = name.partition(".weight.")
        if not inner:
            module, _, own_name = name.rpartition(".")
        else:
            own_name = f"weight.{rest}"
        layers.setdefault(module, {})[own_name] = tensor
    return layers


def _stored_bytes(held: dict[str, StoredTensor]) -> tuple[int, int] | None:
    """Bytes of the codes and of the rest of a quantized layer; None for one that is not."""
    matrices = {name: tensor for name, tensor in held.items() if name != "bias"}
    plain = set(matrices) <= {"weight"}
    if plain and all(tensor.dtype in _FLOATING for tensor in matrices.values()):
        return None
    codes = state = 0
    for name, tensor in matrices.items():
        size = tensor.end - tensor.start
        if name in _CODES:
            codes += size
        elif name.startswith("weight.quant_state."):
            state += _OFFSET_BYTES if "weight.nested_absmax" in matrices else 0
        elif name != "weight_format":  # of int8: how codes are ordered, gone once they are loaded
            state += size
    return codes, state
