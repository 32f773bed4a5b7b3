"""What the measurement of sensitivities may be told, and what one item of it is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from qbench.core.aliases import Also
from qbench.core.options import typed_options
from qbench.core.spec import Frozen, Item, PrecisionRef
from qbench.measures.options import as_tuple, not_empty
from qbench.precisions import precisions
from qbench.precisions.integer.options import CALIBRATION_TEXT
from qbench.precisions.mixed.options import Entry
from qbench.precisions.mixed.units import By
from qbench.sources.data.texts import ResolvedText

SENSITIVITY = "sensitivity"
WINDOW_MOST = 256
"""Default window of a model with a longer context."""
Formats = Annotated[
    tuple[Entry, ...],
    AfterValidator(not_empty),
    BeforeValidator(
        as_tuple, json_schema_input_type=Entry | Annotated[list[Entry], Field(min_length=1)]
    ),
]


class SensitivityOptions(Frozen):
    """Options of `sensitivity`."""

    formats: Formats | None = None
    """Labels of the suite's precisions, or names of others, with options where they need any:
    `[nf4, int8, {integer: {bits: 5}}]`. Unless given, the suite's that hold single layers."""
    by: By = "layer"
    """What is held in a format together: each linear layer alone, those of a block, or those of one
    kind, such as every `down_proj`."""
    text: str = CALIBRATION_TEXT
    """`bundled:<name>`, a local file, or the name of a known data set: another than the one that
    quality is measured on."""
    window: Annotated[Annotated[int, Field(ge=2)] | None, Also("ctx_size", "n_ctx", "seqlen")] = (
        None
    )
    """Tokens a window, `<s>` included; the model's context unless given, at most 256."""
    limit: PositiveInt = 24
    """The first so many windows of the text; fewer than 20 give no intervals."""
    batch: Annotated[PositiveInt, Also("batch_size")] = 4
    """Windows at once: the same in every cell, since neighbours change LLM.int8's outliers."""
    prune: Literal["dominated"] | None = None
    """`dominated` measures no format of a unit of which another has no more bytes and errs no more
    on each layer's outputs. Every pair is measured unless given."""


class SensitivityParams(Frozen):
    """What one item measures, as it stands in its record; the same for all cells of a model."""

    text: ResolvedText
    window: int
    limit: int
    batch: int
    by: By
    prune: Literal["dominated"] | None = None
    rest: str
    """What the reference is held in: a floating type, or the name of another precision."""
    formats: tuple[PrecisionRef, ...]
    """As single layers are held in them, in the order they were asked for."""
    divergence: bool = True


def needs_of_formats(item: Item) -> tuple[str, ...]:
    """Packages that decide what single layers become in the item's formats, if it has any."""
    if item.measurement != SENSITIVITY:
        return ()
    names = dict.fromkeys(one.name for one in params_of(item).formats)
    return tuple(dict.fromkeys(need for name in names for need in precisions()[name].needs))


def params_of(item: Item) -> SensitivityParams:
    """The parameters of an item of `sensitivity`."""
    return typed_options(SensitivityParams, item.params)
