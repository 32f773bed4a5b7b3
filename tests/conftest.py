"""A cache and locks of its own for every test, and a place for those that use the command line."""

from __future__ import annotations

import gc
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.tiny_models import make_tiny_model
from tests.workplace import Workplace, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANY_MODULES = 50

# A shell has what it starts in the background ignore Ctrl-C; what the tests start must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no fault of what is tested: no example has a time limit of its own.
settings.register_profile("timeless", deadline=None)
settings.load_profile("timeless")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("QBENCH_CACHE", str(folder / "qbench"))
    monkeypatch.setenv("QBENCH_LOCKS", str(folder / "locks"))  # tests side by side do not wait


_seen = 0
"""Modules there were when the collector last put aside what is there."""


@pytest.fixture(autouse=True)
def _libraries_aside() -> None:
    """Every load of a model begins with a collection, which need not look through the libraries."""
    global _seen  # noqa: PLW0603 - one for the process, as the collector
    if len(sys.modules) > _seen + MANY_MODULES:
        gc.collect()
        gc.freeze()
        _seen = len(sys.modules)


@pytest.fixture(scope="module", autouse=True)
def _kept_aside() -> None:
    """As `_libraries_aside`, of what other files of tests left that stays: caches and models."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small llama and its tokenizer; tests must not change it."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", "llama")


@pytest.fixture
def workplace(tmp_path: Path, tiny_model: Path) -> Workplace:
    """An empty folder to call qbench in, with a text, and a model to point at."""
    write_text(tmp_path)
    return Workplace(tmp_path, tiny_model)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all tests of a module: what lm-eval's 14,000 files hold is read once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def _ready() -> Iterator[None]:
    """Makes torch and the collector ready for trainings of tiny models; see `open_cells`."""
    import peft  # noqa: F401 - imported for the collector's sake
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)
