"""The precisions a model can be held in: one module a family, listed here by hand.

A new precision is a new module that satisfies `Precision` and a line in the table below; a package
outside qbench adds one through the entry point group `qbench.precisions`, whose value is a tuple
of such objects.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from qbench.core.options import typed_options
from qbench.core.plugins import load_plugins
from qbench.precisions import bnb4bit, floating, int8, stored
from qbench.precisions.integer.integer import PRECISIONS as INTEGERS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.record import Environment
    from qbench.core.spec import Frozen, ModelShape, PrecisionRef, StaticBytes

    from .verification import Verification


class Precision(Protocol):
    """How a model is held in memory and loaded that way."""

    @property
    def name(self) -> str:
        """As written in a suite."""

    @property
    def summary(self) -> str:
        """One line for `qbench list`."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Packages it needs beside torch and transformers."""

    @property
    def options(self) -> type[Frozen]:
        """Its typed options; every one has a default."""

    def unavailable(self, environment: Environment) -> str | None:
        """Why it cannot run on this machine, with the remedy; None if it can."""

    def storage(self, shape: ModelShape, options: dict[str, Any]) -> StaticBytes:
        """Static bytes by arithmetic from the shapes alone."""

    def load(self, checkpoint: Checkpoint, options: dict[str, Any]) -> PreTrainedModel:
        """Loads the model in this precision onto the checkpoint's device, in eval mode."""

    def verify(self, model: PreTrainedModel, options: dict[str, Any]) -> Verification:
        """What was really loaded, compared with what was asked for."""


@cache
def precisions() -> dict[str, Precision]:
    """All precisions by name, qbench's own first, in the order they are shown."""
    table: dict[str, Precision] = {}
    for family in (
        floating.PRECISIONS,
        int8.PRECISIONS,
        bnb4bit.PRECISIONS,
        INTEGERS,
        stored.PRECISIONS,
    ):
        table.update({precision.name: precision for precision in family})
    for precision in load_plugins("qbench.precisions", Precision):
        table[precision.name] = precision
    return table


def options_of(ref: PrecisionRef) -> Frozen:
    """The options that a precision was chosen with, as its own type."""
    return typed_options(precisions()[ref.name].options, ref.options)
