"""The key that an address asks for: named by the variable that holds it, and kept nowhere else."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated

from qbench.core.errors import MeasurementError
from qbench.core.reading import expects
from qbench.core.spec import Frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

HIDDEN = "***"
_SIGNS = frozenset(map(chr, range(0x21, 0x7F)))
"""What a key consists of: visible ASCII. An error about others would repeat the key."""


class ApiKey(Frozen):
    """Where a key stands."""

    env: Annotated[
        str, expects("the name of an environment variable", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    ]
    """The environment variable that holds it, such as OPENAI_API_KEY: the key itself stands in no
    suite and in no record."""


def why_no_key(key: ApiKey | None) -> str | None:
    """Why a key cannot be had; None where it can, or none is asked for."""
    held = "" if key is None else os.environ.get(key.env, "").strip()
    if key is None or (held and all(sign in _SIGNS for sign in held)):
        return None
    if not held:
        return (
            f"api_key: the environment variable {key.env} is not set; export it where qbench runs"
        )
    return (
        f"api_key: the environment variable {key.env} holds a blank, the end of a line or a sign"
        " that is not ASCII, which no header can carry; export the key alone"
    )


def headers_with(key: ApiKey | None) -> dict[str, str]:
    """What requests to the address carry; raises `MeasurementError` for a variable that is not."""
    why = why_no_key(key)
    if why is not None:
        raise MeasurementError(why)
    return {} if key is None else {"Authorization": f"Bearer {os.environ[key.env].strip()}"}


def key_in(headers: Mapping[str, str]) -> str | None:
    """The key among headers; None where there is none."""
    return headers.get("Authorization", "").removeprefix("Bearer ") or None


def without_key(words: str, headers: Mapping[str, str]) -> str:
    """What a server said, with the key hidden where it repeats it, as it is or within JSON."""
    key = key_in(headers)
    if key is None:
        return words
    return words.replace(key, HIDDEN).replace(json.dumps(key)[1:-1], HIDDEN)
