"""What goes in: models, precisions, cells and the items to measure. Frozen values, no I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from qbench.core.docstrings import describe

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

LONGEST_NAME = 80
"""Letters in a name; file systems allow 255 in a file's name, which holds several."""

ModelKind = Literal["bundled", "folder", "hub", "random"]


def slugify(text: str) -> str:
    """A name that is safe in file names and readable: letters, digits, `.`, `_`, `=` and `-`."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.") or "x"


class Frozen(BaseModel):
    """A value that cannot change and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Each field is described by the docstring below it, unless it has a description."""
        made = handler(schema)
        describe(handler.resolve_ref_schema(made), cls)
        return made


class ModelRef(Frozen):
    """Which model a suite asks for, before anything is known about it."""

    name: str
    """Short name used in slugs and tables, unique within a suite."""
    source: str
    """As written in the suite: `bundled:tiny-mistral`, a folder, or a hub id with `@revision`."""
    kind: ModelKind
    location: str
    """The bundled model's name, the folder's absolute path, or the hub id without its revision.

    Of random weights: the name of a known configuration, or the folder or hub id that has one.
    """
    revision: str | None = None
    trust_remote_code: bool = False
    device_map: Literal["auto"] | None = None
    """`auto` lays the model's layers over all GPUs; None puts all of it on one device."""
    original: str | None = None
    """Name of the suite's model that a quantized checkpoint was made of: its predictions are held
    against that one's reference."""


class TensorShape(Frozen):
    """One parameter or buffer of a model as it is before quantization."""

    name: str
    shape: tuple[int, ...]
    role: Literal["linear", "embedding", "head", "norm", "bias", "buffer", "other"]
    """`linear` is the weight of a linear or Conv1D layer other than the output head."""
    dtype: str | None = None
    """Set for tensors that keep their own type whatever the model is loaded in (`float32`)."""
    wide_in_fp16: bool = False
    """Whether it is float32 where the model is loaded in fp16, though not in bf16."""
    transposed: bool = False
    """A weight stored as (in, out), as GPT-2's Conv1D does, instead of (out, in)."""
    stored_bytes: tuple[int, int] | None = None
    """Bytes of codes and of state that are held of it once a checkpoint which is already quantized
    is loaded; None of what it does not quantize."""
    packed_bytes: int | None = None
    """Bytes that the files of such a checkpoint hold of it, where what is loaded are plain numbers
    in the place of its codes."""
    layer: Literal["plain", "own class", "own product"] = "plain"
    """Of a linear layer: whether libraries replace it by one that holds codes, which they do to no
    class of the model's own; and whether the model's code multiplies with its weight itself, which
    then fails. As far as it is known: every layer of the architectures that qbench itself knows."""

    @property
    def out_features(self) -> int:
        """Output rows of a linear layer's weight."""
        return self.shape[-1] if self.transposed else self.shape[0]

    @property
    def in_features(self) -> int:
        """Input columns of a linear layer's weight."""
        return self.shape[0] if self.transposed else self.shape[-1]

    @property
    def numel(self) -> int:
        """Number of elements."""
        product = 1
        for size in self.shape:
            product *= size
        return product


class ModelShape(Frozen):
    """All tensors of a model, each once: a tied head is not listed beside its embedding."""

    tensors: tuple[TensorShape, ...]
    origin: Literal["header", "config", "meta"]
    """From the safetensors header, or the configuration, and a table of architectures, or from a
    model without data."""

    def __hash__(self) -> int:
        """Of one tensor: what is worked out of a shape is looked up too often for all of them."""
        return hash((self.origin, len(self.tensors), self.tensors[:1]))

    @property
    def weights(self) -> int:
        """Logical weights: elements of all tensors but the buffers."""
        return sum(t.numel for t in self.tensors if t.role != "buffer")


class ResolvedModel(Frozen):
    """A model that was found, and what is known of it without loading it."""

    ref: ModelRef
    folder: str | None
    """Where its files lie; None for a hub model that is not downloaded yet."""
    revision: str | None
    """The hub's commit hash; None for local models."""
    fingerprint: str
    """sha256 over the contents of its weights, configuration and tokenizer, or the commit."""
    architecture: str
    """The `model_type` of its configuration."""
    context_tokens: int | None
    """Longest input by its configuration; None where it states none."""
    shape: ModelShape | None
    """None when it cannot be known without fetching the weights; `shape_unknown` says why."""
    shape_unknown: str | None = None
    disk_bytes: int | None = None
    """Bytes of its weight files."""
    quantization: str | None = None
    """How the checkpoint is already quantized (`bitsandbytes`, `gptq` …); None if it is not."""
    stale_quantization: bool = False
    """Whether only its config.json says that it is quantized, and its weights are not."""


class PrecisionRef(Frozen):
    """A precision with the options chosen for it."""

    label: str
    """Unique within a suite: the name, with the options that differ from their defaults."""
    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    """All options, defaults filled in."""

    def __hash__(self) -> int:
        """Without the options, which the label tells apart within a suite."""
        return hash((self.label, self.name))

    @property
    def options_by_contents(self) -> dict[str, Any]:
        """The options, data by its contents: where its files lie does not matter."""
        return {name: _by_contents(value) for name, value in self.options.items()}


class TuningRef(Frozen):
    """How a model is fine-tuned: a method with its options, the precision it trains in, a seed."""

    label: str
    """Unique within a suite: the arm's, with the seed where there are several."""
    arm: str
    """What the seeds of one arm share: the method's name in the suite, with what is swept of it."""
    method: str
    """Name in the table of methods: `full`, `lora`."""
    precision: PrecisionRef
    """What the base model is held in while it is trained."""
    options: dict[str, Any] = Field(default_factory=dict)
    """All options of the method, defaults filled in."""
    seed: int = 0


Deployment = Literal[
    "attached",
    "attached-fp16",
    "merged",
    "merged-requantized",
    "merged-dequantized",
    "merged-in-place",
    "adapter-int8",
    "adapter-nf4",
    "quantized",
    "fake-quantized",
]
"""How a tuned model is served: each deployment is a model of its own.

    attached             the adapter beside its base, as it was trained
    attached-fp16        the same, computed in fp16
    merged               merged into the original weights, held in 16 bits; full tuning's own
    merged-requantized   merged into the original weights, then quantized as the base was
    merged-dequantized   merged into the base's dequantized weights, held in 16 bits
    merged-in-place      merged into the quantized layers, which stay quantized
    adapter-int8         attached, the adapter itself stored in 8-bit blocks
    adapter-nf4          attached, the adapter itself stored in NF4
    quantized            tuned or merged weights, rounded to codes; after QAT this is the conversion
    fake-quantized       after QAT, before conversion: floating weights rounded as they are used
"""


class Cell(Frozen):
    """One model variant: a model, tuned or not, held in one precision.

    With a `tuning` and no `deploy` it is a training, which makes the tuned model that others serve.
    """

    model: ModelRef
    precision: PrecisionRef
    """What the model is held in while it is measured, or trained."""
    tuning: TuningRef | None = None
    deploy: Deployment | None = None
    kv_cache: str | None = None
    """The kind of quantized cache that it decodes with; None for one in the model's own type, which
    trainings and tuned models have too."""

    @property
    def training(self) -> TuningRef | None:
        """The tuning that the cell is the making of; None for a cell whose model is measured."""
        return self.tuning if self.deploy is None else None

    @property
    def is_training(self) -> bool:
        """Whether it makes a tuned model, rather than serve one."""
        return self.training is not None

    @property
    def label(self) -> str:
        """Names the cell within its model: the precision, or the tuning and its deployment."""
        if self.tuning is None:
            held = self.precision.label
            return held if self.kv_cache is None else f"{held}--{self.kv_label}"
        if self.is_training:
            return self.tuning.label
        # Only what is not quantized while it is tuned can be quantized in several ways afterwards.
        chosen = self.deploy == "quantized" and self.precision != self.tuning.precision
        deployment = f"{self.deploy}-{self.precision.label}" if chosen else self.deploy
        return f"{self.tuning.label}--{deployment}"

    @property
    def kv_label(self) -> str:
        """Names its cache, such as `kv-int4`; `kv-own` for that in the model's own type."""
        return f"kv-{self.kv_cache or 'own'}"

    @property
    def slug(self) -> str:
        """Readable name, unique within a suite: a folder name under `results/`."""
        return f"{slugify(self.model.name)}--{slugify(self.label)}"

    @property
    def names(self) -> tuple[str, ...]:
        """What a pattern may match: of a tuned cell not the precision that it is served in."""
        if self.tuning is None:
            cache = () if self.kv_cache is None else (self.kv_label,)
            return self.slug, self.label, self.precision.name, *cache
        return self.slug, self.label, self.tuning.label, self.tuning.arm


class Item(Frozen):
    """The smallest thing that is measured and recorded: one text, one point of a latency grid."""

    measurement: str
    """Name in the table of measurements."""
    slug: str
    """Readable, unique within a measurement of a suite; part of the record's file name."""
    params: dict[str, Any] = Field(default_factory=dict)
    """All parameters, resolved: what is hashed into the record's key."""
    repeat: int = 0
    """Which process of its own this is taken in, from 0."""
    against_reference: bool = False
    """Whether it compares the cell with the reference, whose record then decides it too."""
    states_key: str | None = None
    """Key of the record that it is compared with, the reference's of the same item: it names the
    cached states."""
    makes_states: bool = False
    """Whether it is itself what others are compared with."""
    held_against: str | None = None
    """The cell that `states_key` is of: its precision's label, or `merged` for the same tuning
    merged in 16 bits; None in a record that is older than this field. Divergences from different
    references do not compare."""

    @property
    def params_by_contents(self) -> dict[str, Any]:
        """The parameters, data by its contents: where its files lie does not matter."""
        return {name: _by_contents(value) for name, value in self.params.items()}


def _by_contents(value: Any) -> Any:
    if not isinstance(value, dict) or not {"fingerprint", "location"} & value.keys():
        return value
    return value.get("fingerprint") or value.get("source") or value.get("name")


class StaticBytes(Frozen):
    """Bytes that a loaded model keeps, by kind, before it computes anything."""

    linear: int = 0
    """Weights of linear layers (not the output head), as stored."""
    quantization_state: int = 0
    """What is needed beside the codes: block maxima, scales, code books, nested states."""
    embeddings_and_head: int = 0
    norms: int = 0
    biases: int = 0
    buffers: int = 0
    adapters: int = 0
    """Adapters attached to the linear layers; 0 once they are merged, or where there are none."""
    other: int = 0

    @property
    def total(self) -> int:
        """All kinds together."""
        return sum(self.model_dump().values())
