"""What a record's details hold, whose form no one has checked: the kind that is asked for, or none.

Details are whatever a measurement, a plug-in's too, left of what was loaded and done.
"""

from __future__ import annotations

from typing import Any


def as_mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return list(value) if isinstance(value, list | tuple) else []


def as_number(value: Any) -> float | None:
    """The value if it is a number, else None."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain else None


def shared_count(values: list[Any]) -> int | None:
    """The whole number that all values are; None where they are several, or something else."""
    whole = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    return whole[0] if len(whole) == len(values) and len(set(whole)) == 1 else None
