"""What a method of fine-tuning is: which weights are trained, and what is saved of them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from qbench.core.packages import missing_packages
from qbench.finetune.options import TrainingOptions

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from qbench.core.record import Environment
    from qbench.core.spec import Deployment, PrecisionRef
    from qbench.finetune.trainable import Trainable


class Method(Protocol):
    """A way to tune a model: which weights are trained, and what is saved of them.

    A class below it has the answers that stand here; others give all of them. Where a method takes
    `options`, it is an object of the class that `options` names.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """As written in a suite."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """One line for `qbench list`."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Packages it needs beside torch and transformers, whatever its options."""
        return ()

    @property
    def options(self) -> type[TrainingOptions]:
        """Its typed options, those that all methods share included; every one has a default."""
        return TrainingOptions

    def conflicts(self, precision: PrecisionRef, options: Any) -> str | None:
        """Why the options cannot be trained in this precision, known from the suite alone."""
        return None

    def unavailable(self, options: Any, environment: Environment) -> str | None:
        """Why this machine cannot run it with these options, with the remedy; None if it can."""
        return missing_packages(self.needs, environment)

    def load_precision(self, precision: PrecisionRef, options: Any) -> PrecisionRef:
        """What the base is loaded in for a training in `precision`."""
        return precision

    @abstractmethod
    def deployments(self, precision: PrecisionRef) -> tuple[Deployment, ...]:
        """What can become of a model that was tuned in this precision."""

    @abstractmethod
    def prepare(
        self,
        model: PreTrainedModel,
        options: Any,
        *,
        precision: PrecisionRef,
        seed: int,
        folder: Path,
    ) -> Trainable:
        """Makes the loaded model trainable, in place.

        Exactly the weights that are trained require a gradient afterwards. What is random follows
        from the seed alone. `precision` is what is trained in, `folder` where the base's files lie.
        Raises `MeasurementError`.
        """
