"""fp8 and its kind as precisions: how they are loaded, counted, verified and explained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.core.number_types import BF16, ITEM_BYTES, torch_type
from qbench.precisions.by_layer import load_layer_by_layer
from qbench.precisions.conversion import conversion_misfit
from qbench.precisions.emulated import dequantized_first, rounded_inputs
from qbench.precisions.floating_codes.emulated_linear import emulate
from qbench.precisions.floating_codes.fp8 import Fp8
from qbench.precisions.floating_codes.mx import Mx
from qbench.precisions.floating_codes.nvfp4 import Nvfp4
from qbench.precisions.floating_codes.options import (
    FloatingCodesOptions,
    Fp8DynamicOptions,
    Fp8Options,
    MxDynamicOptions,
    MxOptions,
    Nvfp4DynamicOptions,
)
from qbench.precisions.layer_probe import OUTPUT_TOLERANCE, WEIGHT_TOLERANCE, LayerFormat
from qbench.precisions.layer_weights import LibraryWeights
from qbench.precisions.precision import Precision
from qbench.precisions.products import Products
from qbench.precisions.storage import static_bytes
from qbench.precisions.verification import Verification, too_narrow, verify_quantized, with_widths

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.page import Page
    from qbench.core.record import Environment
    from qbench.core.spec import Frozen, ModelShape, ResolvedModel, StaticBytes, TensorShape
    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.floating_codes.coding import Coding
    from qbench.precisions.writing.form import CheckpointForm

_ROUNDED_INPUTS_TOLERANCE = 0.01
"""An input near the middle of two levels may go either way: torchao scales by a reciprocal."""


@dataclass(frozen=True)
class FloatingCodes(LibraryWeights, Precision):
    """Linear layers whose weights are floating-point codes with scales."""

    name: str
    summary: str
    coding: Coding
    options: type[Frozen] = FloatingCodesOptions
    title: str | None = None
    also_called: tuple[str, ...] = ()
    order: int = 22
    by_default: bool = False
    needs: tuple[str, ...] = ("torchao",)

    def misfit(self, options: FloatingCodesOptions, model: ResolvedModel) -> str | None:
        """A block that divides the width of no layer."""
        reason = conversion_misfit(model)
        if reason is not None or model.shape is None:
            return reason
        widths = {tensor.in_features for tensor in model.shape.tensors if tensor.role == "linear"}
        return None if any(map(self.coding.fits, widths)) else self._no_layer_fits(widths)

    def _no_layer_fits(self, widths: Collection[int]) -> str:
        return (
            f"{self.name} has a scale for {self.coding.block} weights of a row, which divides the"
            f" width of no linear layer ({', '.join(map(str, sorted(widths)))}): nothing would be"
            " quantized; choose a precision whose scales are those of whole rows"
        )

    def products(
        self, options: FloatingCodesOptions, config: Mapping[str, Any] | None = None
    ) -> Products:
        """Dequantized by torchao; with activations how much that takes is not known."""
        if options.activations != "none":
            return Products("rounded", options.dtype, options.dtype, group=self.coding.block)
        return self.coding.products(options)

    def incapable(self, options: FloatingCodesOptions, environment: Environment) -> str | None:
        """On CUDA codes are multiplied with codes, which takes a GPU that can, in bf16."""
        if options.activations == "none" or environment.device_type != "cuda":
            return None
        least, found = self.coding.capability, environment.capability
        if found is not None and found < least:
            return (
                f"{self.name} multiplies codes with codes, for which CUDA needs capability"
                f" {_version(least)}; {environment.device} has {_version(found)}: quantize the"
                " weights alone (activations: none), or emulate it on a CPU (--device cpu)"
            )
        if options.dtype != BF16:
            return f"CUDA's kernels for {self.name} give bf16, not {options.dtype}: set dtype: bf16"
        return None

    def row_multiple(self, options: FloatingCodesOptions) -> int | None:
        """The block, where there is one."""
        return self.coding.block

    def pools_batch(self, options: FloatingCodesOptions) -> bool:
        """Where rows of rounded inputs share a scale."""
        return options.activations == "dynamic" and self.coding.pools_batch(options)

    def unlike_served(self, options: FloatingCodesOptions, device: str) -> str | None:
        """Weights alone are dequantized first; with activations it is so on a CPU."""
        if options.activations == "none":
            return dequantized_first()
        return None if device.startswith("cuda") else rounded_inputs()

    def untrainable(
        self, options: FloatingCodesOptions, method: str, training: Frozen
    ) -> str | None:
        """No gradient passes inputs that are rounded."""
        if method == "lora" and options.activations != "none":
            return (
                f"{self.name} rounds its inputs, and no gradient passes through that: adapters"
                " below would learn nothing; train on the weights alone (activations: none)"
            )
        return super().untrainable(options, method, training)

    def storage(self, shape: ModelShape, options: FloatingCodesOptions) -> StaticBytes:
        """Codes of their own width, and the scales beside them."""
        item = ITEM_BYTES[options.dtype]

        def linear(tensor: TensorShape) -> tuple[int, int]:
            if not self.coding.fits(tensor.in_features):
                return tensor.numel * item, 0
            size = (tensor.out_features, tensor.in_features)
            return self.coding.code_bytes(*size), self.coding.state_bytes(options, *size)

        return static_bytes(shape, item, linear)

    def load(self, checkpoint: Checkpoint, options: FloatingCodesOptions) -> PreTrainedModel:
        """Quantizes the checkpoint layer by layer as it is read.

        Raises `ModelError` where no layer can be quantized.
        """
        widths: set[int] = set()

        def quantize(name: str, layer: nn.Linear) -> nn.Module:
            widths.add(layer.in_features)
            made: nn.Module = self.hold_layer(name, layer, options)
            return made

        model = load_layer_by_layer(
            checkpoint,
            dtype=options.dtype,
            quantize=quantize,
            weight_bytes=self.coding.code_bits / 8,
        )
        if not any(map(self.coding.fits, widths)):
            raise ModelError(f"{checkpoint.folder}: {self._no_layer_fits(widths)}")
        return model

    def hold_layer(self, name: str, layer: Any, options: FloatingCodesOptions) -> Any:
        """The layer, if it fits with codes for its weight; codes are computed in fp32.

        Where no kernel of torchao's multiplies them, a layer that emulates it.
        """
        import torch

        coding, rounds = self.coding, options.activations == "dynamic"
        if not coding.fits(layer.in_features):
            return layer
        weight = layer.weight.data.float()
        kernel = rounds and weight.is_cuda and coding.suits_kernel(*weight.shape)
        codes = coding.quantize(weight, options, torch_type(options.dtype), kernel=kernel)
        layer.weight = torch.nn.Parameter(codes, requires_grad=False)
        if kernel or (coding.dequantizes and not rounds):
            return layer
        return emulate(layer, partial(coding.round_inputs, options=options) if rounds else None)

    def library_config(self, options: FloatingCodesOptions) -> Any | None:
        """Torchao's own, of weights alone that it multiplies itself."""
        return None if options.activations != "none" else self.coding.library_config(options)

    def forms(self, options: FloatingCodesOptions) -> tuple[CheckpointForm, ...]:
        """Those of its coding."""
        return self.coding.forms(options)

    def unwritable(self, options: FloatingCodesOptions) -> str:
        """What its coding says."""
        return self.coding.unwritable(options)

    def verify(self, model: PreTrainedModel, options: FloatingCodesOptions) -> Verification:
        """Every layer that fits holds codes and scales of this format, and computes with them."""
        from torch import nn

        def naive_output(_: Any, weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
            return self.coding.naive_inputs(inputs, options) @ weight.T

        rounds = options.activations == "dynamic"
        found = verify_quantized(
            model,
            nn.Linear,
            LayerFormat(
                naive=lambda layer, rows: self.coding.naive_weight(layer.weight, rows),
                library=_library_weight,
                naive_output=naive_output if rounds else None,
            ),
            is_left_out=lambda layer: (
                not is_coded(layer)
                and not (type(layer) is nn.Linear and self.coding.fits(layer.in_features))
            ),
            state_fault=lambda layer: self._state_fault(layer, options),
            shape_of=lambda layer: tuple(layer.weight.shape),
            dequantized_tolerance=WEIGHT_TOLERANCE[options.dtype],
            forward_tolerance=OUTPUT_TOLERANCE[options.dtype]
            + (_ROUNDED_INPUTS_TOLERANCE if rounds else 0.0),
            details={
                "quant_type": self.coding.quant_type,
                **options.model_dump(),
                "block": self.coding.block,
                "compute_dtype": options.dtype,
            },
        )
        return replace(found, warnings=(*self._block_warnings(model, options), *found.warnings))

    def _block_warnings(
        self, model: PreTrainedModel, options: FloatingCodesOptions
    ) -> tuple[str, ...]:
        """Which layers the block left unquantized."""
        left = too_narrow(model, self.coding.fits)
        if not left:
            return ()
        words = (
            f"the {self.coding.block} weights that share a scale do not divide the width of"
            f" {len(left)} linear layers ({with_widths(left)}), which stay in {options.dtype}"
        )
        return (words,)

    def _state_fault(self, layer: Any, options: FloatingCodesOptions) -> str | None:
        if not is_coded(layer):
            return f"holds {layer.weight.dtype} where codes of torchao were expected"
        size = (layer.out_features, layer.in_features)
        codes = layer.weight.qdata
        held = codes.numel() * codes.element_size()
        if held != self.coding.code_bytes(*size):
            return (
                f"holds {held} bytes of codes where {self.coding.code_bytes(*size)} were expected"
            )
        found, expected = (
            layer.weight.scale.numel(),
            self.coding.scales(options, *size),
        )
        if found != expected:
            return f"holds {found} scales where {expected} were expected"
        return None

    def explain(self, weight: Weight, options: FloatingCodesOptions) -> Page | None:
        """What codes and scales are, then what they make of a weight."""
        from qbench.precisions.explain.sections import joined, section

        made = super().explain(weight, options)
        if made is None:
            return None
        held = section("How it holds a number", self.coding.told)
        return replace(made, parts=joined(held, made.parts))

    def rounded(self, values: torch.Tensor, options: FloatingCodesOptions) -> torch.Tensor | None:
        """As torchao quantizes and dequantizes it; None where its width does not fit."""
        if not self.coding.fits(values.shape[1]):
            return None
        codes = self.coding.quantize(values.contiguous(), options, torch_type(options.dtype))
        found: torch.Tensor = codes.dequantize()
        return found.float()


def is_coded(layer: Any) -> bool:
    """Whether the layer's weight is one of torchao's tensors of codes."""
    return hasattr(layer.weight, "qdata")


def _library_weight(layer: Any, rows: slice) -> torch.Tensor:
    found: torch.Tensor = layer.weight[rows].dequantize()
    return found


def _version(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


PRECISIONS = (
    FloatingCodes(
        "fp8",
        "8-bit floating-point weights (E4M3), a scale a row",
        Fp8(),
        Fp8Options,
        "FP8",
        also_called=("float8_weight_only", "float8wo", "fp8-e4m3", "w8a16-fp8"),
    ),
    FloatingCodes(
        "fp8-w8a8",
        "fp8 weights and activations, a scale a row and a token",
        Fp8(),
        Fp8DynamicOptions,
        "FP8 W8A8",
        order=23,
        also_called=(
            "float8_dynamic_activation_float8_weight",
            "float8dq",
            "fp8-dynamic",
            "w8a8-fp8",
        ),
    ),
    FloatingCodes(
        "mxfp8",
        "8-bit floating-point weights (E4M3), a power of two a block of 32",
        Mx(8),
        MxOptions,
        "MXFP8",
        order=24,
        also_called=("mxfp8-e4m3",),
    ),
    FloatingCodes(
        "mxfp8-w8a8",
        "mxfp8 weights and activations",
        Mx(8),
        MxDynamicOptions,
        "MXFP8 W8A8",
        order=25,
        also_called=("mxfp8_dynamic_activation_mxfp8_weight",),
    ),
    FloatingCodes(
        "mxfp4",
        "4-bit floating-point weights (E2M1), a power of two a block of 32",
        Mx(4),
        MxOptions,
        "MXFP4",
        order=33,
    ),
    FloatingCodes(
        "mxfp4-w4a4",
        "mxfp4 weights and activations",
        Mx(4),
        MxDynamicOptions,
        "MXFP4 W4A4",
        order=34,
        also_called=("mxfp4_dynamic_activation_mxfp4_weight",),
    ),
    FloatingCodes(
        "nvfp4",
        "4-bit floating-point weights (E2M1), an 8-bit scale a block of 16, one of 32 bits a layer",
        Nvfp4(),
        FloatingCodesOptions,
        "NVFP4",
        order=35,
        also_called=("nvfp4_weight_only", "nvfp4a16"),
    ),
    FloatingCodes(
        "nvfp4-w4a4",
        "nvfp4 weights and activations",
        Nvfp4(),
        Nvfp4DynamicOptions,
        "NVFP4 W4A4",
        order=36,
        also_called=("nvfp4_dynamic_activation_nvfp4_weight",),
    ),
)
