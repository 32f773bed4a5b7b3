"""gguf-*: a model's matrices in llama.cpp's block formats, mixed as its file types mix them.

The bytes are those that a GGUF file has: made by the package gguf, those of K-quants by qbench
after llama.cpp's reference. Each layer keeps them and makes weights of them when it computes, so
that quality and bytes are real. Time is not: llama.cpp's kernels multiply with the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qbench.core.number_types import FP32, ITEM_BYTES, FloatOption, FloatType
from qbench.core.spec import Frozen
from qbench.precisions.by_layer import load_layer_by_layer
from qbench.precisions.conversion import conversion_misfit
from qbench.precisions.gguf.layouts import AT_ONCE
from qbench.precisions.gguf.mixes import BLOCK, MIXES, fallback, types_of
from qbench.precisions.precision import Precision
from qbench.precisions.products import Products
from qbench.precisions.storage import fixed_bytes, static_bytes
from qbench.precisions.verification import first_few
from qbench.sources.models.gguf_types import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.page import Page
    from qbench.core.spec import ModelShape, ResolvedModel, StaticBytes, TensorShape
    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.verification import Verification

NOT_SERVED = (
    "weights are made of the blocks anew at each product; llama.cpp multiplies with the blocks"
    " themselves, by kernels of its own"
)


class GgufOptions(Frozen):
    """Options of `gguf-*`."""

    dtype: FloatOption = "bf16"
    """Type of what is not in blocks: norms, biases and activations; what is quantized is rounded to
    it first, as a checkpoint is before it becomes a GGUF file."""
    embeddings: bool = True
    """Whether the token embedding and the output head are in blocks too, of the types that
    llama.cpp gives them; else they stay in `dtype`, as other precisions leave them."""
    pure: bool = False
    """Whether every matrix gets the type that gives the mixture its name, as `llama-quantize
    --pure` does it; else more sensitive ones get more bits, as llama.cpp mixes them."""


@dataclass(frozen=True)
class Gguf(Precision):
    """One of llama.cpp's file types."""

    name: str
    summary: str
    mix: str
    """The file type, such as `q4_k_m`."""
    title: str
    also_called: tuple[str, ...] = ()
    needs: tuple[str, ...] = ("gguf",)
    options: type[Frozen] = GgufOptions
    by_default: bool = False
    order: int = 42

    def misfit(self, options: GgufOptions, model: ResolvedModel) -> str | None:
        """A model that has no row of whole blocks of the type."""
        return conversion_misfit(model) or self._too_narrow(model)

    def _too_narrow(self, model: ResolvedModel) -> str | None:
        if model.shape is None:
            return None
        kind = MIXES[self.mix]
        widths = {one.in_features for one in model.shape.tensors if one.role == "linear"}
        if not widths or any(BY_NAME[kind].fits(width) for width in widths):
            return None
        shown = ", ".join(map(str, sorted(widths)))
        if any(width % BLOCK == 0 for width in widths):
            instead = types_of(model.shape.tensors, self.mix, pure=True, embeddings=False)
            other = next(type_ for type_ in instead.values() if type_ is not None)
            remedy = f"llama.cpp would take {other} instead: choose gguf-{other.lower()}"
        else:
            remedy = f"no GGUF type has shorter blocks than {BLOCK}; choose another precision"
        return (
            f"{kind} holds rows that are multiples of {BY_NAME[kind].weights} weights, and the"
            f" linear layers are {shown} wide: none would be {kind}; {remedy}"
        )

    def unlike_served(self, options: GgufOptions, device: str) -> str:
        """On no device are these llama.cpp's kernels."""
        return NOT_SERVED

    def products(self, options: GgufOptions, config: Mapping[str, Any] | None = None) -> Products:
        """Made of the blocks, some rows at a time, in the type of the inputs."""
        return block_products(options.dtype)

    def storage(self, shape: ModelShape, options: GgufOptions) -> StaticBytes:
        """Rows times the bytes of their blocks; the rest in its own type."""
        return block_storage(shape, self.types_of(shape.tensors, options), options.dtype)

    def types_of(
        self, tensors: Iterable[TensorShape], options: GgufOptions
    ) -> dict[str, str | None]:
        """The type of each matrix by its name; see `mixes.types_of`."""
        return types_of(tensors, self.mix, pure=options.pure, embeddings=options.embeddings)

    def untrainable(self, options: GgufOptions, method: str, training: Frozen) -> str | None:
        """It is a format of files to be served; nothing trains on it."""
        return (
            f"{self.name} is a format to serve: no library trains adapters on its blocks; train on"
            " another precision, merge, and serve the result in it"
        )

    def load(self, checkpoint: Checkpoint, options: GgufOptions) -> PreTrainedModel:
        """Makes blocks of each linear layer as it is read, then of the embedding and the head."""
        from qbench.precisions.gguf.convert import hold, hold_tables, shapes_of_matrices
        from qbench.precisions.gguf.skeleton import skeleton_of

        kinds = self.types_of(shapes_of_matrices(skeleton_of(checkpoint)), options)
        model = load_layer_by_layer(
            checkpoint,
            dtype=options.dtype,
            quantize=lambda name, layer: hold(layer, kinds.get(f"{name}.weight")),
            weight_bytes=BY_NAME[MIXES[self.mix]].bits / 8,
        )
        hold_tables(model, kinds)
        return model

    def in_mix(self, options: GgufOptions) -> GgufOptions:
        """Its type alone: what else a file type mixes in is for the mix to say."""
        return options.model_copy(update={"pure": True, "embeddings": False})

    def hold_layer(self, name: str, layer: nn.Linear, options: GgufOptions) -> None:
        """In blocks of its type, or of that which llama.cpp takes for rows of another width."""
        from qbench.precisions.gguf.convert import hold

        hold(layer, fallback(MIXES[self.mix], layer.in_features))

    def unwritable(self, options: GgufOptions) -> str:
        """Blocks are not all that a file holds."""
        return (
            "qbench reads .gguf files and writes none, since they hold a tokenizer in llama.cpp's"
            " own form too; export the model in a floating type, and make the file by llama.cpp's"
            " convert_hf_to_gguf.py and llama-quantize"
        )

    def verify(self, model: PreTrainedModel, options: GgufOptions) -> Verification:
        """Every matrix holds blocks of the type that the mixture gives it."""
        from qbench.precisions.gguf.convert import shapes_of_matrices
        from qbench.precisions.gguf.verify import verify_blocks

        shapes = shapes_of_matrices(model)
        details = {
            "quant_type": MIXES[self.mix],
            "file_type": self.mix.upper(),
            "pure": options.pure,
            "embeddings": options.embeddings,
        }
        found = verify_blocks(model, self.types_of(shapes, options), options.dtype, details)
        return replace(found, warnings=(*self._replaced(shapes, options), *found.warnings))

    def _replaced(self, shapes: Iterable[TensorShape], options: GgufOptions) -> tuple[str, ...]:
        """Which linear layers have rows that the type of the mixture does not fit."""
        kind = MIXES[self.mix]
        narrow = [
            one
            for one in shapes
            if one.role == "linear" and not BY_NAME[kind].fits(one.in_features)
        ]
        if not narrow:
            return ()
        named = first_few(
            [
                f"{one.name.removesuffix('.weight')}: {one.in_features} wide,"
                f" {fallback(kind, one.in_features) or options.dtype}"
                for one in narrow
            ]
        )
        words = (
            f"{kind} holds rows that are multiples of {BY_NAME[kind].weights} weights, and"
            f" {len(narrow)} linear layers have others, which have the type that llama.cpp takes"
            f" instead, or stay as they are ({named})"
        )
        return (words,)

    def weights(self, layer: Any) -> torch.Tensor:
        """Made of the blocks."""
        from qbench.precisions.gguf.verify import layer_weights

        return layer_weights(layer)

    def row_multiple(self, options: GgufOptions) -> int:
        """Of the type that most matrices have."""
        return BY_NAME[MIXES[self.mix]].weights

    def explain(self, weight: Weight, options: GgufOptions) -> Page:
        """A block of a weight, taken apart."""
        from qbench.precisions.explain import gguf

        return gguf.explain(self.name, self.mix, self.summary, weight, options)


def block_products(dtype: FloatType) -> Products:
    """Of layers that make weights of blocks in a type: in fp32 first, some rows at a time."""
    copies = 2 if dtype == FP32 else 3
    return Products("dequantized", dtype, dtype, group=BLOCK, copies=copies, at_once=AT_ONCE)


def block_storage(
    shape: ModelShape, kinds: Mapping[str, str | None], dtype: FloatType
) -> StaticBytes:
    """Bytes of a model whose matrices are in blocks of these types, by name; None: in none."""
    item = ITEM_BYTES[dtype]

    def held(tensor: TensorShape) -> int:
        kind = kinds.get(tensor.name)
        if kind is None:
            return fixed_bytes(tensor, item)
        return tensor.out_features * BY_NAME[kind].row_bytes(tensor.in_features)

    plain = static_bytes(shape, item, lambda tensor: (held(tensor), 0))
    tables = sum(held(one) for one in shape.tensors if one.role in {"embedding", "head"})
    return plain.model_copy(update={"embeddings_and_head": tables})


def _gguf(mix: str, summary: str, *also: str) -> Gguf:
    names = () if mix == "mxfp4" else (mix, *also)  # of MXFP4 there are others
    return Gguf(f"gguf-{mix}", summary, mix, f"GGUF {mix.upper()}", names)


PRECISIONS = (
    _gguf("q8_0", "8-bit codes, a scale for each 32"),
    _gguf("q6_k", "6-bit codes in blocks of 256, a step for each 16"),
    _gguf("q5_k_m", "5-bit codes in blocks of 256, and 6 bits where it matters", "q5_k"),
    _gguf("q5_k_s", "5-bit codes in blocks of 256"),
    _gguf("q5_1", "5-bit codes, a scale and a minimum for each 32"),
    _gguf("q5_0", "5-bit codes, a scale for each 32"),
    _gguf("q4_k_m", "4-bit codes in blocks of 256, and 6 bits where it matters", "q4_k"),
    _gguf("q4_k_s", "4-bit codes in blocks of 256, and 5 bits in the first layers"),
    _gguf("q4_1", "4-bit codes, a scale and a minimum for each 32"),
    _gguf("q4_0", "4-bit codes, a scale for each 32"),
    _gguf("mxfp4", "4-bit floating codes (e2m1), an exponent for each 32, in GGUF's blocks"),
    _gguf("q3_k_l", "3-bit codes in blocks of 256, and 5 bits where it matters"),
    _gguf("q3_k_m", "3-bit codes in blocks of 256, 4 and 5 bits where it matters", "q3_k"),
    _gguf("q3_k_s", "3-bit codes in blocks of 256"),
    _gguf("q2_k", "2-bit codes in blocks of 256, 3 and 4 bits where it matters"),
)
