"""Every tensor that a loaded model keeps, quantization state included, by kind.

A sum over parameters and buffers, as `get_memory_footprint()` makes it, does not see what
bitsandbytes keeps in plain attributes: block maxima, code tables and row scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import PreTrainedModel

Kind = Literal[
    "linear",
    "quantization_state",
    "embeddings_and_head",
    "norms",
    "biases",
    "buffers",
    "adapters",
    "other",
]

_PACKED_CODES = ("qweight", "weight_packed")
_WRAPPED = (".base_layer", ".token_adapter", ".original_module")
"""How PEFT names the layer inside the one that it puts in its place, and what lies between."""


@dataclass(frozen=True)
class Held:
    """One tensor that the model keeps."""

    module: str
    kind: Kind
    tensor: torch.Tensor
    logical_weights: int
    """Weights of the checkpoint that it stands for: 0 for buffers, state and adapters, twice the
    elements for packed 4 bits."""


def inventory(model: PreTrainedModel) -> Iterator[Held]:
    """Lists each tensor once: what shares a storage with an earlier one is passed over."""
    seen: set[int] = set()
    for held in _all_tensors(model):
        storage = held.tensor.untyped_storage().data_ptr()
        if storage in seen or held.tensor.numel() == 0:
            continue
        seen.add(storage)
        yield held


def logical_weights(model: PreTrainedModel) -> int:
    """Weights of the model as its checkpoint counts them, tied ones once, packed ones unpacked."""
    return sum(held.logical_weights for held in inventory(model))


def module_bytes(model: PreTrainedModel) -> dict[str, int]:
    """Bytes that each module keeps by itself, by its name: weights or codes, state, bias.

    What several modules share counts for each of them, since each reads it. Without adapters.
    """
    kept: dict[str, dict[int, int]] = {}
    for held in _all_tensors(model):
        if held.kind != "adapters":
            size = held.tensor.numel() * held.tensor.element_size()
            kept.setdefault(held.module, {})[held.tensor.data_ptr()] = size
    return {module: sum(sizes.values()) for module, sizes in kept.items()}


def state_tensors(weight: Any) -> list[torch.Tensor]:
    """What a tensor of torchao keeps beside its codes: scales, zero points, inputs' constants."""
    names = (*weight.tensor_data_names, *getattr(weight, "optional_tensor_data_names", ()))
    kept = (getattr(weight, name) for name in names if name != "qdata")
    return [tensor for tensor in kept if tensor is not None]


def adapter_modules(model: PreTrainedModel) -> frozenset[str]:
    """Names of the modules that attached adapters brought along, such as LoRA's two factors."""
    brought = [
        f"{name}.{inner}"
        for name, module in model.named_modules()
        for kept in _kept_of(module)
        for inner, _ in module.named_modules()
        if inner and inner.partition(".")[0] not in kept
    ]
    return frozenset(brought)


def _kept_of(module: torch.nn.Module) -> list[tuple[str, ...]]:
    """Where in a layer of PEFT's the base's own layer lies; nothing for any other layer."""
    from torch import nn

    if isinstance(getattr(module, "base_layer", None), nn.Module):
        return [("base_layer",)]
    if hasattr(module, "original_module"):  # around a module, or an embedding, that is trained too
        return [("original_module", "token_adapter")]
    return []


def own_name(module: str) -> str:
    """The name that a module of the base model has in its checkpoint, adapter or not."""
    for around in _WRAPPED:
        module = module.removesuffix(around)
    return module


def output_head(model: PreTrainedModel) -> torch.nn.Module | None:
    """The layer that makes the logits, without an adapter that may be attached to it."""
    return inside(model.get_output_embeddings())


def inside(layer: Any) -> torch.nn.Module | None:
    """The base's own layer within what PEFT may have put in its place."""
    layer = getattr(layer, "original_module", layer)
    found: torch.nn.Module | None = getattr(layer, "base_layer", layer)
    return found


def _all_tensors(model: PreTrainedModel) -> Iterator[Held]:
    from torch import nn

    head = output_head(model)
    adapters = adapter_modules(model)
    # A tied head shares its tensor with the embedding; it must not be taken for a linear layer.
    for full_name, module in model.named_modules():
        name = own_name(full_name)
        if holds_codes(module):
            yield from _coded_layer(name, module)
            continue
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if full_name in adapters:
                yield Held(name, "adapters", parameter, 0)
                continue
            kind = _kind(module, parameter_name, is_head=module is head)
            if hasattr(parameter, "qdata"):  # a tensor of torchao, whose parts hold the bytes
                yield Held(name, kind, parameter.qdata, parameter.numel())
                for tensor in state_tensors(parameter):
                    yield Held(name, "quantization_state", tensor, 0)
                continue
            yield Held(name, kind, parameter, _logical(module, parameter_name, parameter))
        for _, buffer in module.named_buffers(recurse=False):
            of_codes = isinstance(module, nn.Linear) and module is not head
            own: Kind = "quantization_state" if of_codes else "buffers"
            yield Held(name, "adapters" if full_name in adapters else own, buffer, 0)
        if hasattr(module, "base_layer"):
            continue  # PEFT's layer shows the weight of the one inside, which has its own turn
        for tensor in _quantization_state(module):
            yield Held(name, "quantization_state", tensor, 0)


def holds_codes(module: torch.nn.Module) -> bool:
    """Whether a layer has tensors of its own for codes, rather than a weight of a library's."""
    return is_packed(module) or hasattr(module, "held_tensors")


def _coded_layer(name: str, module: Any) -> Iterator[Held]:
    """A layer of qbench's own classes tells what it keeps: see `hqq.layers.layer_class`."""
    if hasattr(module, "held_tensors"):
        yield from (Held(name, *kept) for kept in module.held_tensors())
    else:
        yield from _packed_layer(name, module)


def is_packed(module: torch.nn.Module) -> bool:
    """Whether a layer holds codes as GPTQ, AWQ or compressed-tensors pack and name them."""
    return any(hasattr(module, name) for name in (*_PACKED_CODES, "weight_scale"))


def _packed_layer(name: str, module: torch.nn.Module) -> Iterator[Held]:
    for own, tensor in (
        *module.named_parameters(recurse=False),
        *module.named_buffers(recurse=False),
    ):
        if own in (*_PACKED_CODES, "weight"):  # the latter of whole bytes, or decompressed
            features: Any = module
            yield Held(name, "linear", tensor, features.in_features * features.out_features)
        elif own == "bias":
            yield Held(name, "biases", tensor, tensor.numel())
        else:
            yield Held(name, "quantization_state", tensor, 0)


def _kind(module: torch.nn.Module, parameter_name: str, *, is_head: bool) -> Kind:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if is_head or isinstance(module, nn.Embedding):
        return "embeddings_and_head"
    if isinstance(module, nn.Linear | Conv1D):
        return "biases" if parameter_name == "bias" else "linear"
    class_name = type(module).__name__
    return "norms" if "Norm" in class_name else "other"


def _logical(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> int:
    stated: int | None = getattr(module, "logical_weights", None)
    if stated is not None and name == "weight":  # a layer of GGUF's blocks
        return stated
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


def _quantization_state(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """State tensors of a bitsandbytes layer, nested ones included."""
    import torch

    weight = getattr(module, "weight", None)
    quant_state = getattr(weight, "quant_state", None)
    while quant_state is not None:
        for attribute in ("absmax", "code", "offset"):
            tensor = getattr(quant_state, attribute, None)
            if isinstance(tensor, torch.Tensor):
                yield tensor
        # Absent, not None, once bitsandbytes has repacked the layer for a CPU.
        quant_state = getattr(quant_state, "state2", None)
    # int8: codes and scales move from the weight to the layer's state at the first forward.
    for holder in (weight, getattr(module, "state", None)):
        for attribute in ("CB", "SCB"):
            tensor = getattr(holder, attribute, None)
            if isinstance(tensor, torch.Tensor):
                yield tensor
