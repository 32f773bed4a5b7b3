"""Headers of GGUF files, checked: settings, and each tensor's type, shape and place.

A file is the magic `GGUF`, a version, the numbers of tensors and of settings, the settings (name,
type, value), the tensors (name, sizes with the row's width first, type, place in the data), and
the data, aligned (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). All numbers are
little-endian. Nothing but the standard library is needed.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.core.untrusted import in_one_line
from qbench.sources.models.gguf_types import TYPES, BlockType

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_MOST_SIZES = 4
_MOST_TENSORS = 1_000_000
_LONGEST_NAME = 65_535
_KEPT = 4096
"""Entries of a list that are kept; of longer ones, such as a vocabulary, the number alone."""
_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Formats of struct by the type of a setting."""
_TEXT, _LIST = 8, 9


@dataclass(frozen=True)
class GgufTensor:
    """A tensor as the header describes it."""

    kind: BlockType
    shape: tuple[int, ...]
    """As torch has it: (out, in) of a matrix."""
    start: int
    """First byte in the file."""
    end: int

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufFile:
    """What the header of a file says."""

    path: Path
    settings: dict[str, Any]
    """By name; a list that is long is its length in a tuple of one."""
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it."""
        return str(self.settings.get("general.architecture"))

    def setting(self, name: str) -> Any:
        """One of the architecture's own settings, such as `block_count`; None for none."""
        return self.settings.get(f"{self.architecture}.{name}")


def read_gguf(path: Path) -> GgufFile:
    """The header of a file; `ModelError` for one that is cut short or cannot be true."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size < len(_MAGIC) or file.read(len(_MAGIC)) != _MAGIC:
                raise ModelError(
                    f"{path}: found no GGUF file (it does not begin with the letters GGUF);"
                    " expected one that llama.cpp reads; download it again"
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
                return _Header(path, held).read()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error


class _Header:
    def __init__(self, path: Path, held: mmap.mmap) -> None:
        self._path, self._held, self._at = path, held, len(_MAGIC)

    def read(self) -> GgufFile:
        try:
            return self._read()
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise self._corrupt(f"{len(self._held)} bytes, too few for its header") from error

    def _read(self) -> GgufFile:
        version = self._number("I")
        if version not in _VERSIONS:
            swapped = int.from_bytes(int(version).to_bytes(4, "little"), "big") in _VERSIONS
            found = "big-endian" if swapped else f"of version {version}"
            raise ModelError(
                f"{self._path}: found a GGUF file that is {found}; expected a little-endian one of"
                f" version {' or '.join(map(str, _VERSIONS))}; convert it again with a current"
                " llama.cpp"
            )
        tensors, settings = self._number("Q"), self._number("Q")
        if max(tensors, settings) > min(_MOST_TENSORS, len(self._held)):
            raise self._corrupt(f"{tensors} tensors and {settings} settings")
        said = dict(self._setting() for _ in range(settings))
        if said.get("split.count", 1) not in (0, 1):
            raise ModelError(
                f"{self._path}: one of {said['split.count']} parts of a model; expected one file;"
                " join them with `llama-gguf-split --merge`"
            )
        alignment = said.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or alignment < 1:
            raise self._corrupt(f"an alignment of {alignment}")
        entries = [self._tensor() for _ in range(tensors)]
        start = -(-self._at // alignment) * alignment
        placed: dict[str, GgufTensor] = {}
        for name, kind, shape, offset in entries:
            end = start + offset + math.prod(shape) // kind.weights * kind.bytes
            if end > len(self._held):
                raise self._corrupt(
                    f"{len(self._held)} bytes where its header needs {end} for {name}"
                )
            if name in placed:
                raise self._corrupt(f"two tensors named {name}")
            placed[name] = GgufTensor(kind, shape, start + offset, end)
        return GgufFile(self._path, said, placed)

    def _tensor(self) -> tuple[str, BlockType, tuple[int, ...], int]:
        name = self._text()
        if not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME:
            raise self._corrupt(f"a tensor named {in_one_line(json.dumps(name[:100]))}")
        count = self._number("I")
        if not 0 < count <= _MOST_SIZES:
            raise self._corrupt(f"{name} of {count} sizes")
        shape = tuple(reversed([self._number("Q") for _ in range(count)]))
        number, offset = self._number("I"), self._number("Q")
        kind = TYPES.get(number)
        if kind is None:
            raise ModelError(
                f"{self._path}: {name} is of type {number}, which qbench does not know; expected"
                f" one of {', '.join(one.name for one in TYPES.values())}"
            )
        if min(shape) < 1 or not kind.fits(shape[-1]):
            raise self._corrupt(f"{name} of {'×'.join(map(str, shape))} in {kind.name}")
        return name, kind, shape, offset

    def _setting(self) -> tuple[str, Any]:
        return self._text(), self._value(self._number("I"))

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _LIST:
            return self._list()
        if kind not in _NUMBERS:
            raise self._corrupt(f"a setting of type {kind}")
        return self._number(_NUMBERS[kind])

    def _list(self) -> Any:
        kind, count = self._number("I"), self._number("Q")
        if kind == _LIST or count > len(self._held):  # no writer makes lists of lists
            raise self._corrupt(f"a list of {count} entries of type {kind}")
        if count <= _KEPT:
            return [self._value(kind) for _ in range(count)]
        if kind in _NUMBERS:
            self._skip(count * struct.calcsize(_NUMBERS[kind]))
        else:
            for _ in range(count):
                if kind == _TEXT:
                    self._skip(self._number("Q"))
                else:
                    self._value(kind)
        return (count,)

    def _text(self) -> str:
        length = self._number("Q")
        start = self._at
        self._skip(length)
        return self._held[start : self._at].decode()

    def _number(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self._held, self._at)
        self._at += struct.calcsize(f"<{form}")
        return value

    def _skip(self, count: int) -> None:
        if count > len(self._held) - self._at:
            raise IndexError
        self._at += count

    def _corrupt(self, found: str) -> ModelError:
        return ModelError(
            f"{self._path}: corrupt: found {found}; expected a complete GGUF file; copy or"
            " download it again"
        )
