"""Quantized KV caches as transformers makes them: built for a model, and what they hold."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError
from qbench.precisions.kv_cache import not_taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

    from qbench.precisions.kv_cache import KvCache

_READ = frozenset({"full_attention"})
"""The only layers that `QuantizedCache` takes."""
_KEPT = ("keys", "values", "_quantized_keys", "_quantized_values")
"""Where a layer keeps its tensors; a quantized one the newest tokens in the first two."""
_AXES = {"hqq": 1, "quanto": 0}
"""By back end, the axis that has groups lie within the last one, so that a token has its own and no
neighbour can change them."""


def make_cache(kind: KvCache, model: PreTrainedModel) -> Cache:
    """An empty cache of a kind for one sequence of calls of a model.

    Raises `MeasurementError` for a model whose layers such a cache does not take.
    """
    from transformers.cache_utils import Cache, Fp8QuantizedLayer, get_layer_types_and_kwargs

    config = model.config.get_text_config(decoder=True)
    if config.is_encoder_decoder or not model._supports_default_dynamic_cache():  # noqa: SLF001
        raise MeasurementError(
            f"{type(model).__name__} does not take transformers' caches, so that its keys and"
            " values cannot be quantized; leave kv_cache out"
        )
    layer_types, _ = get_layer_types_and_kwargs(config)
    others = sorted(set(layer_types) - _READ)
    if others:
        raise MeasurementError(not_taken(others))
    make: Callable[[], Any] = Fp8QuantizedLayer
    if kind.is_grouped:
        make = _grouped_layer(kind)
    return Cache(layers=[make() for _ in layer_types])


@cache
def _grouped_layer(kind: KvCache) -> type:
    """The class of a layer in groups, whose size follows from its first keys and values."""
    from transformers.cache_utils import HQQQuantizedLayer, QuantoQuantizedLayer

    own: Any = HQQQuantizedLayer if kind.backend == "hqq" else QuantoQuantizedLayer
    axis = _AXES[kind.backend]

    class GroupedLayer(own):  # type: ignore[misc]
        """transformers' layer, with groups that fit into a head's vector."""

        def __init__(self) -> None:
            super().__init__(
                nbits=kind.bits,
                axis_key=axis,
                axis_value=axis,
                residual_length=kind.residual_tokens,
            )

        def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
            """Prepares the layer for keys and values, each (batch, heads, tokens, width)."""
            heads, widths = key_states.shape[1], (key_states.shape[-1], value_states.shape[-1])
            group = kind.group(heads, widths)
            if group is None:
                raise MeasurementError(
                    f"keys and values of {heads} heads of width {widths[0]} and {widths[1]} cannot"
                    f" be packed into {kind.bits} bits in groups; take kv_cache: fp8"
                )
            self.q_group_size = group
            super().lazy_initialization(key_states, value_states)

    return GroupedLayer


def held_bytes(cache: Any) -> int:
    """Bytes of all that a cache keeps of keys and values, codes as they are packed."""
    return sum(tensor.numel() * tensor.element_size() for tensor in held_tensors(cache))


def held_tensors(cache: Any) -> Iterator[torch.Tensor]:
    """The plain tensors of all layers of a cache."""
    for layer in cache.layers:
        for name in _KEPT:
            yield from _tensors(getattr(layer, name, None))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The plain tensors within what a back end keeps."""
    import torch

    if isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif hasattr(value, "__tensor_flatten__") and type(value) is not torch.Tensor:
        for name in value.__tensor_flatten__()[0]:
            yield from _tensors(getattr(value, name))
    elif isinstance(value, torch.Tensor):
        yield value
