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


@lru_cache(maxsize=4096)
def _typed(model: type[Kept], text: str) -> Kept:
    return model.model_validate_json(text)
