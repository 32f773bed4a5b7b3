"""Layers of a checkpoint that was loaded, held against what its files say by definition.

It does not matter what a library makes of the codes: numbers in their place, or words in an order
of its kernels' own. What is compared is what the file has with what the layer computes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qbench.precisions.checkpoint_formats.activations import rounded_product, rounds_inputs
from qbench.precisions.checkpoint_formats.definitions import definition
from qbench.precisions.checkpoint_formats.experts import check_blocks, experts_of
from qbench.precisions.inventory import inventory, logical_weights
from qbench.precisions.layer_probe import Distance, LayerFormat, device_of, probe_layer
from qbench.precisions.verification import (
    NOT_AS_ASKED,
    WRONG_CHECKPOINT,
    WRONG_KERNEL,
    Verification,
    attention_backend,
    first_few,
    head_name,
    left_out_warnings,
    linear_layers,
    unquantized_matrices,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qbench.precisions.checkpoint_formats.experts import Experts
    from qbench.precisions.checkpoint_formats.files import CheckpointFiles, ModuleFiles
    from qbench.precisions.checkpoint_formats.layer_definition import Definition

WEIGHT_TOLERANCE = {"fp32": 1e-5, "bf16": 6e-3, "fp16": 1e-3}
"""Rounding of a scale and of the weight that comes of it to the type of the rest."""
OUTPUT_TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2, "fp16": 2e-3}
"""Rounding of weights, sums and outputs, relative to the output's norm."""
ROUNDED_INPUTS_TOLERANCE = 0.02
"""The same where inputs are rounded to 8 bits, in the inputs' own type: one near the middle of two
levels may go either way."""
NOWHERE = "no layers of the model as transformers builds it: they are not loaded, or not checked"
ON_TRUST = (
    "not compared with the definition of their format, as other layers are: what they compute is"
    " not checked"
)


def check_files(files: CheckpointFiles) -> None:
    """Raises `ModelError` for the first module of which the files hold what cannot be.

    Libraries load some of that without a word.
    """
    for held in files.modules.values():
        definition(held, files.quantization)
        check_blocks(held)


def verify_by_files(
    model: PreTrainedModel, files: CheckpointFiles, *, method: str, rest: str
) -> Verification:
    """Every layer whose codes are in the files computes with the weights that they stand for.

    `rest` is the type of what is not quantized, as qbench calls it.
    """
    layers = dict(model.named_modules())
    found = _Found(rest, model.dtype)
    of_experts: dict[str, ModuleFiles] = {}
    for stored_name, held in files.modules.items():
        names = (stored_name, f"{model.base_model_prefix}.{stored_name}")
        name = next((one for one in names if hasattr(layers.get(one), "in_features")), None)
        if name is None:
            of_experts[stored_name] = held
        else:
            found.look_at_layer(name, layers[name], held, files)
    for experts in experts_of(model, of_experts, files.quantization):
        found.look_at_experts(experts)
    nowhere = [name for name in of_experts if _parent(name) not in found.experts]
    plain = [name for name, _ in linear_layers(model) if name not in found.layers]
    plain += [name for name in unquantized_matrices(model) if name not in found.experts]
    if not found.layers and not found.experts:
        found.faults.append(("no layer of the model holds codes", WRONG_CHECKPOINT))
    return Verification(
        details={
            "stored": method,
            "dtype": rest,
            "linear_modules": len(plain) + len(found.layers),
            "quantized_modules": len(found.layers) + len(found.experts),
            "quantized_weights": found.weights,
            "quantized_share": found.weights / logical_weights(model),
            "left_out": [*plain, *head_name(model)],
            "not_checked": [*found.unchecked, *nowhere],
            **found.packed_bytes(model),
            **{f"largest_{kind}_error": error for kind, error in found.errors.items()},
            "attention": attention_backend(model),
        },
        faults=tuple(words for words, _ in found.faults),
        warnings=(
            *_said(found.unchecked, "layers", ON_TRUST),
            *_said(nowhere, "modules that the files have codes of", NOWHERE),
            *left_out_warnings(plain),
        ),
        remedy=found.faults[0][1] if found.faults else WRONG_KERNEL,
        nonfinite=found.nonfinite,
    )


@dataclass
class _Found:
    """What was found so far."""

    rest: str
    activations: torch.dtype
    layers: set[str] = field(default_factory=set)
    """Names of the layers that the files have codes of."""
    experts: set[str] = field(default_factory=set)
    """Names of the modules of which they have fused tensors' codes."""
    weights: int = 0
    """Of those that are as they should be, or that nobody can check."""
    errors: dict[str, float] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    nonfinite: bool = False
    packed: dict[str, int] = field(default_factory=dict)
    """Bytes of codes and state in the files, by the layer, or the experts' tensor, as loaded."""

    def look_at_layer(
        self, name: str, layer: Any, held: ModuleFiles, files: CheckpointFiles
    ) -> None:
        """Holds a layer against the definition of what the files have of it."""
        place = f"{name} ({layer.out_features}×{layer.in_features})"
        self.layers.add(name)
        self.packed[name] = held.bytes
        defined = definition(held, files.quantization)
        product, size = rounded_product(layer), layer.out_features * layer.in_features
        if defined is None or (product is None and rounds_inputs(layer)):
            self.unchecked.append(name)
            self.weights += size
            return
        if defined.shape != (layer.out_features, layer.in_features):
            words = (
                f"{place}: the checkpoint holds its weights as {'×'.join(map(str, defined.shape))}"
            )
            self.faults.append((words, WRONG_CHECKPOINT))
            return
        tried = _format(layer, defined, product)
        probed = probe_layer(layer, tried, self.activations)
        of_inputs = OUTPUT_TOLERANCE[self.rest] if product is None else ROUNDED_INPUTS_TOLERANCE
        errors = {"output": (probed.output_error, of_inputs)}
        if tried.library is not None:
            errors["weight"] = (probed.weights_error, WEIGHT_TOLERANCE[self.rest])
        self._judge(place, errors, probed.nonfinite, size)

    def look_at_experts(self, experts: Experts) -> None:
        """Holds a tensor of all experts against the definition of what the files have of each."""
        place = f"{experts.module}.{experts.own_name} ({'×'.join(map(str, experts.held.shape))})"
        self.experts.add(experts.module)
        self.packed[f"{experts.module}.{experts.own_name}"] = experts.packed_bytes
        distance, nonfinite = Distance(), 0
        for index, one in enumerate(experts.held):
            naive = experts.naive(index).to(one.device)
            if naive.shape != one.shape:
                words = f"{place}: the checkpoint holds one as {'×'.join(map(str, naive.shape))}"
                self.faults.append((words, WRONG_CHECKPOINT))
                return
            nonfinite += int((~naive.isfinite()).sum())
            distance.add(one, naive)
        errors = {"weight": (distance.relative, WEIGHT_TOLERANCE[self.rest])}
        self._judge(place, errors, nonfinite, experts.held.numel())

    def _judge(
        self, place: str, errors: dict[str, tuple[float, float]], nonfinite: int, weights: int
    ) -> None:
        """Notes errors, each with what rounding may make of it."""
        if nonfinite:
            self.nonfinite = True
            words = f"{place}: {nonfinite} of its weights are infinite or not numbers"
            self.faults.append((words, WRONG_CHECKPOINT))
            return
        for kind, (error, _) in errors.items():
            self.errors[kind] = max(self.errors.get(kind, 0.0), error)
        wrong = [
            f"{kind} off by {error:.2g} where {tolerance:g} is rounding"
            for kind, (error, tolerance) in errors.items()
            if not error <= tolerance
        ]
        if wrong:
            words = (
                f"{place}: what was loaded is not what the checkpoint's codes say (relative error:"
                f" {', '.join(wrong)})"
            )
            # Weights that are wrong in memory are so on any device.
            self.faults.append((words, NOT_AS_ASKED if "weight" in errors else WRONG_KERNEL))
        else:
            self.weights += weights

    def packed_bytes(self, model: PreTrainedModel) -> dict[str, int]:
        """What linear layers, and all else but embeddings, would take as the files have them.

        Nothing where what is held takes no more: plain numbers do, and words that a kernel spreads.
        """
        linear = other = held_here = 0
        for held in inventory(model):
            size = held.tensor.untyped_storage().nbytes()
            held_here += size if held.kind in ("linear", "quantization_state", "other") else 0
            if held.kind in ("linear", "quantization_state"):
                linear += 0 if held.module in self.layers else size
            elif held.kind == "other":
                is_fused = held.module in self.experts and held.tensor.dim() > 2
                other += 0 if is_fused else size
        of_layers = sum(size for name, size in self.packed.items() if name in self.layers)
        of_experts = sum(self.packed.values()) - of_layers
        linear, other = linear + of_layers, other + of_experts
        if linear + other >= held_here:
            return {}
        return {"nominal_linear_bytes": linear, "nominal_other_bytes": other}


def _parent(name: str) -> str:
    """The module of all experts, of the name of one expert's matrix; or of a fused tensor's own."""
    return re.sub(r"\.\d+\.\w+$", "", name)


def _said(names: list[str], of_what: str, words: str) -> tuple[str, ...]:
    """What a reader must know of some layers, if there are any."""
    if not names:
        return ()
    return (f"{len(names)} {of_what} ({first_few(names)}) are {words}",)


def _format(layer: Any, defined: Definition, product: Any) -> LayerFormat:
    """How a layer is tried: by the weights that it tells of, and by what it makes of inputs."""
    return LayerFormat(
        naive=lambda one, part: defined.rows(part).to(device_of(one)),
        library=_library_weights(layer),
        naive_output=product,
        # In a sequence, as models have them: compressed-tensors takes rows by themselves for one.
        library_output=lambda one, inputs: one(inputs[None])[0],
    )


def _library_weights(layer: Any) -> Any:
    """How a layer tells some rows of its weights; None for one that only multiplies with them."""
    weight = getattr(layer, "weight", None)
    if hasattr(weight, "qdata"):
        from qbench.precisions.integer.layers import library_codes_weight

        return library_codes_weight
    if weight is None or not weight.is_floating_point() or weight.element_size() == 1:
        return None
    return lambda one, part: one.weight[part]
