"""What other programs take of the CPUs while something is timed: noted beside the samples.

Linux counts the busy time of each CPU (`/proc/stat`), with what the host of a virtual machine took
of it. Less this process's own time, over the CPUs that it may run on, the rest is other programs'.
They disturb what is timed when they leave fewer CPUs than its threads want. What a GPU computes for
others is NVML's to tell, by process; not in a container, whose processes have ids of their own.
"""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.core.cpu import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from qbench.core.gpu import GpuProbe

SLICE_S = 0.2
"""The shortest time that is looked at by itself: Linux counts in hundredths of a second."""
SHORTEST_S = 0.1
"""Of less time altogether nothing is told."""
LEAST_TAKEN_CPUS = 0.2
"""CPUs taken from the timed threads, over a slice, from which they were disturbed in it."""
LEAST_SHARE = 0.1
"""Share of the time, from which a record warns."""
LEAST_GPU_SHARE = 0.05
"""The same of what a GPU computes for others."""
STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)
"""Of a CPU's counts there: user, nice, system, irq, softirq and steal; not idle nor waiting."""


@dataclass(frozen=True)
class OtherPrograms:
    """What other programs took while something was timed, for the record."""

    seconds: float
    """That were looked at."""
    cpus: int
    """Which this process may run on."""
    threads: int
    """That the timed work wants."""
    used_cpus: float | None
    """Taken by others, on average; None where it is not known."""
    busy_s: float | None = None
    """Of the time, in which others left fewer CPUs than there are threads."""
    busy_cpus: float | None = None
    """Taken by others in that time, on average; None where there was none."""
    reason: str | None = None
    """Why it is not known."""
    gpu_share: float | None = None
    """Of the time, in which a GPU computed for others: of several, the one that did most."""
    gpu_reason: str | None = None
    """Why that is not known; None of what ran on a CPU, too."""

    @property
    def details(self) -> dict[str, Any]:
        """As a record holds it."""
        return asdict(self)

    def warnings(self, timed: str) -> tuple[str, ...]:
        """That others disturbed what is `timed`, and for how long; nothing where they did not."""
        found = []
        if self.busy_s and self.busy_cpus and self.busy_s >= LEAST_SHARE * self.seconds:
            found.append(
                f"other programs used {self.busy_cpus:.1f} of {self.cpus} CPUs for"
                f" {self.busy_s:.1f} of the {self.seconds:.1f} s of {timed}; close them and measure"
                " again"
            )
        if self.gpu_share is not None and self.gpu_share >= LEAST_GPU_SHARE:
            found.append(
                f"other programs had the GPU compute for {self.gpu_share:.0%} of the"
                f" {self.seconds:.1f} s of {timed}; end them (`nvidia-smi` names them) and measure"
                " again"
            )
        return tuple(found)


class Look(NamedTuple):
    """What was counted at a moment, in seconds."""

    at: float
    busy: float
    """Of all CPUs that this process may run on, together."""
    own: float


def look_now(cpus: frozenset[int], stat: Path = STAT) -> Look:
    """Counts now; raises `OSError` or `ValueError` where Linux does not tell of all these CPUs."""
    counts = {
        int(name.removeprefix("cpu")): [int(count) for count in rest]
        for name, *rest in map(str.split, stat.read_text(encoding="ascii").splitlines())
        if name.startswith("cpu") and name != "cpu"
    }
    absent = sorted(cpus - counts.keys())
    if absent:
        raise ValueError(f"CPU {absent[0]} is not listed")
    ticks = sum(counts[cpu][field] for cpu in cpus for field in _BUSY if field < len(counts[cpu]))
    return Look(time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())


class OthersWatch:
    """Looks at the CPUs from its making on, whenever it is told to; see `OtherPrograms`."""

    def __init__(
        self,
        threads: int,
        cpus: frozenset[int] | None = None,
        look: Callable[[frozenset[int]], Look] = look_now,
    ) -> None:
        """`threads` that the timed work wants: 1 for what a GPU computes.

        `cpus` are by default all that this process may run on.
        """
        self._threads = threads
        self._cpus = usable_cpus() if cpus is None else cpus
        self._count = look
        self._looks: list[Look] = []
        self._reason: str | None = None
        self.look()

    def look(self) -> None:
        """To be called after each iteration or step: ends a slice, if it is long enough."""
        now = self._now()
        if now is not None and (not self._looks or now.at - self._looks[-1].at >= SLICE_S):
            self._looks.append(now)

    def found(self) -> OtherPrograms:
        """What there was up to now."""
        now = self._now()
        if now is None:
            return self._unknown(0.0, self._reason)
        looks = self._looks
        if len(looks) > 1 and now.at - looks[-1].at < SLICE_S:
            looks = looks[:-1]  # the last slice, too short by itself, joins the one before
        looks = [*looks, now]
        seconds = now.at - looks[0].at
        if seconds < SHORTEST_S:
            return self._unknown(seconds, f"{seconds:.2g} s are too short to tell")
        return self._summary(looks, seconds)

    def _summary(self, looks: list[Look], seconds: float) -> OtherPrograms:
        spare = max(0, len(self._cpus) - self._threads)
        used = busy_s = used_in_busy = 0.0
        for before, after in itertools.pairwise(looks):
            spent = after.at - before.at
            others = max(0.0, after.busy - before.busy - (after.own - before.own))
            used += others
            if others - spare * spent >= LEAST_TAKEN_CPUS * spent:
                busy_s += spent
                used_in_busy += others
        return OtherPrograms(
            seconds=seconds,
            cpus=len(self._cpus),
            threads=self._threads,
            used_cpus=used / seconds,
            busy_s=busy_s,
            busy_cpus=used_in_busy / busy_s if busy_s else None,
        )

    def _unknown(self, seconds: float, reason: str | None) -> OtherPrograms:
        return OtherPrograms(seconds, len(self._cpus), self._threads, None, reason=reason)

    def _now(self) -> Look | None:
        """None once it could not be counted: the reason is kept."""
        if self._reason is None:
            try:
                return self._count(self._cpus)
            except (OSError, ValueError) as error:
                self._reason = f"{STAT} does not tell it ({type(error).__name__}: {error})"
        return None


class GpusWatch:
    """Looks at what GPUs compute for others, from its making on."""

    def __init__(self, probes: Collection[GpuProbe]) -> None:
        self._probes = probes
        self._since = time.time()

    def add_to(self, found: OtherPrograms) -> OtherPrograms:
        """What there was up to now, beside what was found of the CPUs."""
        if not self._probes:
            return replace(found, gpu_reason="NVML does not tell of the GPU")
        shares = []
        for probe in self._probes:
            used = probe.use_by_process(self._since)
            if used is None:
                return replace(found, gpu_reason="NVML does not tell it of this GPU")
            if os.getpid() not in used:
                reason = "NVML does not name this process: not in a container, nor so soon"
                return replace(found, gpu_reason=reason)
            shares.append(sum(share for pid, share in used.items() if pid != os.getpid()))
        return replace(found, gpu_share=min(1.0, max(shares)))


class DeviceWatch:
    """Looks at what disturbs this process, which computes on a device of torch's."""

    def __init__(self, device: str, probes: Mapping[str, GpuProbe]) -> None:
        """`probes` are of the GPUs that the model lies on, as far as NVML tells of them."""
        import torch

        on_gpu = device.startswith("cuda")
        self._cpus = OthersWatch(1 if on_gpu else torch.get_num_threads())
        self._gpus = GpusWatch(probes.values()) if on_gpu else None

    def look(self) -> None:
        """To be called after each iteration or step."""
        self._cpus.look()

    def found(self) -> OtherPrograms:
        """What there was up to now."""
        found = self._cpus.found()
        return found if self._gpus is None else self._gpus.add_to(found)
