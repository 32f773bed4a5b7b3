"""Weight files of a model folder, and the headers of its safetensors files, checked.

A safetensors file is 8 bytes with the header's length (little-endian), a JSON header that names
each tensor with its type, shape and place in the data, and the data, without gaps
(https://huggingface.co/docs/safetensors/index#format).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qbench.core.errors import ModelError
from qbench.core.untrusted import in_one_line, read_bounded
from qbench.sources.models.config import LARGEST_BYTES

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth")

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as its safetensors header describes it."""

    dtype: str
    """As safetensors names it: `F32`, `BF16`, …"""
    shape: tuple[int, ...]
    start: int
    """First byte of its values in the file."""
    end: int
    """One past the last byte."""
    file: str = ""
    """Path of the file; empty for a file that was not downloaded."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads from a folder, sorted by name.

    Raises `ModelError` when there are none, only pickles, or a shard is missing.
    """
    single = folder / SINGLE_FILE
    if single.is_file():
        return [single]
    index = folder / INDEX_FILE
    if index.is_file():
        names = shard_names(_read_json(index), str(index))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{folder}: {INDEX_FILE} names {len(names)} files, {', '.join(missing)} missing;"
                " copy or download the model again, completely"
            )
        return [folder / name for name in names]
    files = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
    raise ModelError(no_weights_message(str(folder), files))


def shard_names(index: object, place: str) -> list[str]:
    """File names in a parsed `model.safetensors.index.json`, sorted, each once."""
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(
            f"{place}: found no weight_map; expected an object from tensor names to file names;"
            " copy or download the model again"
        )
    names = set()
    for name in weight_map.values():
        # Names as they stand in files that others made: shown on terminals, opened as files.
        if not isinstance(name, str) or not name.isprintable() or not _stays_inside(name):
            raise ModelError(
                f"{place}: names the file {in_one_line(json.dumps(name))}; expected names of files"
                " beside it; copy or download the model again"
            )
        names.add(name)
    return sorted(names)


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def no_weights_message(place: str, names: list[str]) -> str:
    """Why the files of these names are no weights that qbench loads, with the remedy."""
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    if pickles:
        return (
            f"{place}: found weights as pickles only ({', '.join(pickles[:3])}), which run code"
            " when they are loaded; expected safetensors. Where you trust them, convert once: load"
            " the model with AutoModelForCausalLM.from_pretrained and write it with"
            " save_pretrained(folder, safe_serialization=True)"
        )
    blocks = [name for name in names if name.endswith(".gguf")]
    if blocks:
        return (
            f"{place}: found GGUF files ({', '.join(blocks[:3])}{' …' if len(blocks) > 3 else ''});"
            " expected a model folder; give one such file, on this machine, by its path (`hf"
            " download` fetches it from a hub)"
        )
    others = [name for name in names if name.endswith(".safetensors")]
    if others:
        return (
            f"{place}: found {', '.join(others[:3])}; expected {SINGLE_FILE}, or shards with"
            f" {INDEX_FILE}; save the model with save_pretrained(folder), an adapter after merging"
            " it into its base"
        )
    return (
        f"{place}: found no weights; expected {SINGLE_FILE}, or shards with {INDEX_FILE};"
        " check the path, or save the model there with save_pretrained"
    )


def adapter_message(place: str) -> str:
    """Why whole weights with an adapter beside them are not loaded, with the remedy."""
    return (
        f"{place}: found {ADAPTER_CONFIG} beside a model's own config.json; transformers would"
        " apply that adapter to the weights, once more if it is merged into them already; expected"
        " the weights of one model; remove the adapter's files where it is merged, else merge it"
        " and save the model without them"
    )


def read_headers(files: list[Path]) -> dict[str, StoredTensor]:
    """All tensors of the files by name; every file's length is checked against its header.

    Raises `ModelError` for a tensor that two files hold with different values: the loader takes
    the last file's, whatever the index says.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        for name, tensor in read_header(path).items():
            other = tensors.get(name)
            if other is not None and not same_values(other, tensor):
                raise ModelError(
                    f"{path.parent}: {name} stands in {Path(other.file).name} and, with other"
                    f" values, in {path.name}; expected each tensor once; save the model again, or"
                    " download it again, completely"
                )
            tensors[name] = tensor
    return tensors


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Tensors of one safetensors file by name.

    Raises `ModelError` when the file is cut short or its header cannot be true.
    """
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(_LENGTH_BYTES)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < _LENGTH_BYTES or length > min(file_bytes, _MAX_HEADER_BYTES):
                raise _corrupt(path, f"{file_bytes} bytes, too few for a header")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, "a header that is not JSON") from error
    tensors = parse_header(header, str(path), data_start=_LENGTH_BYTES + length)
    needed = max((tensor.end for tensor in tensors.values()), default=_LENGTH_BYTES + length)
    if needed != file_bytes:
        raise _corrupt(path, f"{file_bytes} bytes where its header needs {needed}")
    return tensors


def parse_header(header: object, place: str, *, data_start: int) -> dict[str, StoredTensor]:
    """Tensors of a parsed header by name, each checked against its own type and shape."""
    if not isinstance(header, dict):
        raise _corrupt(place, "a header that is not a JSON object")
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not name.isprintable():
            raise _corrupt(place, f"a tensor named {in_one_line(json.dumps(name))}")
        try:
            dtype, shape = _word(entry["dtype"]), tuple(map(_whole, entry["shape"]))
            start, end = map(_whole, entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise _corrupt(place, f"a header entry {name} without type, shape or place") from error
        bits = _BITS.get(dtype)
        wrong = min(shape, default=0) < 0 or start < 0 or end < start
        if wrong or (bits is not None and (end - start) * 8 != math.prod(shape) * bits):
            raise _corrupt(
                place, f"{name} at bytes {start} to {end} for {dtype} of shape {list(shape)}"
            )
        tensors[name] = StoredTensor(dtype, shape, data_start + start, data_start + end, place)
    return tensors


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"found {value!r}; expected a whole number")
    return value


def _word(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError(f"found {value!r}; expected a type's name")
    return value


def same_values(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two tensors of local files hold the same bytes."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    chunk = 1 << 22
    with open(first.file, "rb") as one, open(second.file, "rb") as two:  # noqa: PTH123 (names)
        one.seek(first.start)
        two.seek(second.start)
        for offset in range(0, first.end - first.start, chunk):
            count = min(chunk, first.end - first.start - offset)
            if one.read(count) != two.read(count):
                return False
    return True


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_bounded(path, LARGEST_BYTES))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path}: found no valid JSON; expected the index of the shards; copy or download the"
            " model again"
        ) from error


def _corrupt(place: Path | str, found: str) -> ModelError:
    return ModelError(
        f"{place}: corrupt: found {found}; expected a complete safetensors file; copy or download"
        " it again"
    )
