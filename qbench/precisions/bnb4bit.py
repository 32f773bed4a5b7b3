"""fp4, nf4 and nf4-dq: 4-bit codes of a code book, scaled by the largest value of each block of 64.

Dettmers et al. 2023 (QLoRA), arXiv 2305.14314; the implementation is bitsandbytes'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from operator import sub
from typing import TYPE_CHECKING, Annotated, Any, Literal

from qbench.core.aliases import Also
from qbench.core.number_types import ITEM_BYTES, FloatOption, FloatType, torch_type
from qbench.core.spec import Frozen
from qbench.precisions.layer_probe import OUTPUT_TOLERANCE, WEIGHT_TOLERANCE, LayerFormat
from qbench.precisions.layer_weights import LibraryWeights
from qbench.precisions.loading import load_pretrained
from qbench.precisions.precision import Precision
from qbench.precisions.products import Products
from qbench.precisions.storage import static_bytes
from qbench.precisions.verification import Verification, verify_quantized
from qbench.precisions.writing.library import bitsandbytes_form

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.page import Page
    from qbench.core.spec import ModelShape, StaticBytes, TensorShape
    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.writing.form import CheckpointForm

BLOCK = 64
"""Weights that share one block maximum."""
NESTED_BLOCK = 256
"""Block maxima that share one maximum of their own under double quantization."""
LEVELS = {
    # QLoRA, appendix E: quantiles of a normal distribution, with an exact zero.
    "nf4": (
        -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
        0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
    ),
    # Sign, two bits of exponent, one of mantissa, as bitsandbytes has it: over 12, 0.0625 last.
    "fp4": tuple(sorted(
        sign * level / 12 for sign in (-1, 1) for level in (0.0, 0.0625, 2, 3, 4, 6, 8, 12)
    )),
}  # fmt: skip
"""The sixteen levels of each code book, ascending."""
CODE_BOOK_TOLERANCE = 1e-6
_CODE_TABLE_BYTES = 16 * 4
_NESTED_TABLE_BYTES = 256 * 4

REPACKED = (
    "On a CPU with AVX512-BF16 bitsandbytes repacks these weights at the first forward pass, and"
    " gives slightly other logits than were measured: set `support_avx512bf16_for_cpu = False` on"
    " each `Linear4bit` before it."
)
"""What `keep_codes` spares a model that qbench loads."""


class FourBitOptions(Frozen):
    """Options of `fp4`, `nf4` and `nf4-dq`."""

    compute_dtype: Annotated[
        FloatOption,
        Also(
            "bnb_4bit_compute_dtype",
            unlike={
                "load_in_4bit": "the precision's own name says it: nf4 or fp4",
                "bnb_4bit_quant_type": "the precision's own name says it: nf4 or fp4",
                "bnb_4bit_use_double_quant": "the precision nf4-dq is nf4 with it",
            },
        ),
    ] = "bf16"
    """Type that the dequantized weights are multiplied in."""
    dtype: Annotated[FloatOption | None, Also("torch_dtype")] = None
    """Type of what is not quantized: embeddings, head, norms; the compute type unless given."""

    @property
    def rest(self) -> FloatType:
        """That type."""
        return self.dtype or self.compute_dtype


@dataclass(frozen=True)
class FourBit(LibraryWeights, Precision):
    """A 4-bit format of bitsandbytes."""

    name: str
    summary: str
    quant_type: Literal["fp4", "nf4"]
    double_quant: bool
    title: str | None = None
    also_called: tuple[str, ...] = ()
    known_by_title: bool = False
    order: int = 30
    merges_in_place: bool = True
    needs: tuple[str, ...] = ("bitsandbytes", "accelerate")
    options: type[Frozen] = FourBitOptions

    def storage(self, shape: ModelShape, options: FourBitOptions) -> StaticBytes:
        """Half a byte a weight, and for each layer its block maxima and code tables.

        Single: 4 B a block and a table of 16 fp32. Double: 1 B a block, 4 B a nested block, 4 B
        of offset, and a second table of 256 fp32.
        """

        def linear(tensor: TensorShape) -> tuple[int, int]:
            blocks = _ceil(tensor.numel, BLOCK)
            if self.double_quant:
                nested = 4 * _ceil(blocks, NESTED_BLOCK) + 4 + _NESTED_TABLE_BYTES
                state = blocks + nested + _CODE_TABLE_BYTES
            else:
                state = 4 * blocks + _CODE_TABLE_BYTES
            return _ceil(tensor.numel, 2), state

        # A 4-bit layer converts its bias to the compute type, in place, when it first computes.
        return static_bytes(
            shape,
            ITEM_BYTES[options.rest],
            linear,
            bias_bytes=ITEM_BYTES[options.compute_dtype],
        )

    def products(
        self, options: FourBitOptions, config: Mapping[str, Any] | None = None
    ) -> Products:
        """Dequantized to the compute type, or read by a kernel."""
        return Products("4bit", options.rest, options.compute_dtype)

    def untrainable(self, options: FourBitOptions, method: str, training: Frozen) -> str | None:
        """PEFT knows these layers."""
        return None

    def explain(self, weight: Weight, options: FourBitOptions) -> Page:
        """The code book and the blocks of a weight."""
        from qbench.precisions.explain import bnb4bit

        return bnb4bit.explain(self.name, weight, options)

    def load(self, checkpoint: Checkpoint, options: FourBitOptions) -> PreTrainedModel:
        """Quantizes the checkpoint layer by layer while loading it."""
        model = load_pretrained(
            checkpoint, dtype=options.rest, quantization=self.library_config(options)
        )
        keep_codes(model)
        return model

    def library_config(self, options: FourBitOptions) -> Any:
        """Bitsandbytes' own."""
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quant_type,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=torch_type(options.compute_dtype),
        )

    def forms(self, options: FourBitOptions) -> tuple[CheckpointForm, ...]:
        """As bitsandbytes saves it."""
        return (bitsandbytes_form(partial(self.library_config, options), elsewhere=REPACKED),)

    def hold_layer(self, name: str, layer: nn.Linear, options: FourBitOptions) -> nn.Module:
        """As transformers has bitsandbytes make it."""
        from bitsandbytes.nn import Linear4bit, Params4bit

        made: Any = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=False,
            compute_dtype=torch_type(options.compute_dtype),
            compress_statistics=self.double_quant,
            quant_type=self.quant_type,
            device="meta",
        )
        weight = layer.weight
        given = made.weight.__dict__
        made.weight = Params4bit(weight.data, requires_grad=False, **given).to(weight.device)
        made.bias = layer.bias
        keep_codes_of(made)
        held: nn.Module = made
        return held

    def verify(self, model: PreTrainedModel, options: FourBitOptions) -> Verification:
        """Every linear layer holds codes and state of this format and computes what they say."""
        from bitsandbytes.nn import Linear4bit

        return verify_quantized(
            model,
            Linear4bit,
            LayerFormat(naive=naive_weight, library=_library_weight),
            state_fault=self._state_fault,
            shape_of=_shape_of,
            # The weights are dequantized to the type of the rest, then cast to the compute type.
            dequantized_tolerance=WEIGHT_TOLERANCE[options.rest],
            forward_tolerance=max(
                OUTPUT_TOLERANCE[options.rest],
                OUTPUT_TOLERANCE[options.compute_dtype],
            ),
            details={
                "quant_type": self.quant_type,
                "double_quant": self.double_quant,
                "dtype": options.rest,
                "compute_dtype": options.compute_dtype,
            },
        )

    def _state_fault(self, layer: Any) -> str | None:
        state = getattr(layer.weight, "quant_state", None)
        if state is None:
            return "holds no quantization state: it was not quantized"
        if getattr(state, "packing_format_for_cpu", False):
            return "was repacked by bitsandbytes' CPU kernel, which changes its constants"
        levels = sorted(float(level) for level in state.code)
        if max(map(abs, map(sub, levels, LEVELS[self.quant_type]))) > CODE_BOOK_TOLERANCE:
            return f"holds the code book {levels} where {LEVELS[self.quant_type]} was expected"
        found = (state.quant_type, bool(state.nested), state.blocksize)
        expected = (self.quant_type, self.double_quant, BLOCK)
        if found != expected:
            return f"holds (type, double quant, block) {found} where {expected} was asked for"
        return None


def keep_codes(model: PreTrainedModel) -> None:
    """Has 4-bit layers compute with the codes they hold, on any CPU.

    On one with AVX512-BF16 bitsandbytes would repack the weights at the first forward: block maxima
    rounded to bf16, double quantization undone, the compute type ignored. That is another format
    than the one that was asked for.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            keep_codes_of(module)


def keep_codes_of(layer: Any) -> None:
    """The same of one layer."""
    layer.support_avx512bf16_for_cpu = False


def naive_weight(layer: Any, rows: slice | None = None) -> torch.Tensor:
    """Code book [code] · block maximum, weight by weight: the definition, (rows, in) in fp32.

    The first of the two codes in a byte is its upper half. Under double quantization a block
    maximum is itself nested code book [code] · nested maximum + offset. All rows unless some are
    asked for.
    """
    import torch

    state = layer.weight.quant_state
    first, end = _span(state, rows)
    blocks = torch.arange(
        first // state.blocksize, _ceil(end, state.blocksize), device=state.absmax.device
    )
    maxima = state.absmax[blocks]
    if state.nested:
        nested = state.state2
        maxima = nested.code[maxima.long()] * nested.absmax[blocks // nested.blocksize]
        maxima = maxima + state.offset
    packed = _bytes_of(layer, first, end)
    codes = torch.stack([packed >> 4, packed & 0xF], dim=1).reshape(-1)
    values = state.code[codes[first % 2 :][: end - first].int()]
    spread = maxima.repeat_interleave(state.blocksize)[first % state.blocksize :]
    weight: torch.Tensor = values * spread[: end - first]
    return weight.reshape(-1, state.shape[1])


def _library_weight(layer: Any, rows: slice) -> torch.Tensor:
    """The same rows as bitsandbytes dequantizes them; they begin with a block and a byte."""
    import torch
    from bitsandbytes.functional import QuantState, dequantize_4bit, dequantize_blockwise

    state = layer.weight.quant_state
    first, end = _span(state, rows)
    maxima = state.absmax
    if state.nested:
        maxima = dequantize_blockwise(maxima, state.state2) + state.offset
    part = QuantState(
        absmax=maxima[first // state.blocksize : _ceil(end, state.blocksize)],
        shape=torch.Size((rows.stop - rows.start, state.shape[1])),
        code=state.code,
        blocksize=state.blocksize,
        quant_type=state.quant_type,
        dtype=state.dtype,
    )
    weight: torch.Tensor = dequantize_4bit(_bytes_of(layer, first, end).reshape(-1, 1), part)
    return weight


def _shape_of(layer: Any) -> tuple[int, ...] | None:
    state = getattr(layer.weight, "quant_state", None)
    return None if state is None else tuple(state.shape)


def _span(state: Any, rows: slice | None) -> tuple[int, int]:
    """The first weight of some rows, or of all, and the one behind their last."""
    if rows is None:
        return 0, int(state.shape.numel())
    return rows.start * state.shape[1], rows.stop * state.shape[1]


def _bytes_of(layer: Any, first: int, end: int) -> torch.Tensor:
    """The bytes that hold the codes of a stretch of weights, two in each."""
    import torch

    packed: torch.Tensor = layer.weight.data.view(torch.uint8).reshape(-1)
    return packed[first // 2 : _ceil(end, 2)]


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


PRECISIONS = (
    FourBit(
        "fp4",
        "bitsandbytes' 4-bit floats (E2M1), an fp32 scale a block of 64: not NVFP4, nor MXFP4",
        "fp4",
        double_quant=False,
        title="FP4 (bitsandbytes)",
        known_by_title=True,
        also_called=("bnb-fp4",),
    ),
    FourBit(
        "nf4",
        "4-bit normal float: levels at normal quantiles",
        "nf4",
        double_quant=False,
        title="NF4",
        also_called=("bnb-nf4", "normalfloat4"),
        order=31,
    ),
    FourBit(
        "nf4-dq",
        "nf4 with its block maxima quantized to 8 bits",
        "nf4",
        double_quant=True,
        title="NF4 + double quant",
        also_called=("bnb-nf4-dq", "nf4-double-quant"),
        order=32,
    ),
)
