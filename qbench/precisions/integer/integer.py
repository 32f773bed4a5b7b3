"""Integers with scale and zero point: 2 to 8 bits, by tensor, row or group, through torchao.

A weight w is held as a code q = round(w/scale) + zero point, clipped to the code's range; Jacob et
al. 2018, arXiv 1712.05877. torchao 0.18 keeps each code in a byte whatever its width: the bytes of
a record are those, and `bits_per_weight.nominal` says what packed codes would take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.core.number_types import ITEM_BYTES, torch_type
from qbench.precisions.by_layer import load_layer_by_layer
from qbench.precisions.conversion import conversion_misfit
from qbench.precisions.emulated import dequantized_first, held_wider, rounded_inputs
from qbench.precisions.integer.misfit import integer_misfit, no_layer_fits
from qbench.precisions.integer.options import (
    ALSO_CALLED,
    NOT_BY_DEFAULT,
    SHORT_NAMES,
    STORED_BITS,
    IntegerOptions,
    group_fits,
    scale_count,
    short_options,
)
from qbench.precisions.integer.packed import pack_layer, packed_storage, why_simulated
from qbench.precisions.layer_weights import LibraryWeights
from qbench.precisions.loading import load_pretrained
from qbench.precisions.precision import Precision
from qbench.precisions.storage import static_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.page import Page
    from qbench.core.spec import Frozen, ModelShape, ResolvedModel, StaticBytes, TensorShape
    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.products import Products
    from qbench.precisions.verification import Verification
    from qbench.precisions.writing.form import CheckpointForm


@dataclass(frozen=True)
class Integer(LibraryWeights, Precision):
    """An integer format: with all options free, or with a short name's fixed."""

    name: str
    summary: str
    options: type[Frozen]
    by_default: bool = True
    also_called: tuple[str, ...] = ()
    needs: tuple[str, ...] = ("torchao",)
    order: int = 40

    def for_device(self, options: IntegerOptions, device: str, *, bf16: bool) -> dict[str, Any]:
        """The packed kernel where it runs."""
        runs = device == "cuda" and bf16 and why_simulated(options) is None
        return {"kernel": "packed"} if runs and options.kernel == "auto" else {}

    def misplaced(self, options: IntegerOptions, device: str, *, bf16: bool) -> str | None:
        """The packed kernel needs a GPU."""
        if options.kernel != "packed" or (device == "cuda" and bf16):
            return None
        return (
            "kernel: packed needs CUDA and compute capability 8.0 or later; leave kernel out, and"
            " the codes are simulated here, with the same quality"
        )

    def loads_whole(self, options: IntegerOptions) -> bool:
        """Where it is calibrated: the floating model must see text."""
        return options.calibrates

    def misfit(self, options: IntegerOptions, model: ResolvedModel) -> str | None:
        """A group that divides no layer, or a calibration window beyond the context."""
        return conversion_misfit(model) or integer_misfit(options, model)

    def products(
        self, options: IntegerOptions, config: Mapping[str, Any] | None = None
    ) -> Products:
        """Dequantized by torchao, codes and zero points apart, or products of integers."""
        return options.products

    def unlike_served(self, options: IntegerOptions, device: str) -> str | None:
        """The int8 kernels and the packed one multiply codes; all others are dequantized first."""
        if options.uses_int8_kernel or options.kernel == "packed":
            return None
        if options.activations != "none":
            return rounded_inputs()
        return dequantized_first() if options.bits == STORED_BITS else held_wider()

    def untrainable(self, options: IntegerOptions, method: str, training: Frozen) -> str | None:
        """No gradient passes inputs that are rounded."""
        if method == "lora" and options.kernel == "packed":
            return (
                "torchao passes no gradient through the packed kernel; leave kernel out of what is"
                " trained on"
            )
        if method == "lora" and options.activations != "none":
            return (
                f"{self.name} rounds its inputs, and torchao passes no gradient through that:"
                " adapters below would learn nothing; train on weights alone (int8-wo, int4-g32),"
                " or use method: qat"
            )
        return None

    def rounding(self, options: IntegerOptions) -> IntegerOptions:
        """Its own grid."""
        return options

    def explain(self, weight: Weight, options: IntegerOptions) -> Page:
        """Grid, codes, scales and zero points of a weight."""
        from qbench.precisions.explain import integer

        return integer.explain(self.name, weight, options)

    def storage(self, shape: ModelShape, options: IntegerOptions) -> StaticBytes:
        """A byte a weight, and for each scale its bytes and a zero point of one byte.

        Scales are of the type of the rest, as is AWQ's factor an input; for the int8 kernels fp32,
        and with them come 4 B a layer of static activations and 4 B an input of SmoothQuant.
        Packed: half a byte a weight, 4 B a scale with its zero, padded to what the kernel takes.
        """
        item = ITEM_BYTES[options.dtype]

        def linear(tensor: TensorShape) -> tuple[int, int]:
            if not group_fits(options, tensor.in_features):
                return tensor.numel * item, 0
            scales = scale_count(options, tensor.out_features, tensor.in_features)
            if options.kernel == "packed" and options.group is not None:
                return packed_storage(tensor.out_features, tensor.in_features, options.group)
            if not options.uses_int8_kernel:
                factors = tensor.in_features if options.weights == "awq" else 0
                return tensor.numel, scales * (item + 1) + factors * item
            state = scales * (4 + 1)
            state += 4 if options.activations == "static" else 0
            state += 4 * tensor.in_features if options.weights == "smoothquant" else 0
            return tensor.numel, state

        return static_bytes(shape, item, linear)

    def packed_bytes(self, shape: ModelShape, options: IntegerOptions) -> float | None:
        """Static bytes if codes, and zero points that are not all 0, took their `bits`."""
        if options.bits == STORED_BITS or options.kernel == "packed":
            return None
        saved = 0.0
        for tensor in shape.tensors:
            if tensor.role != "linear" or tensor.layer == "own class":
                continue
            if group_fits(options, tensor.in_features):
                zero_points = scale_count(options, tensor.out_features, tensor.in_features)
                kept = options.bits / 8 if options.mapping == "asymmetric" else 0
                saved += tensor.numel * (1 - options.bits / 8) + zero_points * (1 - kept)
        return self.storage(shape, options).total - saved

    def load(self, checkpoint: Checkpoint, options: IntegerOptions) -> PreTrainedModel:
        """Quantizes the checkpoint layer by layer: as it is read, or after it has seen text.

        Raises `ModelError` where no layer can be quantized, and `TextError` or `ModelError` for a
        calibration that cannot be done.
        """
        if options.calibrates:
            return _load_calibrated(checkpoint, options)
        widths: set[int] = set()

        def quantize(name: str, layer: nn.Linear) -> None:
            widths.add(layer.in_features)
            self.hold_layer(name, layer, options)

        model = load_layer_by_layer(checkpoint, dtype=options.dtype, quantize=quantize)
        if not any(group_fits(options, width) for width in widths):
            raise _nothing_fits(checkpoint, options, widths)
        return model

    def hold_layer(self, name: str, layer: nn.Linear, options: IntegerOptions) -> None:
        """With codes for its weight, where the group divides its width."""
        from qbench.precisions.integer.layers import quantize_layer

        if group_fits(options, layer.in_features):
            quantize_layer(layer, options, torch_type(options.dtype))
            if options.kernel == "packed":
                pack_layer(layer)

    def library_config(self, options: IntegerOptions) -> Any | None:
        """Torchao's own, where it rounds to nearest levels."""
        from qbench.precisions.integer.config import torchao_config

        return None if options.calibrates else torchao_config(options)

    def is_all_in_weights(self, options: IntegerOptions) -> bool:
        """Not where inputs are rounded."""
        return options.activations == "none"

    def forms(self, options: IntegerOptions) -> tuple[CheckpointForm, ...]:
        """Packed by compressed-tensors, or as torchao holds them."""
        from qbench.precisions.integer.written import integer_forms

        return integer_forms(options)

    def unwritable(self, options: IntegerOptions) -> str:
        """What no library's checkpoint has of it."""
        from qbench.precisions.integer.written import why_unwritable

        return why_unwritable(options)

    def unmixable(self, options: IntegerOptions) -> str | None:
        """What is calibrated sees the inputs of a model that is floating as a whole."""
        if not options.calibrates:
            return None
        return (
            f"{self.name} is calibrated: its constants come from what the layers of a whole model"
            " see of a text; choose a format that is made of the weights alone"
        )

    def verify(self, model: PreTrainedModel, options: IntegerOptions) -> Verification:
        """Every layer that a group divides holds codes in range, and computes what they say."""
        from qbench.precisions.integer.verified import verify_integers

        return verify_integers(model, options)


def _load_calibrated(checkpoint: Checkpoint, options: IntegerOptions) -> PreTrainedModel:
    """The whole model is loaded in the type of the rest first."""
    import torch

    from qbench.precisions.integer.calibration import calibrate
    from qbench.precisions.integer.layers import layers_to_quantize
    from qbench.precisions.plain_layers import replace_conv1d

    model = load_pretrained(checkpoint, dtype=options.dtype)
    replace_conv1d(model)
    layers = layers_to_quantize(model, options)
    if not layers:
        widths = {m.in_features for m in model.modules() if type(m) is torch.nn.Linear}
        raise _nothing_fits(checkpoint, options, widths)
    calibrate(model, layers, options, checkpoint)
    if options.kernel == "packed":
        for layer in layers.values():
            pack_layer(layer)
    return model


def _nothing_fits(checkpoint: Checkpoint, options: IntegerOptions, widths: set[int]) -> ModelError:
    return ModelError(f"{checkpoint.folder}: {no_layer_fits(options.group, widths)}")


PRECISIONS = (
    *(
        Integer(
            name,
            summary,
            short_options(name),
            by_default=name not in NOT_BY_DEFAULT,
            also_called=ALSO_CALLED.get(name, ()),
        )
        for name, (summary, _) in SHORT_NAMES.items()
    ),
    Integer(
        "integer",
        "integer weights of 2 to 8 bits, every option free",
        IntegerOptions,
        by_default=False,  # it says nothing without options
    ),
)
