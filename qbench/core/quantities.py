"""Sizes, times, energies, shares and bits as a person writes them: `6GiB`, `40ms`, `1%`, `4bpw`."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

BYTE_UNITS = {
    "b": 1,
    "kb": 10**3,
    "kib": 2**10,
    "mb": 10**6,
    "mib": 2**20,
    "gb": 10**9,
    "gib": 2**30,
    "tb": 10**12,
    "tib": 2**40,
}
"""Bytes of each unit, by its name in small letters: GB are 10⁹ bytes, GiB 2³⁰."""
SECOND_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
"""Seconds of each unit."""
JOULE_UNITS = {"mJ": 1e-3, "J": 1.0, "kJ": 1e3}
"""Joules of each unit."""
BIT_UNITS = {"bit": 1, "bits": 1, "bpw": 1}
"""Bits a weight, by the names of the unit in small letters."""
_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_WITH_UNIT = re.compile(_NUMBER + r"\s*([^\d\s.]+)")
_PLAIN = re.compile(_NUMBER)


def is_number(text: str) -> bool:
    """Whether it is a number without a unit."""
    return _PLAIN.fullmatch(text.strip()) is not None


def bytes_of(text: str) -> float | None:
    """The bytes that `6GiB` or `500 MB` means; None for what is no size with a unit."""
    return _read(text.strip().lower(), BYTE_UNITS)


def bits_of(text: str) -> float | None:
    """The bits a weight that `4.5 bits` or `4.5bpw` means; None for what is no such number."""
    return _read(text.strip().lower(), BIT_UNITS)


def seconds_of(text: str) -> float | None:
    """The seconds that `40ms` or `1.5 s` means; None for what is no time with a unit."""
    return _read(text.strip(), SECOND_UNITS)


def joules_of(text: str) -> float | None:
    """The joules that `500mJ` or `2 J` means; None for what is no energy with a unit."""
    return _read(text.strip(), JOULE_UNITS)


def share_of(text: str) -> float | None:
    """0.01 for `1%` or `1 %`; None for what has no percent sign."""
    return _read(text.strip(), {"%": 0.01})


def _read(text: str, units: Mapping[str, float]) -> float | None:
    found = _WITH_UNIT.fullmatch(text)
    unit = units.get(found[2]) if found is not None else None
    if found is None or unit is None:
        return None
    number = float(found[1])
    # 57 × 0.01 is not 0.57, 57 ÷ 100 is; and 2.01 × 10⁶ is not 2,010,000, unless it is worked out
    # in whole numbers.
    if unit < 1:
        return number / round(1 / unit)
    if not math.isfinite(number * unit):
        return number * unit
    return float(Fraction(repr(number)) * Fraction(unit))
