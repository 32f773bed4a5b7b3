"""What can be measured of a loaded model: one module a measurement, listed here by hand.

A new measurement is a new module with an object that satisfies `Measurement` and a line in the
table below; a package outside qbench adds one through the entry point group `qbench.measures`. The
modules are imported when the table is asked for: asking for one file of the folder runs no other.
"""

from __future__ import annotations

from functools import cache

from qbench.core.plugins import with_plugins
from qbench.measures.measurement import Measurement

AUTOMATIC = ("completion", "adapters", "training")
"""Measurements that follow from what a suite tunes; they are not asked for under `measure`."""

OF_CACHES = ("decoded",)
"""Measurements that a suite which names none takes only where it names a quantized KV cache."""


def of_machine(name: str) -> bool:
    """Whether a measurement's numbers are of the machine as it runs; not of one that is unknown."""
    return name in measures() and measures()[name].of_machine


def asked_for() -> dict[str, Measurement]:
    """The measurements that a suite may name under `measure`."""
    return {name: one for name, one in measures().items() if name not in AUTOMATIC}


def own_measures() -> tuple[Measurement, ...]:
    """The table: qbench's own, in the order they are taken on a loaded model."""
    from qbench.measures import adapters, completion, footprint, latency, memory, weight_error
    from qbench.measures.chat.chat import CHAT
    from qbench.measures.cold_start.cold_start import COLD_START
    from qbench.measures.generation.generation import GENERATION
    from qbench.measures.kernels.kernels import KERNELS
    from qbench.measures.needle.needle import NEEDLE
    from qbench.measures.quality.decoded import DECODED
    from qbench.measures.quality.quality import QUALITY
    from qbench.measures.sensitivity.sensitivity import MEASUREMENT as SENSITIVITY
    from qbench.measures.served_tasks.served_tasks import SERVED
    from qbench.measures.serving.serving import SERVING
    from qbench.measures.tasks.tasks import TASKS
    from qbench.measures.training.training import TRAINING

    return (
        footprint.FOOTPRINT,
        memory.MEMORY,
        latency.LATENCY,
        COLD_START,
        KERNELS,
        SERVING,
        weight_error.WEIGHT_ERROR,
        QUALITY,
        DECODED,
        SENSITIVITY,
        NEEDLE,
        CHAT,
        TASKS,
        SERVED,
        GENERATION,
        completion.COMPLETION,
        adapters.ADAPTERS,
        TRAINING,
    )


@cache
def measures() -> dict[str, Measurement]:
    """All measurements by name, in the order they are taken, qbench's own first."""
    return with_plugins("qbench.measures", Measurement, own_measures())
