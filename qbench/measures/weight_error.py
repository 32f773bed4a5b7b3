"""Where the damage is: the error of each linear layer's weights against the checkpoint's.

Needs no text and takes seconds: the weights as the layer holds them, dequantized, beside those of
the checkpoint, which an fp32 reference holds unchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError, NonFiniteError
from qbench.core.record import MetricDefinition
from qbench.core.spec import Frozen, Item
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement
from qbench.sources.models.gguf_models import METHOD
from qbench.sources.models.headers import weight_files

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel

METRICS = (
    MetricDefinition(
        name="weight_error.relative",
        unit="1",
        varies_by="nothing",
        better="lower",
        title="relative error of the linear weights",
        formula="Frobenius norm of (held - checkpoint) over that of the checkpoint's, all linear"
        " layers but the head together",
    ),
    MetricDefinition(
        name="weight_error.snr",
        unit="dB",
        varies_by="nothing",
        better="higher",
        title="signal-to-noise ratio of the linear weights",
        formula="10 log10(sum of the checkpoint's squares / sum of squared errors)",
        also_called=("SQNR",),
    ),
    MetricDefinition(
        name="weight_error.worst",
        unit="1",
        varies_by="nothing",
        better="lower",
        title="relative error of the worst layer",
        formula="the largest relative error of a single layer; details.layers names them all",
    ),
)


class WeightErrorOptions(Frozen):
    """`weight_error` has no options."""


@dataclass(frozen=True)
class WeightError(Measurement):
    """How far each layer's weights are from the checkpoint's."""

    name: str = "weight_error"
    summary: str = "error of each linear layer's weights, worst first; needs no text"
    options: type[Frozen] = WeightErrorOptions
    metrics: tuple[MetricDefinition, ...] = METRICS

    def misfit(self, options: Frozen, model: ResolvedModel) -> None:
        """Any checkpoint can be compared with."""

    def items(self, options: Frozen, model: ResolvedModel, base: Path) -> list[Item]:
        """One item: all linear layers."""
        return [Item(measurement=self.name, slug="linear")]

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Reads the checkpoint's weights one by one beside the loaded layers."""
        import torch
        from transformers.pytorch_utils import Conv1D

        from qbench.precisions import precisions
        from qbench.precisions.verification import linear_layers

        if loaded.resolved.quantization == METHOD:
            raise MeasurementError(
                "a GGUF file holds no other weights than those that are loaded; measure the"
                " original model in a gguf-* precision"
            )
        originals = _Originals(loaded.checkpoint.folder, loaded.model.base_model_prefix)
        held_in = precisions()[loaded.cell.precision.name]
        layers: list[dict[str, Any]] = []
        signal = noise = 0.0
        with torch.inference_mode():
            for name, layer in linear_layers(loaded.model):
                held = held_in.weights(layer)
                original = originals.weight(name).to(held.device)
                if getattr(layer, "source_cls", None) is Conv1D:
                    original = original.T  # stored as (in, out), quantized as (out, in)
                if held.shape != original.shape:
                    raise MeasurementError(
                        f"{name}: the layer holds {tuple(held.shape)}, the checkpoint"
                        f" {tuple(original.shape)}: its weights are not loaded one to one"
                    )
                own_signal = float(original.double().square().sum())
                own_noise = float((held.double() - original.double()).square().sum())
                signal, noise = signal + own_signal, noise + own_noise
                layers.append(
                    {
                        "name": name,
                        "shape": list(held.shape),
                        "relative_error": math.sqrt(own_noise / own_signal) if own_signal else None,
                        "snr_db": _decibel(own_signal, own_noise),
                    }
                )
        if not math.isfinite(signal + noise):
            raise NonFiniteError("weights of the linear layers are infinite or not numbers")
        if not signal:
            raise MeasurementError("the checkpoint's linear layers hold nothing but zeros")
        layers.sort(key=lambda layer: layer["relative_error"] or 0.0, reverse=True)
        return Outcome(
            metrics=(
                make_metric(METRICS, "weight_error.relative", math.sqrt(noise / signal)),
                make_metric(
                    METRICS,
                    "weight_error.snr",
                    _decibel(signal, noise),
                    reason="there is no error: the weights equal the checkpoint's",
                ),
                make_metric(METRICS, "weight_error.worst", layers[0]["relative_error"] or 0.0),
            ),
            details={"layers": layers},
        )


class _Originals:
    """The weights that are loaded from a folder, read one at a time."""

    def __init__(self, folder: Path, prefix: str) -> None:
        from safetensors import safe_open

        open_file: Any = safe_open  # untyped in safetensors
        self._prefix = prefix
        self._files: dict[str, Any] = {}
        for path in weight_files(folder):
            file = open_file(path, framework="pt")
            self._files.update(dict.fromkeys(file.keys(), file))

    def weight(self, module: str) -> torch.Tensor:
        """The weight of a module; old checkpoints leave out the base model's prefix."""
        inner = module.removeprefix(f"{self._prefix}.")
        for name in (f"{module}.weight", f"{inner}.weight"):
            if name in self._files:
                tensor: torch.Tensor = self._files[name].get_tensor(name)
                return tensor
        raise MeasurementError(
            f"{module}: the checkpoint holds no weight of that name: transformers makes it from"
            " others while loading, so it cannot be compared with one"
        )


def _decibel(signal: float, noise: float) -> float | None:
    return 10 * math.log10(signal / noise) if noise and signal else None


WEIGHT_ERROR = WeightError()
