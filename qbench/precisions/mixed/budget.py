"""What a mix may take: bits a weight of the linear layers, or bytes of the whole model."""

from __future__ import annotations

import math
from string import ascii_lowercase
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, WithJsonSchema

from qbench.core.quantities import BYTE_UNITS, bits_of, bytes_of, is_number
from qbench.core.reading import InvalidValueError

EXPECTED = "bits a weight such as `4.5 bits`, or bytes of the whole model such as `5 GiB`"
_UNITS = {name: name.upper().replace("I", "i") for name in BYTE_UNITS}
_PATTERN = (
    r"^\s*\+?(?![0.]+\s*[a-zA-Z])(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
    r"\s*([bB][iI][tT][sS]?|[bB][pP][wW]|([kKmMgGtT][iI]?)?[bB])\s*$"
)


class MixBudget(NamedTuple):
    """One of the two, the other None."""

    bits: float | None
    """8 × bytes of codes and quantization state ÷ logical weights, of all linear layers."""
    bytes: float | None
    """Static bytes of the model."""


def parse_budget(text: str) -> MixBudget:
    """What a text such as `4.5 bits` or `5 GiB` allows; raises `InvalidValueError`."""
    bits, size = bits_of(text), bytes_of(text)
    known = size if bits is None else bits
    if known is None or not math.isfinite(known) or known <= 0:
        plain = is_number(text) and float(text) > 0
        remedy = f"write {text.strip()} bits or {text.strip()} GiB" if plain else None
        raise InvalidValueError(EXPECTED, remedy=remedy)
    return MixBudget(bits, None if bits is not None else size)


def _read(value: object) -> str:
    """The budget as records and labels have it: `4.5 bits`, `5 GiB`."""
    if isinstance(value, bool | list | dict | None):
        raise InvalidValueError(EXPECTED)
    text = str(value).strip().lower()
    bits = parse_budget(text).bits
    number, unit = text[: _unit_at(text)], text[_unit_at(text) :]
    return f"{_shown(float(number))} {_UNITS[unit] if bits is None else 'bits'}"


def _unit_at(text: str) -> int:
    """Where the letters at the end of a text begin."""
    return len(text.rstrip(ascii_lowercase))


def _shown(number: float) -> str:
    """A number in as few digits as say it whole."""
    short = f"{number:.10g}"
    return short if float(short) == number else repr(number).removesuffix(".0")


BudgetText = Annotated[
    str,
    BeforeValidator(_read),
    WithJsonSchema({"type": "string", "pattern": _PATTERN, "errorMessage": EXPECTED}),
]
