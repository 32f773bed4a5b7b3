"""Texts of libraries without the keys and passwords that may stand in them."""

from __future__ import annotations

import os
import re

_OF_ADDRESS = re.compile(r"(?<=://)[^/\s?#'\"]*@")
"""`user:password@` before a host."""
_IN_QUERY = re.compile(
    r"(?i)([?&][\w.-]*(?:token|key|password|secret|signature)[\w.-]*=)[^&\s'\"]+"
)
_VARIABLE = re.compile(r"(?:^|_)(?:KEY|TOKEN|PASSWORD|SECRET)(?:$|_)")
_SHORTEST = 6
"""Letters of a value that is looked for: a shorter one stands in words that tell nothing."""
_HIDDEN = "***"


def without_credentials(text: str) -> str:
    """The text, with `***` for what addresses in it hold to log in, and for values of variables.

    The variables are those of this process whose names say so, such as `WANDB_API_KEY`.
    """
    values = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and _VARIABLE.search(name)
    }
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, _HIDDEN)
    return _IN_QUERY.sub(rf"\1{_HIDDEN}", _OF_ADDRESS.sub(f"{_HIDDEN}@", text))
