"""The key that an address asks for: named by the variable that holds it, and kept nowhere else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

from qbench.core.errors import MeasurementError
from qbench.core.reading import expects
from qbench.core.spec import Frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

HIDDEN = "***"


class ApiKey(Frozen):
    """Where a key stands."""

    env: Annotated[
        str, expects("the name of an environment variable", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    ]
    """The environment variable that holds it, such as OPENAI_API_KEY: the key itself stands in no
    suite and in no record."""


def why_no_key(key: ApiKey | None) -> str | None:
    """Why a key cannot be had; None where it can, or none is asked for."""
    if key is None or os.environ.get(key.env, "").strip():
        return None
    return f"api_key: the environment variable {key.env} is not set; export it where qbench runs"


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
    """What a server said, with the key hidden where it repeats it."""
    key = key_in(headers)
    return words if key is None else words.replace(key, HIDDEN)
