"""A tiny model that the tests of trainings load afresh: each of them changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, _ready: None) -> Path:
    """The folder of a small Mistral in fp32 with its tokenizer; tests must not change it."""
    return make_tiny_model(tmp_path_factory.mktemp("tuned") / "base", "mistral")
