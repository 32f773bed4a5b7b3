"""Tiny cells that the tests of precisions share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.precisions.tiny_cells import TinyCells, open_cells

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyCells]:
    """Loaded models, each made once; tests must not change them."""
    with open_cells(tmp_path_factory) as opened:
        yield opened
