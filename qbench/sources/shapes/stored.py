"""What a checkpoint that is already quantized holds of each linear layer, by its header.

Its tensors stand beside the shape that the model has unquantized:

    bitsandbytes        weight (codes), weight.absmax, weight.quant_map, …; SCB of int8
    GPTQ, AWQ           qweight (codes), qzeros, scales, g_idx
    compressed-tensors  weight_packed or weight (codes), weight_scale, weight_zero_point, …
    torchao             _weight_qdata (codes), _weight_scale, _weight_zero_point
    fp8                 weight (codes), weight_scale_inv
    mxfp4               gate_up_proj_blocks (codes), gate_up_proj_scales: all experts in one tensor

What libraries load as plain numbers is held as these, and what the file has of it is kept beside.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import ModelShape, TensorShape
    from qbench.sources.models.headers import StoredTensor

DEQUANTIZED = ("compressed-tensors", "fp8", "mxfp8", "mxfp4", "metal")
"""Methods whose codes are plain numbers once they are loaded, on any device: what multiplies with
the codes are kernels for some GPUs, which transformers fetches from a hub while it runs."""

_CODES = ("weight", "qweight", "weight_packed", "_weight_qdata")
_RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"\.block_sparse_moe\.", ".mlp."),
        (r"(\.experts\.\d+)\.w1$", r"\1.gate_proj"),
        (r"(\.experts\.\d+)\.w2$", r"\1.down_proj"),
        (r"(\.experts\.\d+)\.w3$", r"\1.up_proj"),
    )
)
_OFFSET_BYTES = 4
"""Double quantization's offset: a number in the file's JSON, a tensor once it is loaded."""
_FLOATING = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_MASKS = ("BOOL", "I64")
_ONE_BYTE = ("U8", "F8_E4M3", "F8_E8M0")
_TYPES = ("float32", "bfloat16", "float16")
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


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


def method_by_tensors(tensors: Mapping[str, StoredTensor]) -> str | None:
    """How a checkpoint is quantized whose config.json does not say so, as optimum-quanto's."""
    is_quanto = any(re.search(r"\.weight\._data(\._data)?$", name) for name in tensors)
    return "quanto" if is_quanto else None


def holds_codes(tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether any tensor of the checkpoint is of a type that holds codes."""
    return any(tensor.dtype not in (*_FLOATING, *_MASKS) for tensor in tensors.values())


def quantizes_inputs(quantized: Mapping[str, Any]) -> bool:
    """Whether layers of compressed-tensors round what goes into them, by a quantization_config.

    Then they keep what is needed for that once their weights are plain numbers.
    """
    groups = quantized.get("config_groups")
    found = groups.values() if isinstance(groups, dict) else ()
    return any(isinstance(group, dict) and group.get("input_activations") for group in found)


def stored_shape(
    shape: ModelShape, tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]
) -> ModelShape:
    """The unquantized shape with what the checkpoint holds: bytes of codes and state, types.

    The state is counted as it is once it is loaded.
    """
    rest = _rest_type(tensors, config)
    quantized = config.get("quantization_config") or {}
    four_bit = bool(quantized.get("load_in_4bit"))
    compute = str(quantized.get("bnb_4bit_compute_dtype") or "float32").removeprefix("torch.")
    layers = {loaded_name(name): held for name, held in by_module(tensors).items()}
    dequantized = quantization_method(config, "config.json") in DEQUANTIZED
    made = []
    for tensor in shape.tensors:
        module, _, own_name = tensor.name.rpartition(".")
        held = layers.get(module) or layers.get(module.partition(".")[2]) or {}
        stored = _stored_bytes(held)
        changes: dict[str, Any] = {}
        if tensor.role == "linear" and stored is not None:
            changes["stored_bytes"] = stored
            if dequantized:
                kept = _kept_bytes(held, rest) if quantizes_inputs(quantized) else 0
                changes["stored_bytes"] = (tensor.numel * _ITEM_BYTES[rest], kept)
                changes["packed_bytes"] = sum(stored)
            elif _code_bits(quantized) is not None:
                changes["packed_bytes"] = packed_layer_bytes(held, quantized)
        elif tensor.dtype is None:
            # A 4-bit layer converts its bias to the type it computes in.
            of_codes = four_bit and own_name == "bias" and stored is not None
            changes["dtype"] = compute if of_codes else rest
            if dequantized and tensor.role == "other" and len(tensor.shape) > 1:
                changes["packed_bytes"] = _expert_bytes(module, own_name, layers)
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


def loaded_name(module: str) -> str:
    """What transformers calls a module of a checkpoint once it is loaded: not as Mixtral does."""
    for pattern, name in _RENAMED:
        module = pattern.sub(name, module)
    return module


def by_module(tensors: Mapping[str, StoredTensor]) -> dict[str, dict[str, StoredTensor]]:
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


def packed_layer_bytes(held: Mapping[str, StoredTensor], quantized: Mapping[str, Any]) -> int:
    """What a layer's codes and state would take, codes of torchao that fill no byte at their width.

    Zero points of a symmetric format are all 0, and take nothing.
    """
    bits = _code_bits(quantized)
    parts = {name: tensor for name, tensor in held.items() if name != "bias"}
    if bits is None:
        return sum(tensor.end - tensor.start for tensor in parts.values())
    mapping = _torchao(quantized).get("mapping_type")
    is_symmetric = isinstance(mapping, dict) and mapping.get("_data") == "SYMMETRIC"
    zero = 0 if is_symmetric else bits
    widths = {"_weight_qdata": bits, "_weight_zero_point": zero}
    return round(
        sum(
            math.prod(tensor.shape) * widths[name] / 8
            if name in widths and tensor.dtype == "I8"
            else tensor.end - tensor.start
            for name, tensor in parts.items()
        )
    )


def _torchao(quantized: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of torchao's configuration in a quantization_config; empty for any other."""
    found: Any = quantized.get("quant_type")
    for key in ("default", "_data"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _code_bits(quantized: Mapping[str, Any]) -> int | None:
    """The width of torchao's codes that do not fill the bytes they are held in; else None."""
    wide = _torchao(quantized).get("weight_dtype")
    found = re.fullmatch(r"int([2-7])", str(wide.get("_data")) if isinstance(wide, dict) else "")
    return int(found[1]) if found else None


def holds_layer_codes(held: Mapping[str, StoredTensor]) -> bool:
    """Whether a module's tensors, by their own names, are codes of a layer, or of experts."""
    return _stored_bytes(held) is not None and any(
        name in _CODES or name.endswith("_blocks") for name in held
    )


def _kept_bytes(held: Mapping[str, StoredTensor], rest: str) -> int:
    """What a layer that rounds its inputs keeps beside its weights, one-byte scales as numbers."""
    return sum(
        math.prod(tensor.shape) * _ITEM_BYTES[rest]
        if tensor.dtype in _ONE_BYTE
        else tensor.end - tensor.start
        for name, tensor in held.items()
        if name not in (*_CODES, "bias")
    )


def _expert_bytes(
    module: str, own_name: str, layers: Mapping[str, Mapping[str, StoredTensor]]
) -> int | None:
    """What a checkpoint holds of experts that are loaded as one tensor; None where it is plain.

    Either their codes are one tensor too, or they are a module for each expert, whose gate and up
    are loaded as one.
    """
    fused = [layers.get(module, {}).get(own_name + end) for end in ("_blocks", "_scales")]
    found = [tensor for tensor in fused if tensor is not None]
    if not found:
        parts = own_name.replace("gate_up_proj", "(gate|up)_proj")
        one = re.compile(rf"{re.escape(module)}\.\d+\.{parts}")
        found = [
            tensor
            for name, held in layers.items()
            if one.fullmatch(name) and _stored_bytes(held) is not None
            for own, tensor in held.items()
            if own != "bias"
        ]
    return sum(tensor.end - tensor.start for tensor in found) or None


def _stored_bytes(held: Mapping[str, StoredTensor]) -> tuple[int, int] | None:
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
