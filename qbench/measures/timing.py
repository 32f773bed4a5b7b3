"""Timing one workload: a clock that waits for the device, warm-up until stable, quantiles."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from qbench.core.quantile import quantile_of_sorted
from qbench.precisions.kv_layers import held_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbench.measures.forward.ways import Way
    from qbench.measures.workload import Workload

WARMUP_LEAST = 3
WARMUP_MOST = 10
STABLE_WITHIN = 0.05
"""Warm when the last `WARMUP_LEAST` iterations differ by no more than this share."""
UNSTABLE_SPREAD = 0.15
"""An interquartile range above this share of the median marks a measurement unstable."""


class Clock:
    """Wall-clock seconds around work that is really finished; on CUDA the device's own too.

    Of several GPUs that a model lies on, all are waited for; the seconds are those of the current
    one, which work begins on and comes back to.
    """

    def __init__(self, *devices: str) -> None:
        self._cuda = devices[0].startswith("cuda")
        self._devices = devices

    def time(self, work: Callable[[], Any]) -> tuple[Any, float, float | None]:
        """Runs `work()`; returns its result, wall seconds, and CUDA's seconds or None."""
        if not self._cuda:
            started = time.perf_counter()
            result = work()
            return result, time.perf_counter() - started, None
        import torch

        make_event: Any = torch.cuda.Event  # untyped in torch
        before, after = make_event(enable_timing=True), make_event(enable_timing=True)
        self._wait()
        started = time.perf_counter()
        before.record()
        result = work()
        after.record()
        self._wait()
        seconds = time.perf_counter() - started
        return result, seconds, float(before.elapsed_time(after)) / 1000

    def _wait(self) -> None:
        import torch

        for device in self._devices:
            torch.cuda.synchronize(device)


class BetweenSteps(Protocol):
    """What is told where the steps of an iteration begin and end."""

    def begin(self) -> None:
        """Prefill begins."""

    def end(self, step: str) -> None:
        """`prefill` has ended and decode begins, or `decode` has ended."""


def iterate(
    way: Way, workload: Workload, clock: Clock, between: BetweenSteps | None = None
) -> tuple[dict[str, float], dict[str, float], int]:
    """One prefill and one decode: wall seconds, CUDA seconds by step, bytes of the full cache.

    What `between` does is in no time.
    """
    import torch

    with torch.inference_mode():
        if between is not None:
            between.begin()
        cache, prefill_s, prefill_device_s = clock.time(
            lambda: workload.prefill(way.model, way.new_cache())
        )
        if between is not None:
            between.end("prefill")
        cache, decode_s, decode_device_s = clock.time(lambda: workload.decode(way.step, cache))
        if between is not None:
            between.end("decode")
    on_device = {"prefill": prefill_device_s, "decode": decode_device_s}
    return (
        {"prefill": prefill_s, "decode": decode_s},
        {step: seconds for step, seconds in on_device.items() if seconds is not None},
        held_bytes(cache),
    )


def warm_up(way: Way, workload: Workload, clock: Clock) -> list[float]:
    """Iterates until the last ones agree; returns the seconds of each iteration."""
    seconds: list[float] = []
    while len(seconds) < WARMUP_MOST:
        times, _, _ = iterate(way, workload, clock)
        seconds.append(sum(times.values()))
        last = seconds[-WARMUP_LEAST:]
        if len(last) == WARMUP_LEAST and max(last) - min(last) <= STABLE_WITHIN * min(last):
            break
    return seconds


def quantile(values: list[float], share: float) -> float:
    """The quantile by linear interpolation between order statistics (numpy's default)."""
    return quantile_of_sorted(sorted(values), share)


def iqr(values: list[float]) -> float:
    """The interquartile range."""
    return quantile(values, 0.75) - quantile(values, 0.25)
