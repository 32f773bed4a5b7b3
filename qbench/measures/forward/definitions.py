"""The metrics of compiling a forward."""

from __future__ import annotations

from qbench.core.record import MetricDefinition

METRICS = (
    MetricDefinition(
        name="latency.compile",
        unit="s",
        better="lower",
        title="compiling",
        formula="wall seconds of the decodes in which torch compiled, less as many steady ones;"
        " nothing is taken from a cache of compiled code",
    ),
    MetricDefinition(
        name="latency.compile.memory",
        unit="B",
        varies_by="process",
        better="lower",
        title="memory of compiling",
        formula="peak of the iterations in which torch compiled, less that of the same work before"
        " it was compiled, 0 where that was higher; CUDA: of the allocator, CPU: of the resident"
        " size of the process, its compiler's own processes left out",
    ),
)
