"""What goes wrong while a tensor is quantized, which transformers tells of in its log alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qbench.core.checkpoint import Checkpoint
from qbench.core.errors import MeasurementError, OutOfMemoryError
from qbench.precisions import precisions

if TYPE_CHECKING:
    from pathlib import Path


class Failing(TorchDispatchMode):
    """A device on which the operator that quantizes to 4 bits fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() == "bitsandbytes::quantize_4bit":
            raise self._error
        return func(*args, **(kwargs or {}))


def load(folder: Path) -> None:
    nf4 = precisions()["nf4"]
    nf4.load(Checkpoint(folder, "cpu"), nf4.options())


def test_no_memory_for_a_layer(tiny_model: Path) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with Failing(full), pytest.raises(OutOfMemoryError, match=r"proj.*CUDA out of memory\. Tried"):
        load(tiny_model)


def test_another_failure_is_told_with_its_tensor(tiny_model: Path) -> None:
    wrong = ValueError("blocksize 7 is not supported")
    with Failing(wrong), pytest.raises(MeasurementError, match=r"proj.*weight: .*blocksize 7"):
        load(tiny_model)
