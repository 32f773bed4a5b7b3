"""Clocks, temperature and throttling of GPUs around what is timed, and when they spoil it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qbench.core.gpu import POWER_CAP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.gpu import GpuProbe, GpuState

CLOCK_DROP = 0.1
"""A clock that falls by more than this share while something is timed marks it."""
FULL_CLOCK = 0.98
"""Share of the highest clock from which a GPU runs at full speed: clocks move in small steps."""
TEMPERATURE_RISE_C = 10
"""So does a rise of at least as much: the clock follows the temperature."""


def gpu_states(probes: Mapping[str, GpuProbe]) -> dict[str, GpuState]:
    """How each GPU runs now, by its name; none on a CPU and where NVML does not tell."""
    return {device: probe.state() for device, probe in probes.items()}


def clock_warnings(
    before: Mapping[str, GpuState], after: Mapping[str, GpuState]
) -> tuple[str, ...]:
    """Why what was timed between two states is unstable, each with its remedy.

    `before` are the states after the warm-up: an idle GPU's clock is low.
    """
    return tuple(
        f"{device}: {warning}" if len(before) > 1 else warning
        for device in before
        if device in after
        for warning in _warnings(before[device], after[device])
    )


def clock_details(
    before: Mapping[str, GpuState], after: Mapping[str, GpuState]
) -> dict[str, Any] | None:
    """Both states for the record, by device where there are several; None where none is known."""
    states = {
        device: {"before": asdict(before[device]), "after": asdict(after[device])}
        for device in before
        if device in after
    }
    return next(iter(states.values()), None) if len(states) < 2 else states


def _warnings(before: GpuState, after: GpuState) -> list[str]:
    warnings = []
    reasons = dict.fromkeys((*(before.throttled_by or ()), *(after.throttled_by or ())))
    if _is_at_full_clock(before, after):
        reasons.pop(POWER_CAP, None)
    if reasons:
        warnings.append(
            f"the GPU was throttled by {', '.join(reasons)}: it ran at {_lowest(before, after)} of"
            f" {after.sm_most_mhz or '?'} MHz; cool it, raise its power limit or fix its clocks"
        )
    if before.sm_mhz and after.sm_mhz and after.sm_mhz < (1 - CLOCK_DROP) * before.sm_mhz:
        warnings.append(
            f"the GPU's clock fell from {before.sm_mhz} to {after.sm_mhz} MHz while it was timed;"
            " fix its clocks (nvidia-smi --lock-gpu-clocks), or warm it up before"
        )
    if before.temperature_c is not None and after.temperature_c is not None:
        rise_c = after.temperature_c - before.temperature_c
        if rise_c >= TEMPERATURE_RISE_C:
            warnings.append(
                f"the GPU went from {before.temperature_c} to {after.temperature_c} °C while it was"
                " timed: cool it, or warm it up before"
            )
    return warnings


def _is_at_full_clock(before: GpuState, after: GpuState) -> bool:
    """Whether the clock is as high as it goes: then a power cap holds nothing back."""
    lowest, most = _lowest(before, after), after.sm_most_mhz
    return isinstance(lowest, int) and most is not None and lowest >= FULL_CLOCK * most


def _lowest(before: GpuState, after: GpuState) -> int | str:
    clocks = [state.sm_mhz for state in (before, after) if state.sm_mhz is not None]
    return min(clocks) if clocks else "?"
