"""What strangers wrote: files that are bounded, and texts that are harmless where they are shown.

A record, a baseline or a model's folder may be anyone's. Its texts are cleaned once, where it is
read, so that nothing behind it need think of terminals, pages or file names.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import unicodedata
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LONGEST_LINE = 300
"""Characters of a name or another text of one line."""
LONGEST_WORDS = 4_000
"""Characters of a message."""
MOST_DEPTH = 64
"""Lists and mappings within one another; deeper ones end in a `RecursionError` somewhere."""
MOST_VALUES = 100_000
"""In a YAML text, aliases written out: a few lines of them may stand for more than any memory."""
LARGEST_INTEGER = 2**64
"""What any count or seed fits in; larger ones no longer fit a float without loss, or at all."""

_NUMBERS = frozenset({int, float})
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def visible(text: str) -> str:
    """The text with its control and invisible characters written as escapes.

    Line feeds and tabs stay; a text cannot move a terminal's cursor or turn its direction.
    """
    if text.isprintable() or all(map(str.isprintable, text.split("\n"))):
        return text
    return "".join(
        letter
        if letter in "\n\t" or unicodedata.category(letter) not in _UNSEEN
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def in_one_line(text: str) -> str:
    """A visible text in one line, its end left out where it is too long for a name."""
    if len(text) <= LONGEST_LINE and text.isprintable():
        return text
    line = visible(text[: 2 * LONGEST_LINE]).replace("\n", " ").replace("\t", " ")
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…"


def as_message(text: str, most: int = LONGEST_WORDS) -> str:
    """A visible text of several lines, told how much of it is left out where it is too long."""
    more = len(text) - most
    return visible(text) if more <= 0 else f"{visible(text[:most])}… ({more:,} more characters)"


_CLEANED_AS: dict[str, Callable[[str], str]] = {
    "details": visible,
    "identity": visible,
    "log_tail": as_message,
    "no_value": as_message,
    "options": visible,
    "params": visible,
    "reason": as_message,
    "warnings": as_message,
}
"""How texts are cleaned below these keys; other keys' are names, and stand in one line."""


def cleaned(value: Any, how: Callable[[str], str] = in_one_line) -> Any:
    """A value of JSON with all its texts cleaned, those under some keys as messages or as texts."""
    if isinstance(value, str):
        return how(value)
    if isinstance(value, list | tuple):
        return [each if type(each) in _NUMBERS else cleaned(each, how) for each in value]
    if isinstance(value, dict):
        return {
            in_one_line(str(key)): cleaned(each, _CLEANED_AS.get(key, how))
            for key, each in value.items()
        }
    return value


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """A file's contents; raises `OSError` for what is no regular file, or larger.

    A pipe is not waited for, and a device that never ends is not read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        contents = file.read(most_bytes + 1)
    if len(contents) > most_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {most_bytes:,} bytes", str(path))
    return contents


def parse_json(contents: bytes) -> Any:
    """The value of a JSON text; raises `ValueError`, with the reason, for what is none.

    Numbers are finite and of usual size, and nothing lies deeper than `MOST_DEPTH`.
    """
    try:
        value = json.loads(contents, parse_constant=_refuse_constant)
        _check([value], -1)
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    except RecursionError as error:
        raise ValueError(f"values more than {MOST_DEPTH} deep") from error
    return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; raises `ValueError`, with the reason, for what is none.

    Nothing lies deeper than `MOST_DEPTH`, and there are no more than `MOST_VALUES`.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
        count = sum(1 for _ in islice(_values(value), MOST_VALUES + 1))
    except RecursionError as error:
        raise ValueError(f"values more than {MOST_DEPTH} deep") from error
    except (yaml.YAMLError, AttributeError, LookupError, TypeError) as error:
        # PyYAML's own constructors trip over tags such as `!!timestamp x`.
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(first) from error
    if count > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values, aliases written out")
    return value


def _values(value: Any, depth: int = 0) -> Iterator[Any]:
    """The value with all within it."""
    yield value
    if isinstance(value, dict | list):
        if depth >= MOST_DEPTH:
            raise RecursionError
        for each in value.values() if isinstance(value, dict) else value:
            yield from _values(each, depth + 1)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _check(value: Any, depth: int) -> None:
    if isinstance(value, dict | list):
        if depth >= MOST_DEPTH:
            raise RecursionError
        for each in value.values() if isinstance(value, dict) else value:
            if type(each) is float:
                if not math.isfinite(each):
                    raise ValueError("a number too large to hold")
            elif type(each) is not str:
                _check(each, depth + 1)
    elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise ValueError("a whole number too large to hold")
