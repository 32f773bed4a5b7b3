"""What runs on a CUDA device alone; everywhere else these tests are skipped, each with the reason.

python -m pytest -m gpu tests/gpu
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.precisions.tiny_cells import TinyCells, open_cells

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True, scope="session")
def _needs_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")


@pytest.fixture(scope="session")
def cells(_needs_cuda: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyCells]:
    """Folders of tiny models, and a cache of their own."""
    with open_cells(tmp_path_factory) as opened:
        yield opened
