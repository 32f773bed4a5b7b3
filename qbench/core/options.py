"""Options as their own type, of the plain values that refs and records hold."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import Frozen

Kept = TypeVar("Kept", bound="Frozen")


def typed_options(model: type[Kept], options: Mapping[str, Any]) -> Kept:
    """The options as an object of that class, the same object for the same values.

    They were validated where they were read; raises pydantic's `ValidationError` for others.
    """
    held: Kept = _typed(model, json.dumps(options, sort_keys=True))
    return held


def plain_options(held: Frozen) -> dict[str, Any]:
    """The plain values of what was given, not of what is left at its default.

    So a field that came later is absent where it is not used, and older records keep their keys.
    """
    dumped: dict[str, Any] = held.model_dump(mode="json")
    return {name: value for name, value in dumped.items() if name in held.model_fields_set}


def shown_options(options: Mapping[str, Any]) -> list[str]:
    """Options as parts of a label: `compute_dtype=fp16`."""
    return [f"{key}={_short(value)}" for key, value in options.items()]


def _short(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


@lru_cache(maxsize=4096)
def _typed(model: type[Kept], text: str) -> Kept:
    return model.model_validate_json(text)
