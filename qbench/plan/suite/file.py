"""What a suite's file may say: the model that reads it, and its JSON Schema for editors.

What one value tells is decided here. That names are unique, the reference is among the labels and
patterns match something is seen afterwards, on the whole.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, create_model
from typing_extensions import TypeAliasType

from qbench.compare.co2 import Co2
from qbench.compare.gate.rules import RuleSection
from qbench.compare.price import Price
from qbench.compare.recommend.section import BudgetSection
from qbench.core.aliases import ALIASES, OTHER_VALUES, Also
from qbench.core.number_types import BF16, FP16, FP32
from qbench.core.reading import (
    STRICT,
    InvalidValueError,
    NotNull,
    OneOrMore,
    expects,
    invalid_below,
)
from qbench.core.spec import LONGEST_NAME, Deployment, Frozen
from qbench.finetune import methods
from qbench.measures import asked_for
from qbench.plan.suite.cluster import ClusterSection
from qbench.plan.suite.options import Choice, Options, Swept
from qbench.plan.suite.selectors import Selector
from qbench.precisions import EXAMPLE, precisions
from qbench.precisions.kv_cache import KvOption, kv_caches
from qbench.sources.data.tuning import TuningDataOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import GetCoreSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema

DEFAULT_TIMEOUT_S = 3600.0
"""Seconds one process of a cell may take."""
DEFAULT_DEPLOY: tuple[Deployment, ...] = ("attached", "merged")


class OfTables:
    """Of a field whose type follows from the tables of what is installed."""

    def __init__(self, build: Callable[[], Any]) -> None:
        """`build` is called when the field is first needed."""
        self.build = build

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return handler.generate_schema(self.build())


def _entry(name: str, base: type[Frozen], about: str, **fields: Any) -> Any:
    """The class of one entry of a table."""
    return create_model(name, __base__=base, __doc__=about, **fields)


Name = Annotated[
    str,
    expects(
        f"a name of at most {LONGEST_NAME} letters, digits and . _ = - (none of . - at either end)",
        pattern=r"^[A-Za-z0-9_=]([A-Za-z0-9._=-]*[A-Za-z0-9_=])?$",
        max_length=LONGEST_NAME,
    ),
]
"""It becomes the name of a file or folder as it is."""
Source = Annotated[
    str,
    expects(
        "a model: `bundled:…`, a folder, or a hub id",
        pattern=r"\S",
        description="`bundled:<name>`, a folder or a .gguf file (relative to the suite's file), a"
        " hub id with an optional `@revision`, or `random:` before one of these or the name of a"
        " known configuration: the same shape with random weights.",
        examples=["bundled:tiny-mistral", "./my-model", "owner/name@rev", "random:Mistral-7B"],
    ),
]


class ModelEntry(Frozen):
    """A model, and how it is loaded."""

    model_config = STRICT

    source: Annotated[Source, Also("model_name_or_path", "pretrained")]
    name: Annotated[Name | None, NotNull()] = None
    """Short name for tables and files, unique."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the model. Read it first."""
    device_map: Annotated[
        Literal["auto"] | None, NotNull(), expects("auto, which lays the model over all GPUs")
    ] = None
    """Leave it out to keep the model on one device. With `auto` the layers of one that is too large
    lie over all GPUs, and the record says what went where."""
    original: Annotated[
        str | None, NotNull(), expects("the name or source of a model of the suite")
    ] = None
    """Of a checkpoint that is already quantized: name or source of the suite's model that it was
    made of, against whose reference it is held."""


AnyModel = Annotated[
    ModelEntry,
    BeforeValidator(
        lambda value: value if isinstance(value, dict) else {"source": value},
        json_schema_input_type=Source | ModelEntry,
    ),
]
"""A model by its source alone, or with more."""


class PrecisionEntry(Frozen):
    """A precision by its name; each has a class of its own, whose `choices` are under that name."""

    model_config = STRICT
    precision: ClassVar[str] = ""

    choices: Annotated[tuple[Choice, ...], Swept("", Frozen)]
    name: Annotated[Name | None, NotNull()] = None
    """Label of its own, unique within the suite."""


def _by_name(value: object) -> object:
    """An entry of `precisions` as a mapping; a name alone takes the defaults."""
    if isinstance(value, str):
        return {value: None}
    options = f"{{{EXAMPLE}: {{compute_dtype: fp16}}}}"
    example = f"a precision's name, or one with options such as {options}"
    if not isinstance(value, dict):
        raise InvalidValueError(example)
    chosen = [name for name in value if name in precisions()]
    if len(chosen) > 1 or set(value) <= {"name"}:
        found = f"{len(chosen)} precisions in one entry" if chosen else None
        raise InvalidValueError(example, found, "begin each with a dash")
    return value


def _precision_tag(value: dict[str, Any]) -> str:
    """Names the class of an entry; that of a key which is no precision, where there is none."""
    others = (key for key in value if key != "name")
    first, *_ = [*filter(precisions().get, value), *others, *value]
    return f"precision-{first}"


@cache
def _precision_types() -> TypeAliasType:
    """A precision by its name alone, or with options, or with a label of its own."""
    table = precisions()
    tagged = []
    for name, entry in table.items():
        also: Any = {ALIASES: list(entry.also_called)} if entry.also_called else None
        about = Field(alias=name, json_schema_extra=also)
        field = (Annotated[tuple[Choice, ...], Swept(name, entry.options)], about)
        made = _entry(f"precision-{name}", PrecisionEntry, entry.summary, choices=field)
        made.precision = name
        tagged.append(Annotated[made, Tag(made.__name__)])
    told = "; ".join(f"{entry.name} ({entry.summary})" for entry in table.values())
    others: Any = {OTHER_VALUES: [also for one in table.values() for also in one.also_called]}
    about_names = Field(description=told, json_schema_extra=others)
    names: Any = Annotated[Literal[tuple(table)], about_names]
    by_name: Any = Annotated[_union(tagged), Discriminator(_precision_tag)]
    read = BeforeValidator(_by_name, json_schema_input_type=names | by_name)
    return TypeAliasType("any_precision", Annotated[by_name, read])


def _union(types: list[Any]) -> Any:
    return Union[tuple(types)]  # noqa: UP007 - of types that are known here alone


AnyPrecision = Annotated[PrecisionEntry, OfTables(_precision_types)]


class MethodEntry(Frozen):
    """A way to tune; each has a class of its own, whose `choices` stand among the other keys."""

    model_config = STRICT

    method: str
    precision: Annotated[
        tuple[AnyPrecision, ...],
        OneOrMore("one precision", "add one, or remove the line to take bf16"),
    ] = ()
    """What the base is held in while it is trained; bf16 unless given."""
    name: Annotated[Name | None, NotNull()] = None
    """Label of the arm, unique within the suite."""
    choices: Annotated[tuple[Choice, ...], Swept("", Frozen)]


METHOD_KEYS = ("method", "precision", "name")
"""The keys of a method's entry beside the method's own options."""


def _with_choices(value: object) -> object:
    """An entry of `methods` as a mapping, the method's options put together."""
    names = ", ".join(methods())
    if isinstance(value, str):
        value = {"method": value}
    if not isinstance(value, dict):
        example = f"a method such as {{method: lora, precision: {EXAMPLE}, rank: 16}}"
        raise InvalidValueError(example)
    if "method" not in value:
        remedy = f"add `method: lora`; there are {names}"
        raise InvalidValueError("an entry with its `method`", remedy=remedy)
    if not isinstance(value["method"], str):
        remedy = "write an entry for each, its options beside it: {method: lora, rank: 8}"
        raise invalid_below(("method",), InvalidValueError(f"one of {names}", remedy=remedy))
    own = {key: one for key, one in value.items() if key in METHOD_KEYS}
    return own | {"choices": {key: one for key, one in value.items() if key not in METHOD_KEYS}}


def _flat(schema: JsonSchemaValue) -> None:
    """Puts the options of a method beside its other keys, as they are written."""
    fields = schema["properties"]
    fields |= fields.pop("choices")["anyOf"][0]["properties"]
    schema["required"] = ["method"]


@cache
def _method_types() -> TypeAliasType:
    """A method by its name alone, or with its precision and options."""
    tagged = []
    for name, entry in methods().items():
        fields = {
            "method": (Literal[name], Field(description=entry.summary)),
            "choices": (Annotated[tuple[Choice, ...], Swept(name, entry.options)], ...),
        }
        made = _entry(f"method-{name}", MethodEntry, entry.summary, **fields)
        made.model_config["json_schema_extra"] = _flat
        tagged.append(Annotated[made, Tag(made.__name__)])
    names: Any = Literal[tuple(methods())]
    by_name: Any = Annotated[
        _union(tagged), Discriminator(lambda value: f"method-{value['method']}")
    ]
    read = BeforeValidator(_with_choices, json_schema_input_type=names | by_name)
    return TypeAliasType("any_method", Annotated[by_name, read])


class FineTuneEntry(Frozen):
    """What to tune, on which data, and how the tuned models are served."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={
            "errorMessage": (
                f"a mapping such as {{methods: [{{method: lora, precision: {EXAMPLE}}}]}}"
            )
        }
    )

    data: Annotated[TuningDataOptions, Options("data", TuningDataOptions)] = Field(
        default_factory=TuningDataOptions
    )
    """What to tune on, and its three disjoint splits."""
    methods: Annotated[
        tuple[Annotated[MethodEntry, OfTables(_method_types)], ...],
        OneOrMore("one method", "add one"),
    ] = Field(examples=[[{"method": "lora", "precision": [BF16, EXAMPLE]}]])
    """How to tune: one arm for each precision and value of a list."""
    seeds: Annotated[
        tuple[Annotated[int, expects("a whole number from 0", ge=0, lt=2**31)], ...],
        OneOrMore("one seed", "add one, or remove the line to take seed 0"),
        Also("seed"),
    ] = (0,)
    """Each arm is trained once with each."""
    deploy: Annotated[
        tuple[Annotated[Deployment, Field(title="way to serve")], ...],
        OneOrMore(
            "one way to serve a tuned model",
            f"add one, or remove the line to take {', '.join(DEFAULT_DEPLOY)}",
        ),
    ] = DEFAULT_DEPLOY
    """How each tuned model is served; those that a method does not have are left out."""
    quantize: Annotated[
        tuple[AnyPrecision, ...],
        OneOrMore("one precision", "add one, or remove the line to take those that QAT trains for"),
    ] = ()
    """What fully tuned weights are also rounded to after the training (PTQ); unless given, the
    precisions that QAT trains for."""


class MeasureEntry(Frozen):
    """Measurements with their options: a key for each that there is."""

    model_config = STRICT | ConfigDict(json_schema_extra={"minProperties": 1})

    @property
    def options(self) -> dict[str, Frozen]:
        """Those that are given, in the order of the table."""
        fields = type(self).model_fields.items()
        given = {str(one.alias): getattr(self, name) for name, one in fields}
        return {name: options for name, options in given.items() if options is not None}


@cache
def _measure_types() -> Any:
    """Measurements as a mapping, or by their names alone."""
    table = asked_for()
    fields = {
        f"field_{index}": (
            Annotated[Frozen | None, Options(name, entry.options)],
            Field(default_factory=lambda: None, alias=name, description=entry.summary),
        )
        for index, (name, entry) in enumerate(table.items())
    }
    made = _entry("measurements", MeasureEntry, str(MeasureEntry.__doc__), **fields)
    expected = (
        f"a measurement: {', '.join(table)}; for options, write a mapping:"
        " `quality: {window: 256}` without dashes"
    )
    name: Any = Annotated[Literal[tuple(table)], expects(expected, title="measurement")]
    several = OneOrMore("one measurement", "add one, or remove the line to take all", unique=True)
    measurement_names = TypeAliasType("measurement_names", Annotated[tuple[name, ...], several])
    return Annotated[
        Annotated[made, Tag("measurements")]
        | Annotated[measurement_names, Tag("measurement_names")],
        Discriminator(
            lambda value: "measurements" if isinstance(value, dict) else "measurement_names"
        ),
        BeforeValidator(lambda value: None if value == {} else value),
    ]


SELECTORS = OneOrMore(
    "one selector such as {precision: nf4*}", "remove the line to keep every cell"
)


class SuiteFile(Frozen):
    """Which models qbench measures, in which precisions, and how."""

    model_config = STRICT | ConfigDict(title="A suite for qbench")

    name: Annotated[Name | None, NotNull()] = None
    """Folder name under `results/`; the file's stem unless given."""
    models: Annotated[tuple[AnyModel, ...], OneOrMore("one model", "add one")] = Field(
        examples=[["bundled:tiny-mistral"]]
    )
    """The models, each held in each of the precisions."""
    precisions: Annotated[
        tuple[AnyPrecision, ...],
        OneOrMore("one precision", "add one, or remove the line to take all"),
    ] = Field((), examples=[[FP32, EXAMPLE, {EXAMPLE: {"compute_dtype": [FP32, FP16]}}]])
    """The precisions, by name or with options; all unless given. A list as the value of an option
    sweeps: one precision for each value."""
    kv_cache: Annotated[
        tuple[Annotated[KvOption, Field(title="kind of KV cache")], ...],
        OneOrMore("one kind of KV cache", "add one, or remove the line to quantize none"),
    ] = Field((), examples=[[*kv_caches()]])
    """Kinds of quantized KV cache: each precision is also measured with each, beside the cache in
    the model's own type (`own`), which is always there."""
    reference: Annotated[
        str | None, NotNull(), expects("the label of one of the precisions", examples=[FP32])
    ] = None
    """Label of the precision that the others are compared with: fp32 unless given, else bf16, else
    the first."""
    finetune: Annotated[FineTuneEntry | None, NotNull()] = None
    """What to tune and how the tuned models are served; nothing unless given."""
    measure: Annotated[MeasureEntry | tuple[str, ...] | None, OfTables(_measure_types)] = None
    """What to find out about each cell; everything unless given."""
    include: Annotated[tuple[Selector, ...], SELECTORS] = Field(
        (), examples=[[{"precision": "nf4*"}]]
    )
    """Keep only the cells that match one of these. `*`, `?` and `[abc]` stand for other letters."""
    exclude: Annotated[tuple[Selector, ...], SELECTORS] = Field(
        (), examples=[[{"precision": "nf4*"}]]
    )
    """Drop the cells that match one of these. `*`, `?` and `[abc]` stand for other letters."""
    gate: RuleSection = Field(default_factory=dict)
    """Margins that `qbench gate` compares the results with, by metric."""
    recommend: Annotated[BudgetSection | None, NotNull()] = None
    """What a model may cost and lose: what `qbench recommend` and the report choose by."""
    price: Annotated[Price | None, NotNull()] = None
    """What an hour of a device costs: reports and `qbench recommend` then say what a million tokens
    and a training cost. There is no price unless one is given."""
    co2: Annotated[Co2 | None, NotNull()] = None
    """Grams of CO₂ for each kilowatt hour: reports then say what a million tokens and a training
    emit. There is no factor unless one is given."""
    cluster: Annotated[ClusterSection | None, NotNull()] = None
    """What the jobs ask of a cluster, for `qbench run --on`."""
    timeout_s: Annotated[float, expects("a positive number of seconds", gt=0)] = DEFAULT_TIMEOUT_S
    """Seconds that one process of a cell may take."""
    trust_code: bool = False
    """Run the Python that tasks of your own name, scripts of metrics, and commands of servers. Read
    them first."""
