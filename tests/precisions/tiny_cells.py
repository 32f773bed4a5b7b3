"""Tiny models loaded in a precision through the worker's own `load`, each one once a session."""

from __future__ import annotations

import gc
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.spec import Cell, PrecisionRef, ResolvedModel
from qbench.plan.job import Job
from qbench.precisions import precisions
from qbench.running.loading import load
from qbench.sources.models.resolve import parse_model, resolve_model
from qbench.sources.shapes.architectures import ARCHITECTURES
from tests.record_factory import make_environment
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qbench.core.spec import Frozen
    from qbench.measures.loaded import LoadedModel


@dataclass(frozen=True)
class Variant:
    """A tiny model: its architecture and what `make_tiny_model` is told about it."""

    label: str
    architecture: str
    options: dict[str, Any] = field(default_factory=dict)


def all_options(precision: str, **changes: Any) -> dict[str, Any]:
    """The options of a precision as a plan resolves them, defaults filled in."""
    return typed_options_of(precision, **changes).model_dump()


def typed_options_of(precision: str, **changes: Any) -> Frozen:
    """The same as a precision itself is given them."""
    return precisions()[precision].options(**changes)


def quick_options(name: str) -> dict[str, Any]:
    """None; those that calibrate read a short text, and tune little, and a mix holds something."""
    options: Any = typed_options_of(name)
    quick: dict[str, Any] = {}
    if hasattr(options, "layers"):
        quick |= {"layers": {"*.0.*": "int8", "*": "nf4"}}
    if getattr(options, "calibrates", False):
        quick |= {"calibration_text": "bundled:stdlib-excerpt"}
        quick |= {"rounding_steps": 2} if options.weights == "autoround" else {}
    return quick


def make_job(model: ResolvedModel, precision: str, **options: Any) -> Job:
    """A job without tasks, on the CPU."""
    resolved = all_options(precision, **options)
    chosen = PrecisionRef(label=precision, name=precision, options=resolved)
    typed = typed_options_of(precision, **options)
    predicted = None if model.shape is None else precisions()[precision].storage(model.shape, typed)
    return Job(
        suite="tiny",
        cell=Cell(model=model.ref, precision=chosen),
        reference=False,
        model=model,
        predicted=predicted,
        device="cpu",
        environment=make_environment(),
        tasks=(),
    )


def resolve(folder: Path) -> ResolvedModel:
    """What is known of a model folder; no shapes where a process of its own would find them."""
    ref = parse_model(str(folder), base=folder)
    architecture = json.loads((folder / "config.json").read_text())["model_type"]
    if architecture in ARCHITECTURES:
        return resolve_model(ref)
    return ResolvedModel(
        ref=ref,
        folder=str(folder),
        revision=None,
        fingerprint="tiny",
        architecture=architecture,
        context_tokens=128,
        shape=None,
        shape_unknown="not asked for",
    )


def load_fresh(folder: Path, precision: str, **options: Any) -> LoadedModel:
    """Loads the model in a folder; the caller may change what it gets."""
    return load(make_job(resolve(folder), precision, **options), lambda phase: None)


class TinyCells:
    """Model folders and loaded models, each made once; tests must not change them."""

    def __init__(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._tmp_path_factory = tmp_path_factory
        self._folders: dict[str, Path] = {}
        self._loaded: dict[str, LoadedModel] = {}

    def folder(self, variant: Variant) -> Path:
        """The variant's folder."""
        key = _key(variant.architecture, variant.options)
        if key not in self._folders:
            folder = self._tmp_path_factory.mktemp(variant.label)
            self._folders[key] = make_tiny_model(folder, variant.architecture, **variant.options)
        return self._folders[key]

    def load(self, variant: Variant, precision: str, **options: Any) -> LoadedModel:
        """The variant in a precision."""
        key = _key(variant.architecture, variant.options, precision, options)
        if key not in self._loaded:
            self._loaded[key] = load_fresh(self.folder(variant), precision, **options)
            # It stays: the collections of later loads need not look through it. Loading ended with
            # one, so that nothing else is kept.
            gc.freeze()
        return self._loaded[key]


@contextmanager
def open_cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyCells]:
    """Cells with a cache folder of their own, on a torch that is made ready for tiny models."""
    import bitsandbytes  # noqa: F401 - imported for the collector's sake
    import torch
    import transformers  # noqa: F401 - as above

    threads = torch.get_num_threads()
    # Handing work of microseconds to a second thread takes milliseconds on a busy machine.
    torch.set_num_threads(1)
    # Every load begins with a garbage collection, which need not look through the libraries.
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield TinyCells(tmp_path_factory)
    gc.unfreeze()
    torch.set_num_threads(threads)


def _key(*parts: object) -> str:
    return json.dumps(parts, sort_keys=True)
