"""What can be measured of a loaded model: one module a measurement, listed here by hand.

A new measurement is a new module with an object that satisfies `Measurement` and a line in the
table below; a package outside qbench adds one through the entry point group `qbench.measures`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from qbench.core.plugins import load_plugins
from qbench.measures import adapters, completion, footprint, latency, memory, weight_error
from qbench.measures.generation.generation import GENERATION
from qbench.measures.quality.quality import QUALITY
from qbench.measures.tasks.tasks import TASKS
from qbench.measures.training.training import TRAINING

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.errors import Problem
    from qbench.core.record import MetricDefinition
    from qbench.core.spec import Frozen, Item, ResolvedModel

    from .loaded import LoadedModel, Outcome


class Measurement(Protocol):
    """Something that can be found out about a cell."""

    @property
    def name(self) -> str:
        """As written under `measure` in a suite."""

    @property
    def summary(self) -> str:
        """One line for `qbench list`."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Packages it needs beside torch and transformers."""

    @property
    def options(self) -> type[Frozen]:
        """Its typed options; every one has a default."""

    @property
    def metrics(self) -> tuple[MetricDefinition, ...]:
        """The definitions of all the metrics that it can record."""

    @property
    def trusts_kernels(self) -> bool:
        """Whether its numbers are worthless when a layer's kernel is found wrong."""

    def misfit(self, options: Any, model: ResolvedModel) -> Problem | None:
        """What of the options cannot be done with the model; the place is the option."""

    def items(self, options: Any, model: ResolvedModel, base: Path) -> list[Item]:
        """The items to record, every parameter resolved; relative paths start at `base`."""

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Takes one item; raises `MeasurementError` when it cannot."""


AUTOMATIC = ("completion", "adapters", "training")
"""Measurements that follow from what a suite tunes; they are not asked for under `measure`."""


def asked_for() -> dict[str, Measurement]:
    """The measurements that a suite may name under `measure`."""
    return {name: one for name, one in measures().items() if name not in AUTOMATIC}


@cache
def measures() -> dict[str, Measurement]:
    """All measurements by name, in the order they are taken on a loaded model."""
    table: dict[str, Measurement] = {
        own.name: own
        for own in (
            footprint.FOOTPRINT,
            memory.MEMORY,
            latency.LATENCY,
            weight_error.WEIGHT_ERROR,
            QUALITY,
            TASKS,
            GENERATION,
            completion.COMPLETION,
            adapters.ADAPTERS,
            TRAINING,
        )
    }
    for measurement in load_plugins("qbench.measures", Measurement):
        table[measurement.name] = measurement
    return table
