"""Good JSON made bad: anywhere in it, something that no one expects there."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hypothesis.strategies import DrawFn

HOSTILE_TEXTS = (
    "",
    " ",
    "\n::error::x",
    "::set-output name=a::b",
    "\x1b[31mred\x07\x9b2J",
    "\u202egnp.exe\u2028",
    "\ud800",
    "\x00",
    "=1+1",
    "[/red][bold]",
    "![a](b)<img>|`*_",
    "../../README",
    "/dev/zero",
    "/",
    "~nobody/x",
    "none",
    "nan",
    "1e999",
    "auto",
    "a" * 300,
    "long " * 4000,
    "*?[z-a]",
    "[" * 50,
    "%s{0}{{ 1/0 }}",
)
ODD_NUMBERS = (0, -1, 1, 3, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e16, 1e200)
ODD_NUMBERS += (1e308, -1e308, float("inf"), float("nan"))


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], [None], {"": {}}, {"name": None}, {"a": [1, {"b": "c"}]}),
    *(_nested(60), _nested(200), {"fingerprint": 3, "location": []}, {"kind": "x" * 500}),
    *ODD_NUMBERS,
    *HOSTILE_TEXTS,
)
Path = tuple[Any, ...]


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a value; of long lists of numbers the first two."""
    yield path
    if isinstance(value, dict):
        for key, each in value.items():
            yield from paths(each, (*path, key))
    elif isinstance(value, list):
        numbers = all(isinstance(each, int | float) for each in value)
        for index, each in enumerate(value[:2] if numbers else value):
            yield from paths(each, (*path, index))


class Mutant:
    """A value with something wrong in it; shown by what was done to it."""

    def __init__(self, value: Any, changes: tuple[str, ...]) -> None:
        self.value = value
        self.changes = changes

    def __repr__(self) -> str:
        """The changes alone: the value is long."""
        return f"Mutant({'; '.join(self.changes)})"


@st.composite
def mutated(draw: DrawFn, good: Any, places: Sequence[Path], most: int = 3) -> Mutant:
    """The value with one to `most` of its places changed, or with keys added to them."""
    made = copy.deepcopy(good)
    changes = []
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(places))
        how = draw(st.sampled_from(("replace", "replace", "remove", "add", "double")))
        odd, key = draw(st.sampled_from(ODD_VALUES)), draw(st.sampled_from(HOSTILE_TEXTS))
        made = _changed(made, path, how, copy.deepcopy(odd), key)
        changes.append(f"{how} {'.'.join(map(str, path))} {key[:20]!r} {str(odd)[:40]!r}")
    return Mutant(made, tuple(changes))


def _changed(value: Any, path: Path, how: str, odd: Any, key: str) -> Any:
    if not path:
        return odd
    holder = value
    for step in path[:-1]:
        try:
            holder = holder[step]
        except (KeyError, IndexError, TypeError):
            return value  # an earlier change took the place away
    last = path[-1]
    try:
        if how == "remove":
            del holder[last]
        elif how == "add" and isinstance(holder[last], dict):
            holder[last][key] = odd
        elif how == "add" and isinstance(holder[last], list):
            holder[last].append(odd)
        elif how == "double" and isinstance(holder, list):
            holder.append(holder[last])
        else:
            holder[last] = odd
    except (KeyError, IndexError, TypeError):
        pass
    return value
