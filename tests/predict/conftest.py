"""The shape of Mistral-7B, resolved without a hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench.sources.models.resolve import parse_model, resolve_model

if TYPE_CHECKING:
    from qbench.core.spec import ResolvedModel


@pytest.fixture(scope="session")
def mistral() -> ResolvedModel:
    return resolve_model(parse_model("random:Mistral-7B-Instruct-v0.2", base=Path.cwd()))
