"""The shape of Mistral-7B, resolved without a hub; folders of tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench.sources.models.resolve import parse_model, resolve_model
from tests.precisions.tiny_cells import TinyCells

if TYPE_CHECKING:
    from qbench.core.spec import ResolvedModel


@pytest.fixture(scope="session")
def mistral() -> ResolvedModel:
    return resolve_model(parse_model("random:Mistral-7B-Instruct-v0.2", base=Path.cwd()))


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory, _ready: None) -> TinyCells:
    """Folders of tiny models, each made once; tests must not change them."""
    return TinyCells(tmp_path_factory)
