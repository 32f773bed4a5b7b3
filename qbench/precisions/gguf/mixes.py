"""Which type each matrix of a model gets in a file type of llama.cpp's, such as Q4_K_M.

A file type is a mixture: what is more sensitive gets more bits. The rule is that of
`llama_tensor_get_type_impl` in llama.cpp's `src/llama-quant.cpp`, without an importance matrix; it
looks at names and shapes alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qbench.sources.models.gguf_types import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.core.spec import TensorShape

MIXES = {
    "q8_0": "Q8_0",
    "q6_k": "Q6_K",
    "q5_k_m": "Q5_K",
    "q5_k_s": "Q5_K",
    "q5_1": "Q5_1",
    "q5_0": "Q5_0",
    "q4_k_m": "Q4_K",
    "q4_k_s": "Q4_K",
    "q4_1": "Q4_1",
    "q4_0": "Q4_0",
    "mxfp4": "MXFP4",
    "q3_k_l": "Q3_K",
    "q3_k_m": "Q3_K",
    "q3_k_s": "Q3_K",
    "q2_k": "Q2_K",
}
"""The type that most matrices get, by the file type."""
BLOCK = 32
"""Weights of the shortest blocks: no type holds rows that are no multiple of it."""

_INSTEAD = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""Where a row is not whole blocks of 256 weights."""
_POSITIONS = re.compile(r"wpe|position|token_type")
"""Tables that llama.cpp does not quantize."""
_KINDS = {
    "v": re.compile(r"v_proj|value|c_attn|qkv_proj|query_key_value|Wqkv|kv_b_proj"),
    "k": re.compile(r"k_proj|key"),
    "output": re.compile(r"o_proj|out_proj|attn\.c_proj|(attention|self_attn)\.dense"),
    "down": re.compile(r"down_proj|fc2|mlp\.c_proj|dense_4h_to_h|\bw2\b"),
}
"""What the rule tells apart, by the names that transformers' modules have."""
_MORE_EXPERTS = 8
"""A mixture of so many, as Mixtral is, has more bits for its attention."""
_70B_LAYERS = 80


def types_of(
    tensors: Iterable[TensorShape], mix: str, *, pure: bool = False, embeddings: bool = True
) -> dict[str, str | None]:
    """The type of each matrix that is held in blocks, by the tensor's name.

    None for those that stay in the type of the rest, since no block fits their rows. `pure` gives
    all the type of the mixture; without `embeddings` they and the head are left out.
    """
    known = list(tensors)
    linear = [one for one in known if one.role == "linear" and one.layer != "own class"]
    tables = [one for one in known if embeddings and is_table(one)]
    tied = not any(one.role == "head" for one in known)
    rule = _Rule(mix, linear, known)
    chosen: dict[str, str | None] = {}
    for one in (*linear, *tables):
        if pure:
            kind = MIXES[mix]
        elif one.role == "linear":
            kind = rule.of_layer(one)
        else:
            kind = _of_table(mix, one, is_head=tied or one.role == "head")
        chosen[one.name] = fallback(kind, one.in_features)
    return chosen


def is_table(tensor: TensorShape) -> bool:
    """Whether a tensor is the output head, or the embedding of the tokens."""
    if tensor.role == "embedding":
        return _POSITIONS.search(tensor.name) is None
    return tensor.role == "head"


def fallback(kind: str, width: int) -> str | None:
    """The type of rows of this width where `kind` is asked for; None where no block fits."""
    if BY_NAME[kind].fits(width):
        return kind
    other = _INSTEAD.get(kind)
    return other if other is not None and BY_NAME[other].fits(width) else None


def _of_table(mix: str, table: TensorShape, *, is_head: bool) -> str:
    """Of the head, or an embedding that it shares its matrix with; of another embedding."""
    kind = MIXES[mix]
    if mix == "mxfp4":
        return "Q8_0"
    if not is_head:
        return kind
    whole = BY_NAME[kind].fits(table.in_features)
    return "Q6_K" if whole and kind != "Q8_0" else "Q8_0"


class _Rule:
    """The rule for the linear layers of one model."""

    def __init__(
        self, mix: str, linear: Sequence[TensorShape], known: Sequence[TensorShape]
    ) -> None:
        self.mix = mix
        layers = sorted({_layer(one.name) for one in linear})
        self._place = {number: place for place, number in enumerate(layers)}
        self._count = len(layers)
        self._gqa = _queries_a_key(linear)
        self._experts = max(
            (one.shape[0] for one in known if "experts" in one.name and len(one.shape) == 3),
            default=1,
        )

    def of_layer(self, tensor: TensorShape) -> str:
        """The type of a linear layer."""
        place = self._place[_layer(tensor.name)]
        inner = tensor.name.removesuffix(".weight")
        found = next((kind for kind, name in _KINDS.items() if name.search(inner)), None)
        if found == "v":
            return self._values(place)
        if found == "k" and self._experts == _MORE_EXPERTS and self.mix != "mxfp4":
            return "Q8_0"
        if found == "output":
            return self._output()
        if found == "down":
            return self._down(place)
        return MIXES[self.mix]

    def _values(self, place: int) -> str:
        """Of the attention's values, or of queries, keys and values in one matrix."""
        by_mix: Mapping[str, bool | str] = {
            "q2_k": "Q4_K" if self._gqa >= 4 else "Q3_K",
            "q3_k_m": "Q5_K" if place < 2 else "Q4_K",
            "q3_k_l": "Q5_K",
            "q4_k_m": self._more(place) and "Q6_K",
            "q5_k_m": self._more(place) and "Q6_K",
            "q4_k_s": place < 4 and "Q5_K",
        }
        kind = str(by_mix.get(self.mix) or MIXES[self.mix])
        if self._count == _70B_LAYERS and self._gqa > 1 and kind in {"Q3_K", "Q4_K"}:
            kind = "Q5_K"
        return "Q8_0" if self._experts == _MORE_EXPERTS and self.mix != "mxfp4" else kind

    def _output(self) -> str:
        if self._experts == _MORE_EXPERTS:
            more = self.mix in {"q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m"}
            return "Q5_K" if more else MIXES[self.mix]
        by_mix = {"q2_k": "Q3_K", "q3_k_m": "Q4_K", "q3_k_l": "Q5_K"}
        return by_mix.get(self.mix, MIXES[self.mix])

    def _down(self, place: int) -> str:
        """Of the MLP's last layer."""
        by_mix: Mapping[str, bool | str] = {
            "q2_k": "Q3_K",
            "q3_k_m": "Q5_K" if place < self._count // 16 else "Q4_K",
            "q3_k_l": "Q5_K",
            "q4_k_m": self._more(place) and "Q6_K",
            "q5_k_m": self._more(place) and "Q6_K",
            "q4_k_s": place < self._count // 8 and "Q5_K",
        }
        return str(by_mix.get(self.mix) or MIXES[self.mix])

    def _more(self, place: int) -> bool:
        """The first eighth of the layers, the last one, and every third between."""
        eighth = self._count // 8
        return place < eighth or place >= 7 * self._count // 8 or (place - eighth) % 3 == 2


def _layer(name: str) -> int:
    """The number of the layer that a tensor belongs to; -1 for one that has none."""
    return next((int(part) for part in name.split(".") if part.isdigit()), -1)


def _queries_a_key(linear: Sequence[TensorShape]) -> float:
    """Heads of queries for each head of keys, as far as shapes tell; 1 where they do not."""
    outputs: dict[str, int] = {}
    for one in linear:
        outputs.setdefault(one.name.removesuffix(".weight").rpartition(".")[2], one.out_features)
    queries, keys = outputs.get("q_proj"), outputs.get("k_proj")
    return queries / keys if queries and keys else 1
