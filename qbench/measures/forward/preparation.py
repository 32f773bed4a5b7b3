"""What is done before a way of running is timed, and what the record then tells of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.measures.attention import watching_attention
from qbench.measures.forward.compiled import peak_of
from qbench.measures.forward.definitions import METRICS
from qbench.measures.forward.same import compare_with_eager
from qbench.measures.loaded import make_metric
from qbench.measures.timing import iterate

if TYPE_CHECKING:
    from qbench.core.record import Metric
    from qbench.measures.forward.compiled import Compiling
    from qbench.measures.forward.same import Sameness
    from qbench.measures.forward.ways import Way
    from qbench.measures.loaded import LoadedModel
    from qbench.measures.timing import Clock
    from qbench.measures.workload import Workload
    from qbench.predict.work import GridPoint


@dataclass(frozen=True)
class RunSo:
    """What a record tells of how its forward passes ran."""

    metrics: tuple[Metric, ...]
    details: dict[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """A way of running that compiles no more, and what was seen of it."""

    forward: str
    attention: frozenset[str]
    sameness: Sameness | None = None
    """None for the eager forward, which the others are held against."""
    compiling: Compiling | None = None
    compiling_bytes: int = 0

    def found(self, way: Way, steady_decode_s: float) -> RunSo:
        """After the samples; `steady_decode_s` is of all new tokens."""
        details: dict[str, Any] = {"attention_ran": sorted(self.attention)}
        if self.sameness is None:
            return RunSo((), details, ())
        details["as_eager"] = self.sameness.details
        warnings = self.sameness.warnings(self.forward)
        if way.compiler is None or self.compiling is None:
            return RunSo((), details, warnings)
        details["attention_told_by"] = "an uncompiled pass with the same arguments"
        compile_s = self.compiling.seconds(steady_decode_s)
        again = way.compiler.compiled - self.compiling.frames
        details |= {
            **way.compiler.details(),
            "compile_s": compile_s,
            "compiling_iterations": len(self.compiling.decode_s),
            "recompiled_while_timed": again,
        }
        if again:
            warning = (
                f"torch compiled {again} frames anew while the samples were taken: some of them"
                " hold its time; raise min_iterations, the median is of most"
            )
            warnings = (*warnings, warning)
        return RunSo(
            (
                make_metric(METRICS, "latency.compile", compile_s),
                make_metric(METRICS, "latency.compile.memory", self.compiling_bytes),
            ),
            details,
            warnings,
        )


def prepare(
    loaded: LoadedModel, workload: Workload, point: GridPoint, way: Way, clock: Clock
) -> Prepared:
    """Sees which attention runs, compiles, and compares with the eager forward."""
    import torch

    with watching_attention() as attention, torch.inference_mode():
        # Whatever way decode then takes: these are the tensors that its attention gets.
        workload.decode(way.model, workload.prefill(way.model, way.new_cache()))
    ran = frozenset(attention)
    if point.forward == "eager":
        return Prepared(point.forward, ran)
    if way.compiler is None:
        return Prepared(point.forward, ran, compare_with_eager(loaded, workload, way))

    def one_iteration() -> dict[str, float]:
        times, _, _ = iterate(way, workload, clock)
        return times

    def uncompiled() -> None:
        with torch.inference_mode():
            workload.decode(way.model, workload.prefill(way.model, way.new_cache()))

    compiler = way.compiler
    _, before = peak_of(loaded.meter, uncompiled)
    compiling, highest = peak_of(loaded.meter, lambda: compiler.warm_up(one_iteration))
    sameness = compare_with_eager(loaded, workload, way)
    return Prepared(point.forward, ran, sameness, compiling, max(0, highest - before))
