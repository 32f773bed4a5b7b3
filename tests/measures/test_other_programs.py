"""What other programs take of the CPUs: counts of a file, and a program that is really busy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from qbench.core.cpu import usable_cpus
from qbench.core.gpu import GpuProbe
from qbench.measures.other_programs import (
    GpusWatch,
    Look,
    OtherPrograms,
    OthersWatch,
    look_now,
)
from tests.measures.fake_nvml import FakeNvml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUSY_S = 20
"""After which the busy programs end by themselves."""


@pytest.fixture
def busy_programs() -> Iterator[None]:
    """One on each CPU."""
    code = f"import time\nend = time.time() + {BUSY_S}\nwhile time.time() < end: pass"
    started = [subprocess.Popen([sys.executable, "-S", "-c", code]) for _ in usable_cpus()]
    yield
    for one in started:
        one.kill()
        one.wait()


def work(watch: OthersWatch, seconds: float) -> None:
    """Computes for a while, and looks in between."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(10_000))
        watch.look()


@pytest.mark.usefixtures("busy_programs")
def test_a_program_that_is_really_busy_is_told_with_how_long() -> None:
    watch = OthersWatch(threads=len(usable_cpus()))
    work(watch, 1.5)
    found = watch.found()
    assert found.reason is None
    assert found.seconds >= 1.5
    assert found.used_cpus is not None
    assert 0.3 * found.cpus < found.used_cpus <= found.cpus + 0.1
    assert found.busy_s is not None
    assert 0.5 * found.seconds < found.busy_s <= found.seconds
    (warning,) = found.warnings("the samples")
    assert warning.startswith("other programs used ")
    assert f" of {found.cpus} CPUs for {found.busy_s:.1f} of the {found.seconds:.1f} s" in warning


class Machine:
    """One whose clock and counts a test sets."""

    def __init__(self) -> None:
        self.now = Look(at=5.0, busy=100.0, own=3.0)

    def watch(self, threads: int) -> OthersWatch:
        return OthersWatch(threads, frozenset({0, 1}), lambda _: self.now)

    def pass_time(self, seconds: float, *, own: float, others: float) -> None:
        """Time passes: CPU seconds of this process, and of others."""
        at, busy, before = self.now
        self.now = Look(at + seconds, busy + own + others, before + own)


def test_what_is_busy_less_its_own_is_other_programs() -> None:
    machine = Machine()
    watch = machine.watch(threads=2)
    for own in (2.0, 0.7, 2.0):
        machine.pass_time(1.0, own=own, others=2.0 - own)
        watch.look()
    found = watch.found()
    assert found == OtherPrograms(
        seconds=3.0,
        cpus=2,
        threads=2,
        used_cpus=pytest.approx(1.3 / 3),
        busy_s=pytest.approx(1.0),
        busy_cpus=pytest.approx(1.3),
    )
    (warning,) = found.warnings("the samples")
    assert warning == (
        "other programs used 1.3 of 2 CPUs for 1.0 of the 3.0 s of the samples;"
        " close them and measure again"
    )


def test_what_uses_a_cpu_that_is_not_wanted_disturbs_nothing() -> None:
    machine = Machine()
    watch = machine.watch(threads=1)
    machine.pass_time(1.0, own=1.0, others=1.0)
    found = watch.found()
    assert (found.used_cpus, found.busy_s, found.busy_cpus) == (pytest.approx(1.0), 0.0, None)
    assert found.warnings("the samples") == ()


def test_a_tenth_of_the_time_is_not_warned_of() -> None:
    machine = Machine()
    watch = machine.watch(threads=2)
    machine.pass_time(0.2, own=0.0, others=0.4)
    watch.look()
    machine.pass_time(3.0, own=6.0, others=0.0)
    found = watch.found()
    assert found.busy_s == pytest.approx(0.2)
    assert found.warnings("the samples") == ()


def test_a_last_slice_that_is_short_joins_the_one_before() -> None:
    machine = Machine()
    watch = machine.watch(threads=2)
    machine.pass_time(0.5, own=0.0, others=1.0)
    watch.look()
    machine.pass_time(0.1, own=0.2, others=0.0)
    watch.look()
    found = watch.found()
    assert found.busy_s == pytest.approx(0.6)
    assert found.busy_cpus == pytest.approx(1.0 / 0.6)


FIELDS = "200 1 2 1000 500 3 4 5 0 0"  # 215 hundredths busy: neither idle, nor waiting


@pytest.mark.parametrize(("cpus", "busy"), [({0}, 2.15), ({0, 2}, 3.15)])
def test_the_counts_are_those_of_the_cpus_that_it_may_run_on(
    tmp_path: Path, cpus: set[int], busy: float
) -> None:
    if os.sysconf("SC_CLK_TCK") != 100:
        pytest.skip("Linux counts otherwise here")
    lines = ["cpu  9 9 9 9 9 9 9 9 0 0", f"cpu0 {FIELDS}", f"cpu1 {FIELDS}", "cpu2 100 0 0"]
    path = tmp_path / "stat"
    path.write_text("\n".join([*lines, "intr 12 0 0", "ctxt 5"]) + "\n", encoding="ascii")
    assert look_now(frozenset(cpus), path).busy == pytest.approx(busy)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "/proc/stat does not tell it (FileNotFoundError: "),
        (
            "cpu  1 1 1\ncpu0 1 1 1\n",
            "/proc/stat does not tell it (ValueError: CPU 1 is not listed)",
        ),
        ("cpu0 1 x 1\n", "/proc/stat does not tell it (ValueError: "),
    ],
)
def test_where_linux_does_not_tell_the_reason_is_told(
    tmp_path: Path, text: str | None, reason: str
) -> None:
    path = tmp_path / "stat"
    if text is not None:
        path.write_text(text, encoding="ascii")
    watch = OthersWatch(2, frozenset({0, 1}), lambda cpus: look_now(cpus, path))
    watch.look()
    found = watch.found()
    assert (found.used_cpus, found.busy_s) == (None, None)
    assert str(found.reason).startswith(reason)
    assert found.warnings("the samples") == ()


def test_a_moment_is_too_short_to_tell() -> None:
    machine = Machine()
    watch = machine.watch(threads=2)
    machine.pass_time(0.05, own=0.0, others=0.1)
    assert watch.found().reason == "0.05 s are too short to tell"


OTHER = os.getpid() + 1


@pytest.mark.parametrize(
    ("processes", "share", "reason"),
    [
        ([(os.getpid(), 60), (OTHER, 20), (OTHER, 40), (OTHER + 1, 5)], 0.35, None),
        ([(os.getpid(), 100)], 0.0, None),
        ([(OTHER, 90)], None, "NVML does not name this process"),
        ([], None, "NVML does not name this process"),
        (None, None, "NVML does not tell it of this GPU"),
    ],
)
def test_what_a_gpu_computes_for_others(
    processes: list[tuple[int, int]] | None, share: float | None, reason: str | None
) -> None:
    library = FakeNvml()
    library.processes = processes
    machine = Machine()
    cpus = machine.watch(threads=1)
    machine.pass_time(2.0, own=2.0, others=0.0)
    found = GpusWatch([GpuProbe(library, "the GPU")]).add_to(cpus.found())
    assert found.gpu_share == (None if share is None else pytest.approx(share))
    assert (found.gpu_reason or "").startswith(reason or "")
    assert (found.gpu_reason is None) == (reason is None)
    expected = ["other programs had the GPU compute for 35% of the 2.0 s of the steps"] * bool(
        share
    )
    assert [one.partition(";")[0] for one in found.warnings("the steps")] == expected


def test_a_gpu_that_nvml_does_not_know_is_told() -> None:
    machine = Machine()
    found = GpusWatch([]).add_to(machine.watch(threads=1).found())
    assert found.gpu_share is None
    assert found.gpu_reason == "NVML does not tell of the GPU"
