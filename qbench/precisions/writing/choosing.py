"""Which form a precision is written in: what was asked for, or the first that holds its codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.errors import UsageError
from qbench.core.names import what_there_is
from qbench.precisions import options_of, precisions
from qbench.precisions.writing.numbers import numbers_form

if TYPE_CHECKING:
    from qbench.core.spec import PrecisionRef
    from qbench.precisions.writing.form import CheckpointForm


def form_of(ref: PrecisionRef, wanted: str | None = None) -> CheckpointForm:
    """The form that a model in this precision is written in.

    Raises `UsageError` for a form that it has not, and where none holds its codes and none was
    asked for.
    """
    held, options = precisions()[ref.name], options_of(ref)
    of_codes = held.forms(options)
    numbers = numbers_form(held, options)
    every = {one.name: one for one in (*of_codes, *([] if numbers is None else [numbers]))}
    if wanted is not None and wanted in every:
        return every[wanted]
    if wanted is None and of_codes:
        return of_codes[0]
    if wanted is not None and every:
        raise UsageError(
            f"--form {wanted}: no form that {ref.label} is written in;"
            f" {what_there_is(wanted, every)}"
        )
    reason = held.unwritable(options)
    if numbers is None:
        raise UsageError(f"{ref.label} cannot be written: {reason}")
    raise UsageError(
        f"{ref.label} cannot be written in codes: {reason}; --form {numbers.name} writes the"
        " numbers that they stand for, of the same quality, in as many bytes as the model without"
        " them"
    )
