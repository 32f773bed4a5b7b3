"""Which tensors of a checkpoint hold NaN or infinity, so that no one else is blamed for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.sources.models.headers import weight_files

if TYPE_CHECKING:
    from pathlib import Path

MOST_NAMED = 3


def nonfinite_tensors(folder: Path) -> list[str]:
    """Names of the checkpoint's tensors with values that are no finite numbers, with their count.

    Reads every tensor, one at a time; for when such values have turned up.
    """
    from safetensors import safe_open

    try:
        files = weight_files(folder)
    except ModelError:  # random weights come without a file
        return []
    found = []
    for path in files:
        open_file: Any = safe_open  # untyped in safetensors
        with open_file(path, framework="pt") as file:
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name)
                bad = int((~tensor.isfinite()).sum()) if tensor.dtype.is_floating_point else 0
                if bad:
                    found.append(f"{name} ({bad} of {tensor.numel()} values)")
    return found


def describe_nonfinite(tensors: list[str]) -> str:
    """A sentence for a reader of the record."""
    more = len(tensors) - MOST_NAMED
    return (
        "the checkpoint's own weights hold NaN or infinity:"
        f" {', '.join(tensors[:MOST_NAMED])}{f' and {more} more tensors' if more > 0 else ''};"
        " no precision fixes that: use a good copy of the checkpoint"
    )
