"""Checkpoints of one known tensor, and figures of explanations, for the tests of `explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from qbench.cli.explain_options import read_assignments
from qbench.precisions.explain.explain import explain

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NAME = "model.layers.0.mlp.up_proj.weight"


def random_weight(rows: int = 128, width: int = 192, *, seed: int = 0) -> NDArray[np.float32]:
    """Weights as a layer has them: normal, rows of different size."""
    random = np.random.default_rng(seed)
    sizes = random.uniform(0.01, 0.1, size=(rows, 1))
    found: NDArray[np.float32] = (random.standard_normal((rows, width)) * sizes).astype(np.float32)
    return found


def save(folder: Path, weight: NDArray[Any], name: str = NAME) -> Path:
    """A folder with nothing but one tensor."""
    folder.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(weight)}, folder / "model.safetensors")
    return folder


def figures(precision: str, folder: Path, *assignments: str) -> dict[str, Any]:
    """The figures of an explanation of the tensor in the folder."""
    options = read_assignments(precision, assignments)
    return explain(precision, str(folder), None, options=options, base=folder).data


def relative(held: NDArray[Any], weight: NDArray[Any]) -> float:
    """Norm of the error over the norm of the weights."""
    before = weight.astype(np.float64)
    return float(np.linalg.norm(held.astype(np.float64) - before) / np.linalg.norm(before))
