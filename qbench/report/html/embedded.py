"""What stands in a page for its scripts: data that cannot end its element, and digests."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

from qbench.core.page_data import finite

if TYPE_CHECKING:
    from collections.abc import Sequence

_ESCAPED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def json_text(value: Sequence[Any] | dict[str, Any]) -> str:
    """JSON in ASCII that holds no sign with a meaning in HTML; what is no number is null."""
    return json.dumps(finite(value), separators=(",", ":")).translate(_ESCAPED)


def digest(text: str) -> str:
    """The SHA-256 of an element's text, as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
