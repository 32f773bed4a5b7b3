"""Latency of prefill and of decode, over a grid of batch, prompt length and new tokens.

Prefill is one forward over the prompt; decode is the time of one new token for the whole batch,
with a cache. Each point is taken in several processes (`repeats`), since two processes differ by
more than the iterations within one.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt

from qbench.core.aliases import Also
from qbench.core.errors import Problem
from qbench.core.gpu import gpu_probes
from qbench.core.options import plain_options, typed_options
from qbench.core.record import MetricDefinition
from qbench.core.spec import Frozen, Item
from qbench.measures.attention import attention_kernel
from qbench.measures.forward import definitions as forward_definitions
from qbench.measures.forward.preparation import prepare
from qbench.measures.forward.ways import open_way
from qbench.measures.grid import grid_misfit, grid_points
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement, less_unsaid, repeated
from qbench.measures.options import (
    GridBatch,
    GridOutput,
    GridPrompt,
    GridRepeats,
    OneOrMoreForwards,
    OneOrMoreKernels,
    PrefillChunk,
)
from qbench.measures.other_programs import DeviceWatch
from qbench.measures.roofline import latency as roofline_latency
from qbench.measures.roofline import latency_energy
from qbench.measures.roofline.clocks import clock_details, clock_warnings, gpu_states
from qbench.measures.roofline.latency import latency_limits
from qbench.measures.roofline.latency_energy import open_latency_energy
from qbench.measures.timing import (
    UNSTABLE_SPREAD,
    WARMUP_MOST,
    Clock,
    iqr,
    iterate,
    quantile,
    warm_up,
)
from qbench.measures.workload import make_workload
from qbench.predict.work import CompileMode, GridPoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qbench.core.record import Metric
    from qbench.core.spec import ResolvedModel
    from qbench.measures.forward.ways import Way
    from qbench.measures.loaded import LoadedModel
    from qbench.measures.workload import Workload

_STEP_TITLE = {"prefill": "prefill", "decode": "decode, a token"}
_ALSO_CALLED = {"prefill": ("TTFT", "pp{prompt_tokens}"), "decode": ("TPOT", "tg{new_tokens}")}
"""In serving, and by llama-bench, which gives tokens a second."""


def _definitions(step: str) -> tuple[MetricDefinition, ...]:
    title = _STEP_TITLE[step]
    in_serving, by_llama_bench = _ALSO_CALLED[step]
    timed = (
        "one forward over the prompt, or one a chunk of it, logits of the last position of each"
        if step == "prefill"
        else "all new tokens one by one with a cache, divided by their number"
    )
    tokens = "batch x prompt_tokens" if step == "prefill" else "batch"
    return (
        MetricDefinition(
            name=f"latency.{step}",
            unit="s",
            better="lower",
            title=title,
            formula=f"median over the iterations; an iteration is {timed}",
            also_called=(in_serving, by_llama_bench),
        ),
        *(
            MetricDefinition(
                name=f"latency.{step}.{quantile}",
                unit="s",
                better="lower",
                title=f"{title}, {quantile}",
                formula="quantile of the iterations, linear interpolation",
                also_called=(f"{in_serving} {quantile}",),
            )
            for quantile in ("p90", "p99")
        ),
        MetricDefinition(
            name=f"latency.{step}.iqr",
            unit="s",
            better="lower",
            title=f"{title}, interquartile range",
            formula="75 % quantile less 25 % quantile of the iterations",
        ),
        MetricDefinition(
            name=f"throughput.{step}",
            unit="tokens/s",
            better="higher",
            title=f"{step} throughput",
            formula=f"{tokens} / latency.{step}",
            also_called=(f"{by_llama_bench} t/s",),
        ),
    )


METRICS = (
    *_definitions("prefill"),
    *_definitions("decode"),
    *forward_definitions.METRICS,
    *roofline_latency.METRICS,
    *latency_energy.METRICS,
)


class LatencyOptions(Frozen):
    """Options of `latency`."""

    batch: GridBatch = (1,)
    """Sequences at once; a list makes a grid."""
    prompt_tokens: GridPrompt = (128,)
    """Tokens of the prompt, `context` for as many as the model's own context leaves beside the new
    ones; a list makes a grid, whose points beyond a model's context are skipped."""
    prefill_chunk: PrefillChunk = None
    """Tokens of each sequence that one forward of prefill reads; the whole prompt unless given."""
    new_tokens: GridOutput = (32,)
    """Tokens decoded after it; a list makes a grid."""
    repeats: GridRepeats = 5
    """Processes of their own that each point is taken in, interleaved over the cells."""
    min_iterations: Annotated[
        PositiveInt,
        Also(
            unlike={
                "num_iters": "`min_iterations` are the fewest: as many more are taken as fill"
                " `min_seconds`",
                "num_iters_warmup": "no option: the warm-up lasts until the times are steady",
            }
        ),
    ] = 5
    """The fewest timed iterations, after the warm-up."""
    min_seconds: Annotated[PositiveFloat, Also("min_run_time")] = 1.0
    """The fewest seconds of timed iterations."""
    seed: int = Field(default=0, ge=0)
    """Chooses the token ids."""
    forward: OneOrMoreForwards = ("eager",)
    """How the forward runs: `eager`, `static` (a cache of a fixed size), `compile`, or
    `cuda-graphs`; a list makes a point of each."""
    compile_mode: CompileMode = "default"
    """What torch.compile is asked for, where `forward` has `compile`: `default`, `reduce-overhead`
    or `max-autotune`."""
    attention: Annotated[OneOrMoreKernels | None, Also("attn_implementation")] = None
    """Attention kernels, such as `sdpa`, `eager` or `flash_attention_2`; a list makes a point of
    each. The one the model chooses by itself unless given."""


class LatencyPoint(GridPoint):
    """What is measured at one point of the grid."""

    model_config = ConfigDict(extra="forbid")

    min_iterations: int
    min_seconds: float
    seed: int


@dataclass(frozen=True)
class Latency(Measurement):
    """How long the model takes."""

    name: str = "latency"
    summary: str = "prefill and decode latency over a grid, in several processes"
    options: type[Frozen] = LatencyOptions
    metrics: tuple[MetricDefinition, ...] = METRICS
    of_machine: bool = True

    def misfit(self, options: LatencyOptions, model: ResolvedModel) -> Problem | None:
        """Lengths that are all beyond the model's context, an endless grid, a mode of nothing."""
        return grid_misfit(options, model) or _mode_of_nothing(options)

    def items(self, options: LatencyOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a grid point and repeat; none for a grid that is refused."""
        points = [
            LatencyPoint(
                **plain_options(point),
                min_iterations=options.min_iterations,
                min_seconds=options.min_seconds,
                seed=options.seed,
                **way,
            )
            for point, way in product(grid_points(options, model), _ways(options))
        ]
        told = ((point.slug, plain_options(point)) for point in points)
        return repeated(self.name, told, options.repeats)

    def asked_as(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The grid of one point, eager unless it says otherwise."""
        asked = {**super().asked_as(params), "forward": params.get("forward", "eager")}
        return less_unsaid(asked, "prefill_chunk", "compile_mode")

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Warms up until stable, then times iterations of one prefill and one decode."""
        point = typed_options(LatencyPoint, item.params)
        workload = make_workload(loaded.model, point, point.seed)
        with (
            attention_kernel(loaded.model, point.attention),
            open_way(loaded, workload, point) as way,
        ):
            return _timed(loaded, point, workload, way)


def _mode_of_nothing(options: LatencyOptions) -> Problem | None:
    if options.compile_mode == "default" or "compile" in options.forward:
        return None
    return Problem(
        "compile_mode",
        f"{options.compile_mode}, while `forward` is {', '.join(options.forward)}",
        "a `forward` that has compile",
        "add compile to forward, or leave compile_mode out",
    )


def _ways(options: LatencyOptions) -> list[dict[str, Any]]:
    """Parameters of a point by how its forward runs; none for what is the default."""
    return [
        {
            **({} if forward == "eager" else {"forward": forward}),
            **(
                {"compile_mode": options.compile_mode}
                if forward == "compile" and options.compile_mode != "default"
                else {}
            ),
            **({} if kernel is None else {"attention": kernel}),
        }
        for forward, kernel in product(options.forward, options.attention or (None,))
    ]


def _timed(loaded: LoadedModel, point: LatencyPoint, workload: Workload, way: Way) -> Outcome:
    clock = Clock(*loaded.devices)
    prepared = prepare(loaded, workload, point, way, clock)
    warmup = warm_up(way, workload, clock)
    samples: dict[str, list[float]] = {"prefill": [], "decode": []}
    device_samples: dict[str, list[float]] = {"prefill": [], "decode": []}
    cache_bytes = 0
    with (
        gpu_probes(loaded.devices) as probes,
        open_latency_energy(loaded.device, probes.values()) as energy,
    ):
        before = gpu_states(probes)
        energy.start()
        others = DeviceWatch(loaded.device, probes)
        while (
            len(samples["decode"]) < point.min_iterations
            or sum(map(sum, samples.values())) < point.min_seconds
        ):
            times, device_times, cache_bytes = iterate(way, workload, clock, energy)
            for step, seconds in times.items():
                samples[step].append(seconds)
            for step, seconds in device_times.items():
                device_samples[step].append(seconds)
            others.look()
        disturbed = others.found()
        drawn = energy.found(point, iterations=len(samples["decode"]))
        after = gpu_states(probes)
    run = prepared.found(way, statistics.median(samples["decode"]))
    new_tokens = point.new_tokens
    samples["decode"] = [seconds / new_tokens for seconds in samples["decode"]]
    device_samples["decode"] = [seconds / new_tokens for seconds in device_samples["decode"]]
    limits = latency_limits(
        loaded,
        point,
        prefill_s=statistics.median(samples["prefill"]),
        decode_s=statistics.median(samples["decode"]),
        cache_bytes=cache_bytes,
    )
    return Outcome(
        metrics=(
            *_step_metrics("prefill", samples, point.batch * point.prompt_tokens),
            *_step_metrics("decode", samples, point.batch),
            *run.metrics,
            *limits.metrics,
            *drawn.metrics,
        ),
        series={f"{step}_device_s": values for step, values in device_samples.items() if values},
        details={
            "iterations": len(samples["decode"]),
            "warmup_iterations": len(warmup),
            "warmup_s": warmup,
            **run.details,
            **limits.details,
            **drawn.details,
            "gpu": clock_details(before, after),
            "other_programs": disturbed.details,
        },
        warnings=(
            *run.warnings,
            *limits.warnings,
            *disturbed.warnings("the samples"),
            *_instability(samples, len(warmup)),
            *clock_warnings(before, after),
        ),
    )


def _step_metrics(step: str, samples: dict[str, list[float]], tokens: int) -> list[Metric]:
    values = samples[step]
    median = statistics.median(values)
    return [
        make_metric(METRICS, f"latency.{step}", median, samples=values),
        make_metric(METRICS, f"latency.{step}.p90", quantile(values, 0.90)),
        make_metric(METRICS, f"latency.{step}.p99", quantile(values, 0.99)),
        make_metric(METRICS, f"latency.{step}.iqr", iqr(values)),
        make_metric(METRICS, f"throughput.{step}", tokens / median),
    ]


def _instability(samples: dict[str, list[float]], warmups: int) -> tuple[str, ...]:
    warnings = [
        f"{step} is unstable: the middle half of its {len(values)} iterations spans"
        f" {iqr(values) / statistics.median(values):.0%} of the median; close other programs,"
        " or raise min_iterations and min_seconds"
        for step, values in samples.items()
        if iqr(values) > UNSTABLE_SPREAD * statistics.median(values)
    ]
    if warmups >= WARMUP_MOST:
        warnings.append(
            f"not stable after {WARMUP_MOST} iterations of warm-up: the device was busy or its"
            " clock was changing"
        )
    return tuple(warnings)


LATENCY = Latency()
