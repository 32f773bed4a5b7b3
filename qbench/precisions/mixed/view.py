"""A loaded model in which the layers of one member of a mix alone are linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.inventory import output_head
from qbench.precisions.verification import linear_layers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from torch import nn
    from transformers import PreTrainedModel


class View:
    """Shows some linear layers, the embeddings and the head; all else is the model's own.

    So a member verifies its own layers as it does those of a whole model: what it asks for the
    modules of is this, and what it computes is the model.
    """

    def __init__(self, model: PreTrainedModel, layers: Collection[str]) -> None:
        """`layers` are the names of those that are shown, as `linear_layers` has them."""
        from torch import nn

        shown = [layer for name, layer in linear_layers(model) if name in layers]
        others = [one for one in model.modules() if isinstance(one, nn.Embedding)]
        self._model = model
        self._shown = {id(one) for one in (*shown, *others, output_head(model))}

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules that are shown, by their names in the model."""
        for name, module in self._model.named_modules():
            if id(module) in self._shown:
                yield name, module

    def modules(self) -> Iterator[nn.Module]:
        """The same without names."""
        for _, module in self.named_modules():
            yield module

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Computes as the model does."""
        return self._model(*given, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
