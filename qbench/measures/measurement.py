"""What a measurement is: something that can be found out about a cell."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from qbench.core.errors import MeasurementError
from qbench.core.spec import Item
from qbench.precisions.precision import NoOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from qbench.core.errors import Problem
    from qbench.core.record import MetricDefinition
    from qbench.core.spec import Frozen, ResolvedModel
    from qbench.measures.loaded import LoadedModel, Outcome, UnbuiltCell


class Measurement(Protocol):
    """Something that can be found out about a cell.

    A class below it has the answers that stand here; others give all of them. Where a method takes
    `options`, it is an object of the class that `options` names.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """As written under `measure` in a suite."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """One line for `qbench list`."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Packages it needs beside torch and transformers."""
        return ()

    def needs_of(self, item: Item) -> tuple[str, ...]:
        """The same of one item, which may need more; as far as can be known without running it."""
        return self.needs

    @property
    def options(self) -> type[Frozen]:
        """Its typed options; every one has a default."""
        return NoOptions

    @property
    @abstractmethod
    def metrics(self) -> tuple[MetricDefinition, ...]:
        """The definitions of all the metrics that it can record."""

    @property
    def trusts_kernels(self) -> bool:
        """Whether its numbers are worthless when a layer's kernel is found wrong."""
        return True

    @property
    def by_default(self) -> bool:
        """Whether a suite that names no measurement takes it."""
        return True

    @property
    def of_machine(self) -> bool:
        """Whether its numbers are of the machine as it runs: times, rates, resident memory.

        The key of its records then names the CPU's threads.
        """
        return False

    @property
    def apart(self) -> bool:
        """Whether it starts processes of its own that build the model.

        Each of its items then has a worker for itself, which builds none: `measure_apart` takes the
        item. The others have `measure`.
        """
        return False

    def misfit(self, options: Any, model: ResolvedModel) -> Problem | None:
        """What of the options cannot be done with the model; the place is the option."""
        return None

    @abstractmethod
    def items(self, options: Any, model: ResolvedModel, base: Path) -> list[Item]:
        """The items to record, every parameter resolved; relative paths start at `base`."""

    def asked_as(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a suite that asks for an item of these parameters: the inverse of `items`.

        One value of each option that makes an axis; None is what is said where the option is not
        given. Of options that one item tells nothing of, there is no entry.
        """
        return {name: params.get(name) for name in self.options.model_fields if name != "repeats"}

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Takes one item; raises `MeasurementError` when it cannot."""
        raise MeasurementError(f"{self.name} takes no item of a model that is loaded")

    def measure_apart(self, cell: UnbuiltCell, item: Item) -> Outcome:
        """Takes one item of a measurement that is `apart`; raises `MeasurementError` as above."""
        raise MeasurementError(f"{self.name} takes no item apart from a loaded model")


def less_unsaid(asked: dict[str, Any], *names: str) -> dict[str, Any]:
    """The options, less those of these names that are None: items hold them where they matter."""
    return {name: one for name, one in asked.items() if one is not None or name not in names}


def repeated(
    measurement: str, points: Iterable[tuple[str, dict[str, Any]]], repeats: int
) -> list[Item]:
    """An item for each point, told by slug and parameters, in each of `repeats` processes."""
    return [
        Item(measurement=measurement, slug=slug, params=params, repeat=repeat)
        for slug, params in points
        for repeat in range(repeats)
    ]
