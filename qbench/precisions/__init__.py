"""The precisions a model can be held in: one module a family, listed here by hand.

A new precision is a new module with an object of a class below `Precision` and a line in the table
below; a package outside qbench adds one through the entry point group `qbench.precisions`. Nothing
else names it: what others must know of a precision it says itself.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from qbench.core.options import typed_options
from qbench.core.plugins import with_plugins
from qbench.core.spec import PrecisionRef
from qbench.precisions import bnb4bit, floating, int8, stored
from qbench.precisions.floating_codes.precision import PRECISIONS as FLOATING_CODES
from qbench.precisions.gguf.gguf import PRECISIONS as GGUF
from qbench.precisions.hqq.hqq import PRECISIONS as HQQ
from qbench.precisions.integer.integer import PRECISIONS as INTEGERS
from qbench.precisions.kv_cache import also_of_cache
from qbench.precisions.mixed.mixed import PRECISIONS as MIXED
from qbench.precisions.precision import Precision
from qbench.precisions.quanto.quanto import PRECISIONS as QUANTO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import Frozen
    from qbench.precisions.products import Products

EXAMPLE = "nf4"
"""What examples in messages and in the schema of a suite name."""
ADVISED = ("int8", "nf4-dq")
"""What advice names where a model is too large: half of 16 bits, and about a quarter."""
FIRST_LOOK = ("bf16", "int8", "nf4")
"""What a model is first looked at in, where nobody has said."""


@cache
def precisions() -> dict[str, Precision]:
    """All precisions by name, in the order they are shown: by `order`, qbench's own first."""
    own: tuple[Precision, ...] = (
        *floating.PRECISIONS,
        *int8.PRECISIONS,
        *bnb4bit.PRECISIONS,
        *FLOATING_CODES,
        *HQQ,
        *QUANTO,
        *INTEGERS,
        *GGUF,
        *MIXED,
        *stored.PRECISIONS,
    )
    table = with_plugins("qbench.precisions", Precision, own)
    return dict(sorted(table.items(), key=lambda named: named[1].order))


def with_defaults(name: str) -> PrecisionRef:
    """A precision with all of its options at their defaults."""
    return PrecisionRef(label=name, name=name, options=precisions()[name].options().model_dump())


def options_of(ref: PrecisionRef) -> Frozen:
    """The options that a precision was chosen with, as its own type."""
    return typed_options(precisions()[ref.name].options, ref.options)


def products_of(ref: PrecisionRef, config: Mapping[str, Any] | None = None) -> Products | None:
    """How the layers of a chosen precision multiply, of a checkpoint with that config.json.

    None where it is not known, and for a precision that is not there, as a record may name one.
    """
    held = precisions().get(ref.name)
    try:
        return None if held is None else held.products(options_of(ref), config)
    except ValidationError:  # an old record's, of options that are no longer there
        return None


def unlike_served(ref: PrecisionRef, device: str, kv_cache: str | None = None) -> str | None:
    """Why its times on a device of torch's are not those of the format as it is served.

    `kv_cache` is the kind of quantized cache that it decodes with, if any. None where they are, as
    far as is known, and for a precision that is not there.
    """
    held = precisions().get(ref.name)
    try:
        own = None if held is None else held.unlike_served(options_of(ref), device)
    except ValidationError:  # as above
        own = None
    return also_of_cache(own, kv_cache)


def pools_batch(ref: PrecisionRef) -> bool:
    """Whether what comes out for one sequence depends on those beside it in a batch."""
    held = precisions().get(ref.name)
    try:
        return held is not None and held.pools_batch(options_of(ref))
    except ValidationError:  # as above
        return False


def is_quantized(ref: PrecisionRef) -> bool:
    """Whether the weights are codes, which a gradient cannot change: unless known as numbers."""
    products = products_of(ref)
    return products is None or products.kind != "floating"
