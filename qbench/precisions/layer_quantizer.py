"""A quantizer as transformers knows them, which hands each linear layer to a function once read.

transformers reads a checkpoint tensor by tensor, and asks its quantizer which ones it wants to
convert (`HfQuantizer.param_needs_quantization`) and how (`ConversionOps.convert`). This one takes
the weights and biases of plain linear layers, and gives nothing back: they are in place already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qbench.precisions.plain_layers import as_linear, convertible_layers, put_in_place

if TYPE_CHECKING:
    from collections.abc import Callable

_METHOD = "qbench-layer-by-layer"
_GPU_SHARE = 0.9
"""Of a GPU's memory that layers are laid on, as transformers does beside what quantizing takes."""


class QuantizingFailed(BaseException):
    """Holds what was raised while a layer was quantized.

    No `Exception`: of those transformers keeps the text alone, and goes on with the next tensor.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@register_quantization_config(_METHOD)
class LayerByLayer(QuantizationConfigMixin):  # type: ignore[misc]  # transformers is not typed here
    """What transformers is asked for: a function for each layer, and which layers still wait."""

    def __init__(
        self, quantize: Callable[[str, nn.Linear], nn.Module | None], weight_bytes: float
    ) -> None:
        self.quant_method: Any = _METHOD
        self.quantize = quantize
        self.weight_bytes = weight_bytes
        self.waiting: set[str] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: configurations are copied, and the layers that wait are the same."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """What can be written as JSON, where a configuration is shown."""
        return {"quant_method": _METHOD}

    def quantize_now(self, model: PreTrainedModel, name: str) -> None:
        """Hands over a layer whose tensors are all there."""
        layer: Any = model.get_submodule(name)
        self.waiting.discard(name)
        with torch.no_grad():
            try:
                made = self.quantize(name, layer)
            except Exception as error:
                error.add_note(f"while {name} was quantized")
                raise QuantizingFailed(error) from error
        if made is not None:
            put_in_place(model, name, made, of=layer)


@register_quantizer(_METHOD)
class LayerQuantizer(HfQuantizer):  # type: ignore[misc]  # transformers is not typed here
    """Takes the tensors of plain linear layers as they are read."""

    quantization_config: LayerByLayer

    def __init__(self, quantization_config: LayerByLayer, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._taken: set[str] = set()
        """Names of the tensors that it wants."""

    @property
    def quantized_element_size(self) -> float:
        """Bytes of a weight, where a model is laid over several GPUs."""
        return self.quantization_config.weight_bytes

    def adjust_max_memory(self, max_memory: dict[Any, Any]) -> dict[Any, Any]:
        """Leaves room for the layer that is being quantized."""
        return {device: room * _GPU_SHARE for device, room in max_memory.items()}

    def preprocess_model(
        self, model: PreTrainedModel, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> None:
        """Chooses the tensors that it takes, of a model without data."""
        super().preprocess_model(model, dtype, **kwargs)
        layers = convertible_layers(model)
        self.quantization_config.waiting.update(layers)
        shared = _shared(model)
        for name, layer in layers.items():
            tensors = {f"{name}.{own}": it for own, it in layer.named_parameters(recurse=False)}
            # One of a type of its own is read in that type only where nobody asks for it.
            if shared.isdisjoint(tensors) and all(it.dtype == dtype for it in tensors.values()):
                self._taken.update(tensors)

    def param_needs_quantization(
        self, model: PreTrainedModel, param_name: str, **kwargs: Any
    ) -> bool:
        """Whether it is a tensor of a layer that waits."""
        return param_name in self._taken

    def get_quantize_ops(self) -> ConversionOps:
        """What takes one tensor."""
        return _Take(self)

    def _process_model_after_weight_loading(
        self, model: PreTrainedModel, **kwargs: Any
    ) -> PreTrainedModel:
        # What follows knows such layers itself, and nothing of a quantizer.
        self.remove_quantization_config(model)
        del model.is_quantized
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                vars(module.config).pop("_is_quantized", None)
        return model

    def is_serializable(self) -> bool:
        """Nothing of it is ever saved."""
        return False

    @property
    def is_trainable(self) -> bool:
        """It is gone before anything is trained."""
        return False

    def take(self, model: PreTrainedModel, name: str, value: torch.Tensor) -> bool:
        """Puts a tensor in its layer, and quantizes that once it is complete.

        False for one of another size than the layer's, which is told of as in any other loading.
        """
        place, _, own = name.rpartition(".")
        layer: Any = model.get_submodule(place)
        if value.shape != getattr(layer, own).shape:
            self._taken.discard(name)
            return False
        layer._parameters[own] = nn.Parameter(value, requires_grad=False)  # noqa: SLF001 - as transformers does
        if any(tensor.is_meta for tensor in layer.parameters(recurse=False)):
            return True
        if isinstance(layer, Conv1D):
            layer = put_in_place(model, place, as_linear(layer), of=layer)
        self.quantization_config.quantize_now(model, place)
        _keep(model.get_submodule(place))
        return True


def _shared(model: PreTrainedModel) -> set[str]:
    """Names of the tensors that have several: what one of them becomes, the others must not be."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(tensor), []).append(name)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    several = (name for known in names.values() if len(known) > 1 for name in known)
    return {*several, *tied.keys(), *tied.values()}


def _keep(layer: Any) -> None:
    """Tells transformers that a layer is filled: it fills whatever else no tensor was read for."""
    layer._is_hf_initialized = True  # noqa: SLF001 - there is no public way
    for tensor in layer.parameters():
        tensor._is_hf_initialized = True  # noqa: SLF001 - asked by models that fill others' layers


class _Take(ConversionOps):  # type: ignore[misc]  # transformers is not typed here
    def __init__(self, quantizer: LayerQuantizer) -> None:
        self._quantizer = quantizer

    def convert(
        self,
        input_dict: dict[str, Any],
        model: PreTrainedModel,
        missing_keys: set[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        """The tensors that it does not take, by name."""
        left = {}
        for name, values in input_dict.items():
            value = values[0] if isinstance(values, list) else values
            wanted = self._quantizer.param_needs_quantization(model, name)
            if not wanted or not self._quantizer.take(model, name, value):
                left[name] = value
            elif missing_keys is not None:
                missing_keys.discard(name)
        return left
