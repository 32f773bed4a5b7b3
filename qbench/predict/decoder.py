"""The operations of transformers' decoders and of PEFT's adapters, for a tape of bytes.

Local variables live here as long as in the modules that these functions follow (transformers 5:
`models.llama`, `.mistral`, `.qwen2`, `.gpt2`, `.opt`; `peft.tuners.lora` 0.21;
`bitsandbytes.autograd` 0.50): a temporary that is held during a block there is held here. Trained
embeddings, norms and head are fp32 or bf16 weights; what is quantized is the blocks' linear layers.
N stands for the elements of a hidden state: batch × tokens × hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.predict.attention import Attention
from qbench.predict.linear import FP32, Linears
from qbench.predict.tape import BATCH, LAYERS, LOGITS_AND_LOSS, Bytes, Edge

if TYPE_CHECKING:
    from qbench.predict.shapes import DecoderShape, TrainingSetup
    from qbench.predict.tape import Tape

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
        tables = self._rotary_tables(hidden.item_bytes) if shape.gated else None
        mask = self._mask(hidden.item_bytes)
        for index, weights in enumerate(self._layers):
            tape.border(index)

            def run(
                entering: Bytes, weights: dict[str, Bytes] = weights, _places: Bytes = places
            ) -> Bytes:
                return self._layer(entering, weights, tables, mask)

            tape.part = LAYERS
            hidden = tape.checkpoint(run, hidden) if self.setup.checkpointing else run(hidden)
        tape.border(None)
        tape.part = LOGITS_AND_LOSS
        hidden = self._norm(hidden, self._last_norm, "norm")
        return self.linears.multiply(hidden, self._head, None, shape.vocabulary)

    def _embed(self) -> tuple[Bytes, ...]:
        """The input of the first block, then what it was made of."""
        tape, shape, item = self.tape, self.shape, self.setup.rest_bytes
        found = tape.op(self.tokens * shape.hidden, item, [self._embedding])
        if self.setup.checkpointing and self.setup.method == "lora":
            # transformers asks for its gradient, which only another kind of checkpointing needs.
            found.edge = Edge(found.size)
            tape.pin(found)
        if not shape.positions:
            return found, found
        rows = self.setup.tokens if shape.model_type == "gpt2" else self.tokens
        places = tape.op(rows * shape.hidden, item, [self._positions])
        summed = tape.op(found.elements, item, [found, places], passes=True)
        if shape.model_type == "gpt2":
            summed = self._dropped(summed)
        return summed, found, places

    def _rotary_tables(self, item_bytes: int) -> tuple[Bytes, Bytes]:
        """Cosine and sine, (1, tokens, head)."""
        size = self.setup.tokens * self.shape.head_dim
        return self.tape.op(size, item_bytes), self.tape.op(size, item_bytes)

    def _mask(self, item_bytes: int) -> Bytes | None:
        """(batch, 1, tokens, tokens): flags, or for eager attention numbers to add."""
        eager = self.setup.attention == "eager"
        if not eager and not self.setup.padded:
            return None
        return self.tape.op(self.tokens * self.setup.tokens, item_bytes if eager else 1)

    def _layer(
        self,
        hidden: Bytes,
        weights: dict[str, Bytes],
        tables: tuple[Bytes, Bytes] | None,
        mask: Bytes | None,
    ) -> Bytes:
        match self.shape.model_type:
            case "gpt2":
                return self._gpt2_layer(hidden, weights, mask)
            case "opt":
                return self._opt_layer(hidden, weights, mask)
            case _:
                return self._gated_layer(hidden, weights, tables, mask)

    def _gated_layer(
        self,
        hidden: Bytes,
        weights: dict[str, Bytes],
        tables: tuple[Bytes, Bytes] | None,
        mask: Bytes | None,
    ) -> Bytes:
        residual = hidden
        hidden = self._norm(hidden, weights, "norm1")
        hidden = self._attend(hidden, weights, tables, mask)
        residual = hidden = self._add(residual, hidden)
        hidden = self._norm(hidden, weights, "norm2")
        hidden = self._gated(hidden, weights)
        return self._add(residual, hidden)

    def _gpt2_layer(self, hidden: Bytes, weights: dict[str, Bytes], mask: Bytes | None) -> Bytes:
        """Drops within attention and MLP; what the attention gave has a name to the end."""
        residual = hidden
        hidden = self._norm(hidden, weights, "norm1")
        attended = self._attend(hidden, weights, None, mask)
        residual = hidden = self._add(residual, attended)
        hidden = self._norm(hidden, weights, "norm2")
        return self._add(residual, self._gpt2_mlp(hidden, weights))

    def _opt_layer(self, hidden: Bytes, weights: dict[str, Bytes], mask: Bytes | None) -> Bytes:
        residual = hidden
        hidden = self._norm(hidden, weights, "norm1")
        hidden = self._attend(hidden, weights, None, mask)
        hidden = self._dropped(hidden)
        residual = hidden = self._add(residual, hidden)
        hidden = self._norm(hidden, weights, "norm2")
        hidden = self._linear(hidden, weights, "fc1")
        # relu keeps its output
        hidden = self.tape.op(hidden.elements, hidden.item_bytes, [hidden], saves_output=True)
        hidden = self._linear(hidden, weights, "fc2")
        hidden = self._dropped(hidden)
        return self._add(residual, hidden)

    def _attend(
        self,
        hidden: Bytes,
        weights: dict[str, Bytes],
        tables: tuple[Bytes, Bytes] | None,
        mask: Bytes | None,
    ) -> Bytes:
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
            mixed = self._linear(hidden, weights, "attn.c_attn")
            third = mixed.elements // 3
            # Views into one tensor: the step back joins their gradients into one.
            query, key, value = (
                self.tape.op(third, mixed.item_bytes, [mixed], view_of=mixed) for _ in range(3)
            )
            return query, key, value
        query = self._linear(hidden, weights, "q_proj")
        key = self._linear(hidden, weights, "k_proj")
        value = self._linear(hidden, weights, "v_proj")
        if shape.model_type == "opt":  # scaled here and not within the attention
            query = self.tape.op(query.elements, query.item_bytes, [query])
        if tables is not None:
            query, key = self.attention.rotate(query, tables), self.attention.rotate(key, tables)
        return query, key, value

    def _put_out(self, attended: Bytes, weights: dict[str, Bytes]) -> Bytes:
        outputs = {"gpt2": "attn.c_proj", "opt": "out_proj"}
        attended = self._linear(attended, weights, outputs.get(self.shape.model_type, "o_proj"))
        return self._dropped(attended) if self.shape.model_type == "gpt2" else attended

    def _gated(self, hidden: Bytes, weights: dict[str, Bytes]) -> Bytes:
        """down(silu(gate(x)) · up(x)): silu keeps its input, the product both factors."""
        tape = self.tape
        gate = self._linear(hidden, weights, "gate_proj")
        active = tape.op(gate.elements, gate.item_bytes, [gate], saved=[gate])
        del gate
        up = self._linear(hidden, weights, "up_proj")
        product = tape.op(
            up.elements,
            up.item_bytes,
            [active, up],
            saved=[*([active] if up.edge else []), *([up] if active.edge else [])],
        )
        del active, up
        return self._linear(product, weights, "down_proj")

    def _gpt2_mlp(self, hidden: Bytes, weights: dict[str, Bytes]) -> Bytes:
        hidden = self._linear(hidden, weights, "mlp.c_fc")
        hidden = self._gelu(hidden)
        hidden = self._linear(hidden, weights, "mlp.c_proj")
        return self._dropped(hidden)

    def _gelu(self, given: Bytes) -> Bytes:
        """0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), each operation a tensor of its own.

        Kept: x (by the cube), the tanh, and the two factors of the product. Under CUDA's autocast
        the cube is taken in fp32, and all that follows from it.
        """
        tape, size = self.tape, given.elements
        half = tape.op(size, given.item_bytes, [given])
        base = given
        if self.setup.device == "cuda" and self.linears.autocast:
            base = tape.cast(given, FP32)
        item = base.item_bytes
        cube = tape.op(size, item, [base], saved=[base], scratch_bytes=2 * base.size)
        cube = tape.op(size, item, [cube])
        inner = tape.op(size, item, [given, cube], passes=True)
        del cube
        inner = tape.op(size, item, [inner])
        inner = tape.op(size, item, [inner], saves_output=True)
        inner = tape.op(size, item, [inner], passes=True)
        return tape.op(size, item, [half, inner], saved=[half, inner], elementwise=True)

    def _norm(self, given: Bytes, weights: dict[str, Bytes], name: str) -> Bytes:
        weight = weights[f"{name}.weight"]
        return (
            self._layer_norm(given, weight, weights[f"{name}.bias"])
            if self.shape.norm == "layer"
            else self._rms_norm(given, weight)
        )

    def _rms_norm(self, given: Bytes, weight: Bytes) -> Bytes:
        """x·rsqrt(mean(x²) + ε)·weight, taken in fp32.

        Kept: x in fp32 (4N, no copy where x is fp32), the rsqrt (4 bytes a token), and where the
        weight is trained the normed x. The step back of x² takes x¹ and 2·x¹ besides.
        """
        tape, size = self.tape, given.elements
        wide = tape.cast(given, FP32)
        squares = tape.op(size, FP32, [wide], saved=[wide], scratch_bytes=2 * FP32 * size)
        variance = tape.op(self.tokens, FP32, [squares])
        del squares
        scale = tape.op(self.tokens, FP32, [variance], saves_output=True)
        wide = tape.op(size, FP32, [wide, scale], saved=[wide, scale], elementwise=True)
        normed = tape.cast(wide, given.item_bytes)
        del wide
        item = max(normed.item_bytes, weight.item_bytes)
        kept = [normed] if weight.edge else []
        return tape.op(size, item, [normed, weight], saved=kept, elementwise=True)

    def _layer_norm(self, given: Bytes, weight: Bytes, bias: Bytes) -> Bytes:
        """Kept: x, and mean and 1/σ of each token in its type. CUDA's autocast takes it in fp32."""
        tape = self.tape
        if self.setup.device == "cuda" and self.linears.autocast:
            given = tape.cast(given, FP32)
        moments = tape.op(2 * self.tokens, given.item_bytes)
        return tape.op(
            given.elements, given.item_bytes, [given, weight, bias], saved=[given, moments]
        )

    def _add(self, left: Bytes, right: Bytes) -> Bytes:
        """Keeps nothing; in the wider of the two types."""
        item = max(left.item_bytes, right.item_bytes)
        return self.tape.op(left.elements, item, [left, right], passes=True)

    def _dropped(self, given: Bytes) -> Bytes:
        return self.linears.drop(given) if self.shape.residual_dropout else given

    def _linear(self, given: Bytes, weights: dict[str, Bytes], name: str) -> Bytes:
        return self.linears.apply(given, weights, name, self.shape.linears[name])

    def _table(self, rows: int) -> Bytes:
        return self.linears.weight(rows * self.shape.hidden, self.setup.rest_bytes)

    def _norm_weights(self, name: str) -> dict[str, Bytes]:
        parts = ("weight", "bias") if self.shape.norm == "layer" else ("weight",)
        item = self.setup.rest_bytes
        return {
            f"{name}.{part}": self.linears.weight(self.shape.hidden, item, matrix=False)
            for part in parts
        }
