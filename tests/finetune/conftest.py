"""A tiny model that the tests of trainings load afresh: each of them changes it."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, _ready: None) -> Path:
    """The folder of a small Mistral in fp32 with its tokenizer; tests must not change it."""
    return make_tiny_model(tmp_path_factory.mktemp("tuned") / "base", "mistral")


@pytest.fixture(scope="session")
def _ready() -> Iterator[None]:
    """Makes torch and the collector ready for tiny models; see `open_cells`."""
    import peft  # noqa: F401 - imported for the collector's sake
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)
