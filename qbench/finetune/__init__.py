"""How a model can be fine-tuned: one module a method, listed here by hand.

A new method is a new module with an object that satisfies `Method` and a line in the table below; a
package outside qbench adds one through the entry point group `qbench.finetune`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from qbench.core.options import typed_options
from qbench.core.plugins import load_plugins
from qbench.finetune import full, lora
from qbench.finetune.qat.qat import QAT

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from qbench.core.record import Environment
    from qbench.core.spec import Deployment, PrecisionRef, TuningRef
    from qbench.finetune.options import TrainingOptions
    from qbench.finetune.trainable import Trainable


class Method(Protocol):
    """A way to tune a model: which weights are trained, and what is saved of them.

    Where a method takes `options`, it is an object of the class that `options` names.
    """

    @property
    def name(self) -> str:
        """As written in a suite."""

    @property
    def summary(self) -> str:
        """One line for `qbench list`."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Packages it needs beside torch and transformers, whatever its options."""

    @property
    def options(self) -> type[TrainingOptions]:
        """Its typed options, those that all methods share included; every one has a default."""

    def conflicts(self, precision: PrecisionRef, options: Any) -> str | None:
        """Why the options cannot be trained in this precision, known from the suite alone."""

    def unavailable(self, options: Any, environment: Environment) -> str | None:
        """Why this machine cannot run it with these options, with the remedy; None if it can."""

    def load_precision(self, precision: PrecisionRef, options: Any) -> PrecisionRef:
        """What the base is loaded in for a training in `precision`."""

    def deployments(self, precision: PrecisionRef) -> tuple[Deployment, ...]:
        """What can become of a model that was tuned in this precision."""

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


@cache
def methods() -> dict[str, Method]:
    """All methods by name, qbench's own first, in the order they are shown."""
    table: dict[str, Method] = {own.name: own for own in (full.FULL, lora.LORA, QAT)}
    for method in load_plugins("qbench.finetune", Method):
        table[method.name] = method
    return table


def training_options(tuning: TuningRef) -> TrainingOptions:
    """The options that a training was chosen with, as its method's own type."""
    return typed_options(methods()[tuning.method].options, tuning.options)
