"""LoRA through the rounding: what is rounded is the weight with the adapters' product added to it.

torchao's and torchtune's own recipe rounds the frozen weight alone and leaves the adapter beside
it. A frozen weight's rounding never changes, so that is LoRA on the integer precision itself
({method: lora, precision: int4-g32}, QLoRA in other words), and its adapter cannot be merged into
the codes without new rounding. Here the forward pass rounds W + alpha/rank · B·A, so that the
merged weights become the very codes that were trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.finetune.qat.layers import Grid, fake_quantize, save_state
from qbench.precisions.inventory import own_name

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from qbench.precisions.integer.options import IntegerOptions

_ADAPTER = "default"
"""PEFT's name for the first adapter of a model."""


@dataclass(frozen=True, eq=False)
class AdaptedGrid:
    """Rounds a weight to which an adapter's product is added first."""

    grid: Grid
    layer: Any
    """PEFT's layer around the one whose weight is rounded."""
    config: None = None
    """As that of `Grid`."""

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """The rounded sum; the product in fp32, autocast or not."""
        import torch

        with torch.autocast(weight.device.type, enabled=False):
            return self.grid(weight + self.layer.get_delta_weight(_ADAPTER))


def adapt(
    model: PreTrainedModel, options: IntegerOptions, rank: int, alpha: float | None, seed: int
) -> tuple[PeftModel, tuple[str, ...]]:
    """Rounding layers with adapters, which alone require a gradient; in place.

    They begin as PEFT's do after `torch.manual_seed(seed)`. Returns PEFT's model, and what
    `fake_quantize` returns. Raises `MeasurementError` where the format quantizes no layer.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from torchao.quantization.qat.linear import FakeQuantizedLinear

    turned = fake_quantize(model, options)
    targets = [
        name for name, module in model.named_modules() if isinstance(module, FakeQuantizedLinear)
    ]
    torch.manual_seed(seed)
    tuned: PeftModel = get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=rank,
            lora_alpha=2 * rank if alpha is None else alpha,
            target_modules=targets,
        ),
    )
    # The layers compute with their rounded sums, not with the adapters beside them.
    tuned.base_model.disable_adapter_layers()
    for layer in _adapted(model).values():
        inside = layer.base_layer
        inside.weight_fake_quantizer = AdaptedGrid(inside.weight_fake_quantizer, layer)
        layer.lora_A.requires_grad_(requires_grad=True)
        layer.lora_B.requires_grad_(requires_grad=True)
    return tuned, turned


def save_merged(model: PreTrainedModel, turned: tuple[str, ...], folder: Path) -> None:
    """Saves the sums behind the rounding as the checkpoint that the model was loaded from."""
    import torch

    state = {
        own_name(module) + dot + name: tensor
        for key, tensor in model.state_dict().items()
        if ".lora_" not in key
        for module, dot, name in [key.rpartition(".")]
    }
    with torch.no_grad():
        for name, layer in _adapted(model).items():
            state[f"{name}.weight"] = layer.base_layer.weight + layer.get_delta_weight(_ADAPTER)
    save_state(model, state, turned, folder)


def _adapted(model: PreTrainedModel) -> dict[str, Any]:
    """PEFT's layers by the name of the layer that each stands for."""
    return {name: one for name, one in model.named_modules() if hasattr(one, "base_layer")}
