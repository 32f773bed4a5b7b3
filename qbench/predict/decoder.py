"""The operations of transformers' decoders and of PEFT's adapters, for a tape of bytes.

Local variables live here as long as in the modules that these functions follow (transformers 5:
`models.llama`, `.mistral`, `.qwen2`, `.gpt2`, `.opt`, and forward alone `.qwen3`, `.smollm3`,
`.olmo2`, `.phi3`, `.gemma3`, `.mixtral`, `.qwen3_moe`, `.gpt_oss`; `peft.tuners.lora` 0.21;
`bitsandbytes.autograd` 0.50): a temporary that is held during a block there is held here. Trained
embeddings, norms and head are fp32 or bf16 weights; what is quantized is the blocks' linear layers.
N stands for the elements of a hidden state: batch × tokens × hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.predict.attention import Attention
from qbench.predict.gated import gated_layer
from qbench.predict.linear import FP32, Linears
from qbench.predict.norms import layer_norm, rms_norm, wide_rms_norm
from qbench.predict.tape import BATCH, LAYERS, LOGITS_AND_LOSS, Bytes, Edge
from qbench.predict.ungated import gpt2_layer, opt_layer

if TYPE_CHECKING:
    from qbench.predict.shapes import DecoderShape, LayerSort, TrainingSetup
    from qbench.predict.tape import Tape

    Tables = dict[bool, tuple[Bytes, Bytes]]
    """By whether a layer has a window."""
    Masks = dict[bool, Bytes | None]

_INT64 = 8


class Decoder:
    """A decoder; each call of `loss` leaves the trace of a forward pass on the tape."""

    def __init__(self, tape: Tape, shape: DecoderShape, setup: TrainingSetup) -> None:
        self.tape, self.shape, self.setup = tape, shape, setup
        self.tokens = setup.batch * setup.tokens
        self.linears = self._make_linears()
        self.attention = self._make_attention()
        self._embedding = self._table(shape.vocabulary)
        self._positions = self._table(shape.positions)
        self._layers = [
            {
                **{
                    part: weight
                    for name, linear in shape.linears.items()
                    for part, weight in self.linears.weights(name, linear).items()
                },
                **self._norm_weights("norm1"),
                **self._norm_weights("norm2"),
                **self._head_norms(),
            }
            for _ in range(shape.layers)
        ]
        self._last_norm = self._norm_weights("norm")
        self._head = self._embedding if shape.tied else self._table(shape.vocabulary)

    def _make_linears(self) -> Linears:
        return Linears(self.tape, self.setup)

    def _make_attention(self) -> Attention:
        return Attention(self.linears, self.shape, self.setup)

    def loss(self) -> Bytes:
        """The summed loss of a batch, as the training loop takes it."""
        logits = self._logits()
        self.tape.leave_autocast()
        targets = self.tape.op(self.tokens, _INT64)
        wide = self.tape.cast(logits, FP32)
        # The log-softmax keeps its output; the loss reads that and the targets. 4 bytes a logit.
        logarithms = self.tape.op(wide.elements, FP32, [wide], saves_output=True)
        return self.tape.op(1, FP32, [logarithms], saved=[logarithms, targets])

    def _logits(self) -> Bytes:
        tape, shape = self.tape, self.shape
        tape.part = LAYERS
        # The model's forward keeps its names for these until it returns.
        hidden, *_embedded = self._embed()
        tape.part = BATCH
        places = tape.op(self.setup.tokens if shape.gated else self.tokens, _INT64)
        tables = self._rotary_tables(hidden.item_bytes)
        masks = self._masks(hidden.item_bytes)
        for index, weights in enumerate(self._layers):
            tape.border(index)
            own = shape.sort(index)

            def run(
                entering: Bytes,
                weights: dict[str, Bytes] = weights,
                sort: LayerSort = own,
                _places: Bytes = places,
            ) -> Bytes:
                return self._layer(entering, weights, sort, tables, masks)

            tape.part = LAYERS
            hidden = tape.checkpoint(run, hidden) if self.setup.checkpointing else run(hidden)
        tape.border(None)
        tape.part = LOGITS_AND_LOSS
        hidden = self.norm(hidden, self._last_norm, "norm")
        return self.linears.multiply(hidden, self._head, None, shape.vocabulary)

    def _embed(self) -> tuple[Bytes, ...]:
        """The input of the first block, then what it was made of."""
        tape, shape, item = self.tape, self.shape, self.setup.rest_bytes
        found = tape.op(self.tokens * shape.hidden, item, [self._embedding])
        if self.setup.checkpointing and self.setup.method == "lora":
            # transformers asks for its gradient, which only another kind of checkpointing needs.
            found.edge = Edge(found.size)
            tape.pin(found)
        if shape.norm == "gemma":
            found = tape.op(found.elements, item, [found])  # times the root of hidden
        if not shape.positions:
            return found, found
        rows = self.setup.tokens if shape.model_type == "gpt2" else self.tokens
        places = tape.op(rows * shape.hidden, item, [self._positions])
        summed = tape.op(found.elements, item, [found, places], passes=True)
        if shape.model_type == "gpt2":
            summed = self.dropped(summed)
        return summed, found, places

    def _rotary_tables(self, item_bytes: int) -> Tables:
        """Cosine and sine, (1, tokens, head).

        Gemma 3's of each kind of layer, OLMo 2's in fp32, gpt-oss' of half a head.
        """
        if not self.shape.gated:
            return {}
        item = FP32 if self.shape.model_type == "olmo2" else item_bytes
        size = self.setup.tokens * self.shape.head_dim
        if self.shape.has_sinks:
            size //= 2

        def table() -> tuple[Bytes, Bytes]:
            return self.tape.op(size, item), self.tape.op(size, item)

        if self.shape.model_type == "gemma3_text":
            return {windowed: table() for windowed in (False, True)}
        return dict.fromkeys((False, True), table())

    def _masks(self, item_bytes: int) -> Masks:
        """(batch, 1, tokens, tokens): flags, or for eager attention numbers to add."""
        eager = self.setup.attention == "eager"
        mask = None
        if eager or self.setup.padded:
            mask = self.tape.op(self.tokens * self.setup.tokens, item_bytes if eager else 1)
        return dict.fromkeys((False, True), mask)

    def _layer(
        self,
        hidden: Bytes,
        weights: dict[str, Bytes],
        sort: LayerSort,
        tables: Tables,
        masks: Masks,
    ) -> Bytes:
        mask = masks[sort.window is not None]
        match self.shape.model_type:
            case "gpt2":
                return gpt2_layer(self, hidden, weights, mask)
            case "opt":
                return opt_layer(self, hidden, weights, mask)
            case _:
                table = tables[sort.window is not None] if sort.rotary else None
                return gated_layer(self, hidden, weights, sort, table, mask)

    def attend(
        self,
        hidden: Bytes,
        weights: dict[str, Bytes],
        tables: tuple[Bytes, Bytes] | None,
        mask: Bytes | None,
    ) -> Bytes:
        """The attention from its first layer to its last."""
        query, key, value = self._project(hidden, weights, tables)
        key, value = self._joined(key, value)
        attended = self.attention.attend(query, key, value, mask)
        return self._put_out(attended, weights)

    def _joined(self, key: Bytes, value: Bytes) -> tuple[Bytes, Bytes]:
        """The keys and values that are attended to: those of this pass."""
        return key, value

    def _project(
        self, hidden: Bytes, weights: dict[str, Bytes], tables: tuple[Bytes, Bytes] | None
    ) -> tuple[Bytes, Bytes, Bytes]:
        """Query, key and value, as the attention reads them."""
        shape = self.shape
        if shape.model_type == "gpt2":
            mixed = self.linear(hidden, weights, "attn.c_attn")
            third = mixed.elements // 3
            # Views into one tensor: the step back joins their gradients into one.
            query, key, value = (
                self.tape.op(third, mixed.item_bytes, [mixed], view_of=mixed) for _ in range(3)
            )
            return query, key, value
        if shape.joined:
            return self._project_joined(hidden, weights, tables)
        late = shape.model_type == "gemma3_text"  # norms once all three are there
        query = self.linear(hidden, weights, "q_proj")
        query = query if late else self._normed(query, weights, "q_norm")
        key = self.linear(hidden, weights, "k_proj")
        key = key if late else self._normed(key, weights, "k_norm")
        value = self.linear(hidden, weights, "v_proj")
        if late:
            query = self._normed(query, weights, "q_norm")
            key = self._normed(key, weights, "k_norm")
        if shape.model_type == "opt":  # scaled here and not within the attention
            query = self.tape.op(query.elements, query.item_bytes, [query])
        if tables is not None:
            own = query.item_bytes
            query, key = self.attention.rotate(query, tables), self.attention.rotate(key, tables)
            query, key = self.tape.cast(query, own), self.tape.cast(key, own)
        return query, key, value

    def _project_joined(
        self, hidden: Bytes, weights: dict[str, Bytes], tables: tuple[Bytes, Bytes] | None
    ) -> tuple[Bytes, Bytes, Bytes]:
        """Views into one layer's output; what is rotated is joined with what is not, if nothing."""
        tape, shape = self.tape, self.shape
        mixed = self.linear(hidden, weights, "qkv_proj")
        shared = mixed.elements * shape.kv_heads // (shape.heads + 2 * shape.kv_heads)
        sizes = mixed.elements - 2 * shared, shared, shared
        query, key, value = (
            tape.op(size, mixed.item_bytes, [mixed], view_of=mixed) for size in sizes
        )
        if tables is not None:
            turned = self.attention.rotate(query, tables)
            query = tape.op(turned.elements, turned.item_bytes, [turned])
            turned = self.attention.rotate(key, tables)
            key = tape.op(turned.elements, turned.item_bytes, [turned])
        return query, key, value

    def _normed(self, given: Bytes, weights: dict[str, Bytes], name: str) -> Bytes:
        return self.norm(given, weights, name) if self.shape.normed_queries else given

    def _put_out(self, attended: Bytes, weights: dict[str, Bytes]) -> Bytes:
        outputs = {"gpt2": "attn.c_proj", "opt": "out_proj"}
        attended = self.linear(attended, weights, outputs.get(self.shape.model_type, "o_proj"))
        return self.dropped(attended) if self.shape.model_type == "gpt2" else attended

    def norm(self, given: Bytes, weights: dict[str, Bytes], name: str) -> Bytes:
        """The norm of that name, over vectors as long as its weight."""
        weight = weights[f"{name}.weight"]
        match self.shape.norm:
            case "layer":
                in_fp32 = self.setup.device == "cuda" and self.linears.autocast
                return layer_norm(
                    self.tape, given, weight, weights[f"{name}.bias"], in_fp32=in_fp32
                )
            case "rms":
                return rms_norm(self.tape, given, weight)
            case "gemma" | "wide rms":
                return wide_rms_norm(self.tape, given, weight, lets_go=self.shape.norm == "gemma")

    def add(self, left: Bytes, right: Bytes) -> Bytes:
        """Keeps nothing; in the wider of the two types."""
        item = max(left.item_bytes, right.item_bytes)
        return self.tape.op(left.elements, item, [left, right], passes=True)

    def dropped(self, given: Bytes) -> Bytes:
        """Some of it dropped, where the model drops of its blocks' outputs."""
        return self.linears.drop(given) if self.shape.residual_dropout else given

    def linear(self, given: Bytes, weights: dict[str, Bytes], name: str) -> Bytes:
        """The linear layer of that name, with its adapter."""
        return self.linears.apply(given, weights, name, self.shape.linears[name])

    def _table(self, rows: int) -> Bytes:
        return self.linears.weight(rows * self.shape.hidden, self.setup.rest_bytes)

    def _head_norms(self) -> dict[str, Bytes]:
        """The weights of the norms of queries and keys, where there are any."""
        shape = self.shape
        match shape.normed_queries:
            case None:
                return {}
            case "each head":
                heads, shared = 1, 1
            case "all":
                heads, shared = shape.heads, shape.kv_heads
        widths = {"q_norm": heads * shape.head_dim, "k_norm": shared * shape.head_dim}
        return {
            f"{name}.weight": self.linears.weight(width, self.setup.rest_bytes, matrix=False)
            for name, width in widths.items()
        }

    def _norm_weights(self, name: str) -> dict[str, Bytes]:
        parts = ("weight", "bias") if self.shape.norm == "layer" else ("weight",)
        item = self.setup.rest_bytes
        return {
            f"{name}.{part}": self.linears.weight(self.shape.hidden, item, matrix=False)
            for part in parts
        }
