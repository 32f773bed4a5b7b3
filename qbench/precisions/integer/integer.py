"""Integers with scale and zero point: 2 to 8 bits, by tensor, row or group, through torchao.

A weight w is held as a code q = round(w/scale) + zero point, clipped to the code's range; Jacob et
al. 2018, arXiv 1712.05877. torchao 0.18 keeps each code in a byte whatever its width: the bytes of
a record are those, and `bits_per_weight.nominal` says what packed codes would take.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.core.number_types import ITEM_BYTES, torch_type
from qbench.precisions.by_layer import load_layer_by_layer
from qbench.precisions.conversion import conversion_misfit
from qbench.precisions.emulated import dequantized_first, held_wider, rounded_inputs
from qbench.precisions.integer.misfit import fitting_group, integer_misfit, no_layer_fits
from qbench.precisions.integer.options import (
    ALSO_CALLED,
    KERNEL_MULTIPLE,
    NOT_BY_DEFAULT,
    SHORT_NAMES,
    IntegerOptions,
    group_fits,
    scale_count,
    short_options,
)
from qbench.precisions.layer_probe import OUTPUT_TOLERANCE, WEIGHT_TOLERANCE, LayerFormat
from qbench.precisions.layer_weights import LibraryWeights
from qbench.precisions.loading import load_pretrained
from qbench.precisions.precision import Precision
from qbench.precisions.products import MOST_ROWS_IN_FP32
from qbench.precisions.storage import static_bytes
from qbench.precisions.verification import MOST_NAMED, Verification, verify_quantized

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.page import Page
    from qbench.core.spec import Frozen, ModelShape, ResolvedModel, StaticBytes, TensorShape
    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.products import Products

_STORED_BITS = 8
"""Of a code, whatever its width."""
_ROUNDED_INPUTS_TOLERANCE = 0.01
"""The same where inputs are rounded to 8 bits: one near the middle of two levels may go either
way, since the library computes the scale in the inputs' own type."""


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
        """The int8 kernels multiply codes; all others are dequantized first."""
        if options.uses_int8_kernel:
            return None
        if options.activations != "none":
            return rounded_inputs()
        return dequantized_first() if options.bits == _STORED_BITS else held_wider(options.bits)

    def untrainable(self, options: IntegerOptions, method: str, training: Frozen) -> str | None:
        """No gradient passes inputs that are rounded."""
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
        """
        item = ITEM_BYTES[options.dtype]

        def linear(tensor: TensorShape) -> tuple[int, int]:
            if not group_fits(options, tensor.in_features):
                return tensor.numel * item, 0
            scales = scale_count(options, tensor.out_features, tensor.in_features)
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
        if options.bits == _STORED_BITS:
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
        from qbench.precisions.integer.layers import quantize_layer

        widths: set[int] = set()

        def quantize(_: str, layer: nn.Linear) -> None:
            widths.add(layer.in_features)
            if group_fits(options, layer.in_features):
                quantize_layer(layer, options, torch_type(options.dtype))

        model = load_layer_by_layer(checkpoint, dtype=options.dtype, quantize=quantize)
        if not any(group_fits(options, width) for width in widths):
            raise _nothing_fits(checkpoint, options, widths)
        return model

    def verify(self, model: PreTrainedModel, options: IntegerOptions) -> Verification:
        """Every layer that a group divides holds codes in range, and computes what they say."""
        from torch import nn

        from qbench.precisions.integer import layers as integer_layers

        def state_fault(layer: Any) -> str | None:
            return _state_fault(layer, options)

        found = verify_quantized(
            model,
            nn.Linear,
            LayerFormat(
                naive=integer_layers.naive_codes_weight,
                library=integer_layers.library_codes_weight,
                naive_output=integer_layers.naive_output,
                library_output=integer_layers.library_output,
            ),
            is_left_out=lambda layer: (
                not integer_layers.is_quantized(layer)
                and not (type(layer) is nn.Linear and group_fits(options, layer.in_features))
            ),
            state_fault=state_fault,
            shape_of=lambda layer: tuple(layer.weight.shape),
            dequantized_tolerance=WEIGHT_TOLERANCE[options.dtype],
            forward_tolerance=OUTPUT_TOLERANCE[options.dtype]
            if options.activations == "none"
            else _ROUNDED_INPUTS_TOLERANCE + OUTPUT_TOLERANCE[options.dtype],
            details={
                "quant_type": f"int{options.bits}",
                **{
                    name: getattr(options, name)
                    for name in (
                        *("mapping", "granularity", "group", "scales", "activations", "weights"),
                    )
                },
                "dtype": options.dtype,
                "compute_dtype": _computed_in(model, options),
                "code_bits_nominal": options.bits,
                "code_bits_stored": _STORED_BITS,
                "nominal_linear_bytes": _nominal_bytes(model, options),
                "calibration": getattr(model, "calibration", None),
            },
        )
        return replace(found, warnings=(*_group_warnings(model, options), *found.warnings))


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
    return model


def _nothing_fits(checkpoint: Checkpoint, options: IntegerOptions, widths: set[int]) -> ModelError:
    return ModelError(f"{checkpoint.folder}: {no_layer_fits(options.group, widths)}")


def _state_fault(layer: Any, options: IntegerOptions) -> str | None:
    from qbench.precisions.integer.layers import is_quantized

    if not is_quantized(layer):
        return f"holds {layer.weight.dtype} where codes of torchao were expected"
    weight = layer.weight
    low, high = int(weight.qdata.min()), int(weight.qdata.max())
    limit = 2 ** (options.bits - 1)
    count = scale_count(options, layer.out_features, layer.in_features)
    wrong = {
        f"holds codes from {low} to {high}, beyond those of {options.bits} bits": low < -limit
        or high >= limit,
        f"holds {weight.scale.numel()} scales where {count} were expected": weight.scale.numel()
        != count,
        "holds zero points other than 0, though it is symmetric": options.mapping == "symmetric"
        and bool(weight.zero_point.any()),
        "holds no calibrated scale for its inputs": options.activations == "static"
        and weight.act_quant_scale is None,
        f"holds no factors of {options.weights}": options.weights in {"awq", "smoothquant"}
        and getattr(weight, "act_pre_scale", None) is None,
    }
    return next((words for words, is_so in wrong.items() if is_so), None)


def _computed_in(model: PreTrainedModel, options: IntegerOptions) -> str:
    """What the layers multiply in on the device that they lie on, as torchao 0.18 does it."""
    if not options.uses_int8_kernel:
        return options.dtype
    kernel = "int8 x int8, int32 sums"
    if model.device.type != "cuda":
        return kernel
    from qbench.precisions.verification import linear_layers

    odd = sum(
        any(width % KERNEL_MULTIPLE for width in (layer.in_features, layer.out_features))
        for _, layer in linear_layers(model)
    )
    words = (
        f"{kernel}; up to {MOST_ROWS_IN_FP32} rows in fp32; the weight is copied at each call to"
        " lie as the kernel wants it"
    )
    return f"{words}; {odd} layers of odd widths in int32 on the CPU" if odd else words


def _nominal_bytes(model: PreTrainedModel, options: IntegerOptions) -> float:
    """Bytes of the linear layers if codes, and zero points that are not 0, took `bits` each."""
    from qbench.precisions.integer.layers import is_quantized
    from qbench.precisions.inventory import state_tensors
    from qbench.precisions.verification import linear_layers

    total = 0.0
    for _, layer in linear_layers(model):
        weight = layer.weight
        if not is_quantized(layer):
            total += weight.numel() * weight.element_size()
            continue
        total += weight.qdata.numel() * options.bits / 8
        for tensor in state_tensors(weight):
            if tensor is not weight.zero_point:
                total += tensor.numel() * tensor.element_size()
            elif options.mapping == "asymmetric":
                total += tensor.numel() * options.bits / 8
    return total


def _group_warnings(model: PreTrainedModel, options: IntegerOptions) -> tuple[str, ...]:
    """Which layers the group left unquantized, and which groups would divide them all."""
    from qbench.precisions.verification import linear_layers

    widths = {name: layer.in_features for name, layer in linear_layers(model)}
    left = [name for name, width in widths.items() if not group_fits(options, width)]
    if not left:
        return ()
    named = ", ".join(f"{name} ({widths[name]} wide)" for name in left[:MOST_NAMED])
    more = " …" if len(left) > MOST_NAMED else ""
    words = (
        f"group {options.group} does not divide the width of {len(left)} linear layers"
        f" ({named}{more}), which stay in {options.dtype}; {fitting_group(set(widths.values()))}"
    )
    return (words,)


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
