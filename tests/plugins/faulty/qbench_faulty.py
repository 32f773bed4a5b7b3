"""A plug-in package with a bug that shows while a run is planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.core.spec import Frozen, Item

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.errors import Problem
    from qbench.core.record import MetricDefinition
    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel, Outcome


class NoOptions(Frozen):
    """Nothing to choose."""


@dataclass(frozen=True)
class Faulty:
    """Raises what no measurement should."""

    name: str = "faulty"
    summary: str = "has a bug"
    needs: tuple[str, ...] = ()
    options: type[Frozen] = NoOptions
    metrics: tuple[MetricDefinition, ...] = ()
    trusts_kernels: bool = False

    def misfit(self, options: NoOptions, model: ResolvedModel) -> Problem | None:
        return None

    def items(self, options: NoOptions, model: ResolvedModel, base: Path) -> list[Item]:
        raise ZeroDivisionError("a bug on purpose")

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        raise NotImplementedError


FAULTY = Faulty()
