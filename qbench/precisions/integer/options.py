"""The options of the integer precisions: grid, scales, activations, calibration; and short names.

One precision, `integer`, has every option; a short name such as `int4-g32` is the same with its
format fixed. What can be combined is what torchao 0.18 computes on a CPU.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from qbench.core.aliases import Also, AlsoValues
from qbench.core.number_types import FloatOption
from qbench.core.spec import Frozen
from qbench.precisions.integer.combinations import wrong_combination
from qbench.precisions.products import Products
from qbench.sources.data.texts import ResolvedText

Mapping = Literal["symmetric", "asymmetric"]
Granularity = Literal["tensor", "channel", "group"]
CalibrationMethod = Literal["minmax", "percentile", "mse"]

CALIBRATION_TEXT = "bundled:stdlib-calibration"
"""The text that is calibrated on unless another is given."""
WINDOWS, WINDOW_TOKENS = 128, 2048
"""Windows that are calibrated on, and tokens of each, unless stated: what GPTQ's authors take, and
most tools after them. A shorter text has fewer windows, a model of a shorter context shorter ones.
"""
_LATER = ("damping", "act_order", "clipping", "rounding_steps", "scales", "kernel")
"""Options that came after the first records: not written where they are left at their defaults, so
that keys stay."""
_ONCE = {"calibration_windows": 16, "calibration_window": None}
"""What stood in records where nothing is calibrated; it stays there, so that keys do."""
_DESC_ACT = dict.fromkeys(
    ("desc_act", "actorder"),
    "write `act_order: true`: columns by the size of their inputs with static groups; groups that"
    " follow the order are not measured",
)


class IntegerOptions(Frozen):
    """Options of `integer`."""

    bits: Annotated[int, Field(ge=2, le=8), Also("num_bits", "nbits", "w_bit")] = 8
    """Width of a weight's code, two's complement: from -2^(bits-1) to 2^(bits-1) - 1."""
    mapping: Annotated[
        Mapping,
        Also(
            "mapping_type",
            unlike=dict.fromkeys(
                ("sym", "symmetric"), "write `mapping: symmetric` or `mapping: asymmetric`"
            ),
        ),
    ] = "symmetric"
    """`symmetric`: scale = 2·absmax/(qmax - qmin), no zero point. `asymmetric`: scale =
    (max - min)/(qmax - qmin), zero point = qmin - round(min/scale), the range widened to hold 0."""
    granularity: Granularity = "channel"
    """What shares one scale: the whole weight, an output row, or `group` weights of a row."""
    group: Annotated[Annotated[int, Field(ge=2)] | None, Also("group_size", "q_group_size")] = None
    """Weights of a row that share a scale, for `granularity: group`. A layer whose width it does
    not divide stays unquantized, and the record names it."""
    activations: Literal["none", "dynamic", "static"] = "none"
    """Inputs of the linear layers: left alone; quantized to 8 bits with a scale a token found as
    they come; or with one scale a layer, from calibration."""
    weights: Literal["rtn", "gptq", "awq", "autoround", "smoothquant"] = "rtn"
    """How codes are chosen: `rtn`, each weight to the nearest level; `gptq`, one input column after
    the other, each making up for the errors of those before it (arXiv 2210.17323); `awq`, columns
    of large inputs made larger before they are rounded (arXiv 2306.00978); `autoround`, up or down
    as a block's outputs err least (arXiv 2309.05516); `smoothquant`, outliers moved from the
    activations into the weights first (arXiv 2211.10438)."""
    scales: Annotated[
        Literal["minmax", "hqq"],
        AlsoValues({"affine": "minmax", "hqq_scale_only": "hqq"}),
        Also("intx_choose_qparams_algorithm"),
    ] = "minmax"
    """For `weights: rtn`: those of `mapping`, by the extremes; or, of symmetric codes by row or
    group that are dequantized, those that torchao's HQQ_SCALE_ONLY finds: of codes at the nearest
    levels the scale with the least squared error, then the codes anew, up to 20 times."""
    damping: Annotated[
        Annotated[float, Field(gt=0, le=1)], Also("damp_percent", "dampening_frac", "percdamp")
    ] = 0.01
    """For `weights: gptq`: share of the mean of the Hessian's diagonal that is added to it."""
    act_order: Annotated[bool, Also(unlike=_DESC_ACT)] = False
    """For `weights: gptq`: columns are taken by the size of their inputs, the largest first, not as
    they lie. Groups stay as they lie, their scales chosen beforehand (`static_groups`)."""
    clipping: Annotated[bool, Also("apply_clip")] = True
    """For `weights: awq`: whether each group's largest weights are clipped where that errs less."""
    rounding_steps: Annotated[Annotated[int, Field(ge=1, le=10_000)], Also("iters")] = 200
    """For `weights: autoround`: steps of 8 windows that each block is tuned for."""
    dtype: Annotated[FloatOption, Also("torch_dtype")] = "bf16"
    """Type of what is not quantized (embeddings, head, norms, activations), of the sums, and of
    the scales where no activations are quantized to 8 bits."""
    kernel: Literal["auto", "simulated", "packed"] = "auto"
    """What multiplies: `packed`, torchao's kernel for packed 4-bit codes on CUDA; `simulated`,
    codes in bytes that are dequantized for each product; `auto`, packed where it runs. The weights
    are the same."""
    calibration_text: Annotated[str, Field(min_length=1)] | SkipJsonSchema[ResolvedText] = (
        CALIBRATION_TEXT
    )
    """What is calibrated on: `bundled:…`, a UTF-8 file or a known data set; never the text that is
    evaluated on. A plan finds it and puts what it found in place of its name."""
    calibration_windows: Annotated[
        Annotated[int, Field(ge=1, le=4096)] | None, Also("nsamples", "num_calibration_samples")
    ] = None
    """Windows that are drawn from it, none overlapping another; 128, or all of a text that has
    fewer, unless given."""
    calibration_window: Annotated[Annotated[int, Field(ge=8)], Also("seqlen")] = WINDOW_TOKENS
    """Tokens of a window; a model whose context is shorter than 2048 is read in its context unless
    another number is given."""
    calibration_method: CalibrationMethod = "minmax"
    """Range of static activations: the extremes; a percentile of the absolute values; or the
    limit whose rounding and clipping make the smallest squared error."""
    calibration_percentile: Annotated[float, Field(gt=50, le=100)] = 99.9
    """For `calibration_method: percentile`."""
    calibration_seed: Annotated[int, Field(ge=0)] = 0
    """Which windows are drawn."""

    @property
    def calibrates(self) -> bool:
        """Whether the model must see text before it is in this precision."""
        return self.activations == "static" or self.weights != "rtn"

    @property
    def uses_int8_kernel(self) -> bool:
        """Whether 8-bit weights meet 8-bit activations in integer products (torchao's Int8Tensor).

        Else the codes are dequantized and multiplied in floating point, activations too.
        """
        return self.activations == "static" or (
            self.activations == "dynamic"
            and (self.bits, self.mapping) == (8, "symmetric")
            and self.granularity != "group"
        )

    @property
    def products(self) -> Products:
        """How its layers multiply."""
        if self.kernel == "packed":
            return Products("packed", self.dtype, self.dtype, group=self.group, fused=True)
        return Products(
            "codes" if self.uses_int8_kernel else "dequantized",
            self.dtype,
            self.dtype,
            group=self.group,
            whole_tensor=self.granularity == "tensor",
            constants=1,  # the zero points
            fused=True,
        )

    @model_validator(mode="before")
    @classmethod
    def _of_records(cls, given: Any) -> Any:
        """Takes what stands in records for a window: None, where it was 512 tokens at most."""
        if not isinstance(given, dict) or given.get("calibration_window", 0) is not None:
            return given
        here = {name: field.default for name, field in cls.model_fields.items()} | given
        if here["activations"] == "static" or here["weights"] != "rtn":
            return given | {"calibration_window": 512}
        return {name: value for name, value in given.items() if name not in _ONCE}

    @model_serializer(mode="wrap")
    def _written(self, as_it_is: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = as_it_is(self)
        if not self.calibrates:
            written |= {name: once for name, once in _ONCE.items() if name in written}
        fields = type(self).model_fields
        return {
            name: value
            for name, value in written.items()
            if name not in _LATER or getattr(self, name) != fields[name].default
        }

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (wrong := wrong_combination(self)) is not None:
            raise ValueError(wrong)
        return self


STORED_BITS = 8
"""Of a code that torchao keeps unpacked, whatever its width."""
KERNEL_MULTIPLE = 8
"""What a layer's widths must be multiples of, for CUDA's kernel to take it."""
SHORT_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "int8-wo": ("8-bit integer weights, one scale an output row", {}),
    "int4-g32": (
        "4-bit integer weights, symmetric, groups of 32",
        {"bits": 4, "granularity": "group", "group": 32},
    ),
    "int4-g32-asym": (
        "4-bit integer weights with zero points, groups of 32",
        {"bits": 4, "granularity": "group", "group": 32, "mapping": "asymmetric"},
    ),
    "int4-g32-gptq": (
        "int4-g32 with codes chosen by GPTQ on a calibration text",
        {"bits": 4, "granularity": "group", "group": 32, "weights": "gptq"},
    ),
    "int4-g128": (
        "4-bit integer weights, symmetric, groups of 128: W4A16 as it is mostly served",
        {"bits": 4, "granularity": "group", "group": 128},
    ),
    "int4-g128-asym": (
        "4-bit integer weights with zero points, groups of 128",
        {"bits": 4, "granularity": "group", "group": 128, "mapping": "asymmetric"},
    ),
    "int4-g128-gptq": (
        "4-bit integer weights, symmetric, groups of 128, codes chosen by GPTQ",
        {"bits": 4, "granularity": "group", "group": 128, "weights": "gptq"},
    ),
    "int4-g128-awq": (
        "4-bit integer weights with zero points, groups of 128, scaled and clipped by AWQ",
        {
            "bits": 4,
            "mapping": "asymmetric",
            "granularity": "group",
            "group": 128,
            "weights": "awq",
        },
    ),
    "int4-g128-autoround": (
        "4-bit integer weights, symmetric, groups of 128, rounded as AutoRound tunes them",
        {"bits": 4, "granularity": "group", "group": 128, "weights": "autoround"},
    ),
    "w8a8": ("8-bit weights and activations, a scale a token", {"activations": "dynamic"}),
    "w8a8-static": (
        "8-bit weights and activations, a calibrated scale a layer",
        {"activations": "static"},
    ),
    "w8a8-smooth": (
        "w8a8 with outliers moved into the weights by SmoothQuant",
        {"activations": "dynamic", "weights": "smoothquant"},
    ),
}
"""What each short name says of itself, and the options in which it differs from the defaults."""
ALSO_CALLED = {
    "int8-wo": ("int8_weight_only", "int8wo", "w8a16"),
    "int4-g128": ("int4", "w4a16", "int4_weight_only", "int4wo"),
    "w8a8": ("int8_dynamic_activation_int8_weight", "int8dq", "w8a8-int8", "w8a8-dynamic"),
    "w8a8-static": ("int8_static_activation_int8_weight",),
    "w8a8-smooth": ("smoothquant", "w8a8-smoothquant"),
}
"""What other tools call the same, by the short name."""
NOT_BY_DEFAULT = (
    "int4-g128",
    "int4-g128-asym",
    "int4-g128-gptq",
    "int4-g128-awq",
    "int4-g128-autoround",
)
"""Short names that a suite must name: it may go on meaning what it meant before they were there."""


FOR_QAT, DYNAMIC = "int4-g32", "w8a8"
"""What advice names: a format that QAT is for, and one whose activations need no calibration."""


def group_fits(options: IntegerOptions, in_features: int) -> bool:
    """Whether a row of that width falls into whole groups."""
    return options.products.holds(in_features)


def scale_count(options: IntegerOptions, out_features: int, in_features: int) -> int:
    """Number of scales of one layer."""
    return options.products.scales(out_features, in_features)


_FORMAT = ("bits", "mapping", "granularity", "group", "activations", "weights")


def short_options(name: str) -> type[IntegerOptions]:
    """The options of a short name: the format's own can be nothing else, the others are free."""
    fixed = IntegerOptions(**SHORT_NAMES[name][1])
    fields: dict[str, Any] = {}
    for field in _FORMAT:
        value = getattr(fixed, field)
        also = [one for one in IntegerOptions.model_fields[field].metadata if isinstance(one, Also)]
        kind: Any = Literal[value] if value is not None else None
        fields[field] = (
            Annotated[kind, also[0]] if also else kind,
            Field(
                value,
                description=f"Part of {name}; for another value write `integer` with its options.",
            ),
        )
    made = create_model(
        "".join(part.capitalize() for part in name.split("-")) + "Options",
        __base__=IntegerOptions,
        __doc__=f"Options of `{name}`.",
        **fields,
    )
    return cast("type[IntegerOptions]", made)
