"""Which floating type a chosen precision computes in, and the same precision in another."""

from __future__ import annotations

from qbench.core.number_types import BF16, FloatType
from qbench.core.options import shown_options
from qbench.core.spec import PrecisionRef, slugify
from qbench.precisions import is_quantized, options_of, precisions, products_of
from qbench.precisions.floating import in_type

_COMPUTE, _REST = "compute_dtype", "dtype"
"""Options of a precision that name the type of its products, and of what is not quantized."""


def computed_in(precision: PrecisionRef, dtype: FloatType) -> PrecisionRef | None:
    """The same precision with its products in a floating type; None where it has no choice of it.

    A floating precision becomes that of the type. Of others the option `compute_dtype` says it, or
    else `dtype`.
    """
    if not is_quantized(precision):
        return in_type(dtype)
    held = options_of(precision)
    fields = type(held).model_fields
    changed: dict[str, str | None] = {
        name: dtype
        if name == _COMPUTE or _COMPUTE not in fields
        # What is not quantized follows the type that is computed in.
        else None
        for name in (_COMPUTE, _REST)
        if name in fields
    }
    if not changed:
        return None
    options = held.model_validate({**held.model_dump(), **changed})
    unlabelled = set(precisions()[precision.name].unlabelled)
    shown = options.model_dump(mode="json", exclude_defaults=True, exclude=unlabelled)
    return PrecisionRef(
        label=slugify("-".join([precision.name, *shown_options(shown)])),
        name=precision.name,
        options=options.model_dump(mode="json"),
    )


def compute_type(precision: PrecisionRef) -> FloatType:
    """The type that matrices are multiplied in: what an attached adapter is held in."""
    products = products_of(precision)
    return BF16 if products is None else products.compute


def rest_type(precision: PrecisionRef) -> FloatType:
    """The type of what is not quantized, from which a precision is made."""
    products = products_of(precision)
    return BF16 if products is None else products.rest
