"""A folder that looks as Linux shows the counters of energy, for tests to write to."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

RANGE_UJ = 262_143_328_850
"""Of an Intel server; an AMD one's is a quarter of it."""


class Powercap:
    """`/sys/class/powercap` of a machine, as far as tests have added zones to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "intel-rapl").mkdir()  # what the zones belong to; no zone itself

    def add(self, zone: str, name: str, energy_uj: int = 0, range_uj: int = RANGE_UJ) -> Path:
        """A zone such as `intel-rapl:0` or `intel-rapl:0:1`; returns its counter."""
        folder = self.folder / zone
        folder.mkdir()
        (folder / "name").write_text(f"{name}\n", encoding="ascii")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n", encoding="ascii")
        counter = folder / "energy_uj"
        set_counter(counter, energy_uj)
        return counter


def set_counter(counter: Path, energy_uj: int) -> None:
    """As the kernel does: who reads sees the one or the other, never a part."""
    written = counter.with_name("written")
    written.write_text(f"{energy_uj}\n", encoding="ascii")
    written.replace(counter)


class Drawing:
    """A thread that lets a counter go on by as much every other millisecond, over its range."""

    def __init__(self, counter: Path, begun_uj: int, range_uj: int, step_uj: int) -> None:
        self.drawn_uj = 0
        """All of it, however often the counter began again."""
        self._counter, self._at_uj = counter, begun_uj
        self._range_uj, self._step_uj = range_uj, step_uj
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.002):
            self.drawn_uj += self._step_uj
            self._at_uj = (self._at_uj + self._step_uj) % self._range_uj
            set_counter(self._counter, self._at_uj)
