"""A format that single layers of a model are held in, as a suite names it by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.precisions.mixed.layers import member
from qbench.precisions.mixed.options import COMPUTE, REST, read_entry, rule_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.number_types import FloatType
    from qbench.core.spec import PrecisionRef
    from qbench.precisions.mixed.options import Entry


def format_of(
    entry: Entry, rest: FloatType, named: Mapping[str, PrecisionRef] | None = None
) -> PrecisionRef:
    """The format, with the options that it has where the rest of the model is of a type.

    `named` are precisions by labels of a suite, which come before those of the table; their types
    follow `rest`, as do those that an entry does not give. The floating type itself is one, too.
    Raises `InvalidValueError` for what is no precision, or holds no single layer beside that rest.
    """
    name, given = read_entry(entry)
    labelled = (named or {}).get(name)
    if labelled is None or given:
        return member(rule_of("*", name, given, rest), rest)
    own = {key: one for key, one in labelled.options.items() if key not in (COMPUTE, REST)}
    made = member(rule_of("*", labelled.name, own, rest), rest)
    return made.model_copy(update={"label": labelled.label})
