"""A plug-in package with a bug that shows while a run is planned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.plugin import Measurement, NoOptions

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.plugin import Item, LoadedModel, Outcome, ResolvedModel


class Faulty(Measurement):
    """Raises what no measurement should."""

    name = "faulty"
    summary = "has a bug"
    metrics = ()

    def items(self, options: NoOptions, model: ResolvedModel, base: Path) -> list[Item]:
        raise ZeroDivisionError("a bug on purpose")

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        raise NotImplementedError


FAULTY = Faulty()
