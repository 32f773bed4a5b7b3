"""Times of several calls in turns, by `torch.utils.benchmark`."""

from __future__ import annotations

import logging
import timeit
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

ROUNDS = 5
"""Turns of each call: what disturbs a machine for a while disturbs all of them alike."""


def in_turns(layers: Sequence[Any], inputs: torch.Tensor) -> Callable[[], Any]:
    """A call that has the next of some layers compute the inputs."""
    turning = cycle(layers)
    return lambda: next(turning)(inputs)


def timed_rounds(
    calls: Mapping[str, Callable[[], Any]],
    *,
    device: torch.device,
    min_seconds: float,
    after_each: Callable[[], None],
) -> dict[str, list[float]]:
    """Seconds of one call of each, a figure a round, by name.

    `blocked_autorange` warms up and finds how many calls fill a round, which is `min_seconds` over
    `ROUNDS` long at least; it waits for the device. `after_each` is called between rounds.
    """
    import torch
    from torch.utils.benchmark import Timer

    # Of a GPU the timer waits for its work; of a CPU that would start CUDA where there is one.
    clock: Any = {} if device.type == "cuda" else {"timer": timeit.default_timer}
    threads = torch.get_num_threads()  # else it takes one
    timers = {
        name: Timer("call()", globals={"call": call}, num_threads=threads, **clock)
        for name, call in calls.items()
    }
    each_s = min_seconds / ROUNDS
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode(), _current(device), _without_warnings():
        numbers = {
            name: max(1, round(each_s / timer.blocked_autorange(min_run_time=each_s).median))
            for name, timer in timers.items()
        }
        for _ in range(ROUNDS):
            for name, timer in timers.items():
                rounds[name].append(float(timer.timeit(numbers[name]).median))
            after_each()
    return rounds


@contextmanager
def _current(device: torch.device) -> Iterator[None]:
    """Makes a GPU the one that the timer waits for."""
    import torch

    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keeps libraries from writing a line at each of thousands of calls, which takes its time."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
