"""Values as the texts that forms with places for texts alone hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def strings(values: Mapping[str, Any]) -> dict[str, str]:
    """Each value as a text, those that are no texts as JSON; what is None is left out."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
        for name, value in values.items()
        if value is not None
    }
