"""How a model can be fine-tuned: one module a method, listed here by hand.

A new method is a new module with an object that satisfies `Method` and a line in the table below; a
package outside qbench adds one through the entry point group `qbench.finetune`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from qbench.core.options import typed_options
from qbench.core.plugins import with_plugins
from qbench.finetune import full, lora
from qbench.finetune.method import Method
from qbench.finetune.qat.qat import QAT

if TYPE_CHECKING:
    from qbench.core.spec import TuningRef
    from qbench.finetune.options import TrainingOptions


@cache
def methods() -> dict[str, Method]:
    """All methods by name, qbench's own first, in the order they are shown."""
    own: tuple[Method, ...] = (full.FULL, lora.LORA, QAT)
    return with_plugins("qbench.finetune", Method, own)


def training_options(tuning: TuningRef) -> TrainingOptions:
    """The options that a training was chosen with, as its method's own type."""
    return typed_options(methods()[tuning.method].options, tuning.options)
