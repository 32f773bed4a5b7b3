"""How the keys and values of a sequence are kept while a model decodes: the kinds of KV cache.

All are transformers' `QuantizedCache`. `fp8` keeps each layer's keys, and its values, as e4m3 codes
under one scale, which the prompt sets and which stays: what comes later and is larger is clipped.
The integers keep groups of neighbours within a head's vector, each with a scale and a zero point
(asymmetric, as KIVI, arXiv 2402.02750, has them, but a token at a time for keys too). The prompt is
quantized at once; new tokens stay in the model's own type until there are `residual_tokens` of
them, and then all are quantized anew. What a layer's attention reads is dequantized at each step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from qbench.core.aliases import AlsoValues
from qbench.core.number_types import BF16, FP16, FP32
from qbench.precisions.precision import NoOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.spec import Frozen

OWN: Literal["own"] = "own"
"""The name of the cache in the type that the model computes in, which every cell has else."""
KvName = Literal["own", "bf16", "fp16", "fp32", "fp8", "int8", "int4", "int2", "quanto-int4", "quanto-int2"]  # fmt: skip  # noqa: E501
KvOption = Annotated[KvName, AlsoValues({"auto": OWN, "fp8_e4m3": "fp8", "dynamic": OWN})]
"""A kind of cache, or a floating type: the own cache of a model that computes in it."""
FLOATING = (BF16, FP16, FP32)
"""Names of the own cache by its type."""
GROUP_MOST = 64
"""Elements that share a scale, at most."""
_GROUP_LEAST = 8
_SLOWER_THAN_SERVED = (
    "transformers dequantizes a quantized KV cache at each step, on any device: the times are not"
    " those of an engine whose attention reads the codes"
)
_SCALE_BYTES = 4
"""Of fp8's scale, which is held in fp32."""


@dataclass(frozen=True)
class KvCache:
    """One kind of quantized cache."""

    name: str
    bits: int
    """Of a code."""
    backend: Literal["fp8", "hqq", "quanto"]
    """What transformers calls what makes the codes."""
    summary: str
    needs: tuple[str, ...] = ()
    """Packages it needs beside transformers."""
    residual_tokens: int = 128
    """New tokens from which on they are quantized; 1 where each is at once."""
    options: type[Frozen] = NoOptions
    """It has none, as it is listed beside what has."""

    @property
    def is_grouped(self) -> bool:
        """Whether groups of a head's vector have a scale each, and so must fit into it."""
        return self.backend != "fp8"

    @property
    def is_counted(self) -> bool:
        """Whether it is known what the back end takes while it quantizes and dequantizes."""
        return self.backend != "quanto"

    @property
    def identity(self) -> dict[str, object]:
        """What decides its numbers: part of the keys of records."""
        grouped = {"group": GROUP_MOST} if self.is_grouped else {}
        return {
            "name": self.name,
            "backend": self.backend,
            "bits": self.bits,
            "residual_tokens": self.residual_tokens,
            **grouped,
        }

    def residual(self, new_tokens: int, later_parts: Sequence[int] = ()) -> int:
        """Of the tokens that came after a prompt those that are still in the model's own type.

        `later_parts` are the tokens of each forward that read the prompt after the first, in whose
        place a new token is one forward.
        """
        newest = 0
        for part in later_parts:
            newest = newest + part if newest + part < self.residual_tokens else 0
        return (newest + new_tokens) % self.residual_tokens

    def group(self, heads: int, widths: Sequence[int]) -> int | None:
        """Elements that share a scale: the most that go into a head's vectors; None if none do.

        The back ends pack the codes of 2 or 4 groups into the same bytes: a token of all `heads`
        must have as many.
        """
        size = GROUP_MOST
        while size >= _GROUP_LEAST:
            whole = all(width % size == 0 for width in widths)
            if whole and all(heads * width // size % (8 // self.bits) == 0 for width in widths):
                return size
            size //= 2
        return None

    def layer_bytes(
        self, heads: int, widths: Sequence[int], *, batch: int, coded: int, residual: int, item: int
    ) -> int | None:
        """Bytes that a layer keeps of `coded` tokens and `residual` ones in the model's own type.

        `widths` are those of a head's key and value, `item` the bytes of an element of that type.
        None where the shape cannot be held.
        """
        elements = batch * heads * sum(widths)
        if not self.is_grouped:
            return elements * (coded + residual) + len(widths) * _SCALE_BYTES
        group = self.group(heads, widths)
        if group is None:
            return None
        codes = elements * coded * self.bits // 8
        constants = 2 * (elements * coded // group) * item
        return codes + constants + elements * residual * item


_KINDS = (
    KvCache("fp8", 8, "fp8", "e4m3 codes, a scale a layer that the prompt sets", (), 1),
    KvCache("int8", 8, "hqq", "8-bit integers in groups of 64, by HQQ", ("hqq",)),
    KvCache("int4", 4, "hqq", "4-bit integers in groups of 64, by HQQ", ("hqq",)),
    KvCache("int2", 2, "hqq", "2-bit integers in groups of 64, by HQQ", ("hqq",)),
    KvCache(
        "quanto-int4", 4, "quanto", "4-bit integers in groups of 64, by quanto", ("optimum-quanto",)
    ),
    KvCache(
        "quanto-int2", 2, "quanto", "2-bit integers in groups of 64, by quanto", ("optimum-quanto",)
    ),
)


def kv_caches() -> dict[str, KvCache]:
    """The kinds of quantized cache by name; the own one is none of them."""
    return {one.name: one for one in _KINDS}


def kv_cache_named(name: str | None) -> KvCache | None:
    """The kind of quantized cache that a cell names; None for a cell with its own."""
    return None if name is None else kv_caches()[name]


def not_taken(kinds: Sequence[str]) -> str:
    """Why a model with layers of these kinds, as they cache, is not held in a quantized cache."""
    return (
        f"it has layers of {', '.join(kinds)}, and transformers' QuantizedCache takes those of full"
        " attention alone; leave kv_cache out for this model"
    )


def also_of_cache(unlike_served: str | None, kv_cache: str | None) -> str | None:
    """Why times are not those of a format as it is served, with what a kind of cache adds to it."""
    told = [unlike_served] if unlike_served else []
    return "; ".join(told if kv_cache is None else [*told, _SLOWER_THAN_SERVED]) or None
