"""Which linear layers' weights a model's own code multiplies with, past the layers themselves.

Mamba takes the weight of a layer and multiplies with it. Where the layer holds packed codes, that
fails, or is silently a product with codes.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PRODUCTS = frozenset(
    {
        *("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "addmm", "baddbmm"),
        *("linear", "einsum", "tensordot", "conv1d"),
    }
)
"""Names of torch's functions that multiply matrices."""


@contextmanager
def watching_products(layers: Mapping[str, Any]) -> Iterator[set[str]]:
    """Collects the names of the layers whose weights are multiplied with outside of their forward.

    `layers` are linear layers by name, on any device, meta included; the set is filled while the
    model computes in the block.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    weights = {_storage(layer.weight): name for name, layer in layers.items()}
    found: set[str] = set()
    inside: list[str] = []

    class Watch(TorchFunctionMode):
        """Looks at what every function of torch is given."""

        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if getattr(function, "__name__", "") in _PRODUCTS:
                given = {
                    weights.get(_storage(one)) for one in args if isinstance(one, torch.Tensor)
                }
                found.update(name for name in given if name is not None and name not in inside)
            return function(*args, **(kwargs or {}))

    handles = []
    for name, layer in layers.items():
        handles += [
            layer.register_forward_pre_hook(lambda *_, own=name: inside.append(own)),
            layer.register_forward_hook(lambda *_: _drop_last(inside), always_call=True),
        ]
    try:
        with Watch():
            yield found
    finally:
        for handle in handles:
            handle.remove()


def _storage(tensor: Any) -> int:
    """What all views of a tensor share, on the meta device too, where no data has an address."""
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - there is no public name for it


def _drop_last(names: list[str]) -> None:
    names.pop()
