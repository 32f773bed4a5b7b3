"""Arguments of generation that a suite may give: those that leave one answer to each item.

What lm-eval reads itself is checked here: a value of another kind would be read as another value,
or end the run. What else there is, the model or the server says.
"""

from __future__ import annotations

import math
from typing import Any

from qbench.core.reading import InvalidValueError

_LENGTH = ("the length as lm-eval reads it first, max_gen_toks", "write max_gen_toks")
_STOP = ("stop texts as lm-eval reads them, until", "write until")
_MANY = ("one answer to each item", "leave it out: `repeats` asks again")
_OWN = ("how answers are generated, not what is asked", "leave it out: it is not the suite's")
_CODE = (
    "arguments that run no code",
    "leave it out: qbench runs no way of generating but transformers' own",
)
RUN_CODE = ("custom_generate", "trust_remote_code")
"""Arguments of transformers' `generate` that have it run the Python of a repository or a folder."""
_REFUSED = {
    **dict.fromkeys(RUN_CODE, _CODE),
    "max_new_tokens": _LENGTH,
    "max_tokens": _LENGTH,
    "max_completion_tokens": _LENGTH,
    "max_length": _LENGTH,
    "stop": _STOP,
    "stop_strings": _STOP,
    "n": _MANY,
    "num_return_sequences": _MANY,
    "model": _OWN,
    "prompt": _OWN,
    "messages": _OWN,
    "echo": _OWN,
    "stream": _OWN,
    "return_dict_in_generate": _OWN,
    "seed": ("the seed as a key of its own beside gen_kwargs", "write `seed` there"),
}
"""Each with what is expected in its place, and the remedy."""


def check_generation(given: dict[str, Any]) -> dict[str, Any]:
    """The same; raises `InvalidValueError` for a name or a value that is none."""
    for name, value in given.items():
        if name in _REFUSED:
            expected, remedy = _REFUSED[name]
            raise InvalidValueError(expected, f"`{name}`", remedy)
        wanted = _why_none(name, value)
        if wanted is not None:
            raise InvalidValueError(f"{name}: {wanted}", f"`{value}`")
    return given


def _why_none(name: str, value: Any) -> str | None:
    """What is expected of a value that lm-eval reads itself; None where it is that."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    match name:
        case "max_gen_toks":
            whole = isinstance(value, int) and number >= 1
            return None if whole else "a whole number of 1 or more"
        case "temperature":
            return None if 0 <= number < math.inf else "a number of 0 or more"
        case "do_sample":
            return None if isinstance(value, bool) else "true or false"
        case "until":
            texts = value if isinstance(value, list | tuple) else [value]
            fits = all(isinstance(one, str) and one for one in texts)
            return None if fits else "a text, or a list of texts"
        case _:
            return None
