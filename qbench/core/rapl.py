"""Energy that processors have drawn, by the counters that Linux shows under powercap (RAPL).

A zone `intel-rapl:N` is a processor, of AMD too, and has zones below it. Its memory counts apart
where it has one, `dram`; cores and graphics are parts of the processor, and `psys` is all of them
and more. The same counters seen another way (`intel-rapl-mmio:N`) are left out. No torch.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
_JOULE = 1e6
"""Microjoules."""
_PROCESSOR = re.compile(r"intel-rapl:\d+")
_BELOW = re.compile(r"(intel-rapl:\d+):\d+")


class RaplError(Exception):
    """Why the energy of the processors is not told, and what to do: the reason of a metric."""


@dataclass(frozen=True)
class Zone:
    """A counter of energy, and where it begins again at 0."""

    name: str
    """`package-0`, `package-0 dram`."""
    file: Path
    range_uj: int

    def read_uj(self) -> int:
        """Microjoules up to now; raises `RaplError`."""
        return _number(self.file)


def rapl_zones(powercap: Path = POWERCAP) -> tuple[Zone, ...]:
    """What is to be added up: each processor, and its memory where that counts apart.

    Raises `RaplError` where there is none, or where one cannot be read: a sum without it would be
    that of another machine.
    """
    try:
        folders = sorted(powercap.iterdir())
    except FileNotFoundError:
        raise RaplError(
            f"there is no {powercap}: a virtual machine, a container or a kernel without RAPL tells"
            " no energy; run on the machine itself, under Linux"
        ) from None
    except OSError as error:
        raise RaplError(f"{powercap} cannot be read ({error.strerror}); run as root") from error
    names = {
        folder.name: _text(folder / "name")
        for folder in folders
        if _PROCESSOR.fullmatch(folder.name)
    }
    kept = {
        folder: names[folder.name]
        for folder in folders
        if names.get(folder.name, "").startswith("package")
    }
    for folder in folders:
        below = _BELOW.fullmatch(folder.name)
        package = names.get(below.group(1), "") if below else ""
        if package.startswith("package") and _text(folder / "name") == "dram":
            kept[folder] = f"{package} dram"
    if not kept:
        raise RaplError(
            f"{powercap} has no zone of a processor (intel-rapl:0); load the kernel's module with"
            " `sudo modprobe intel_rapl_msr`"
        )
    zones = tuple(
        Zone(name, folder / "energy_uj", _number(folder / "max_energy_range_uj"))
        for folder, name in kept.items()
    )
    for zone in zones:
        zone.read_uj()
    return zones


class RaplCounter:
    """Joules of zones together since it was made, over the ends of their ranges.

    `look` must be called more often than a zone's range lasts, which is minutes under load.
    """

    def __init__(self, zones: tuple[Zone, ...]) -> None:
        """Raises `RaplError` where one cannot be read."""
        self._last = {zone: zone.read_uj() for zone in zones}
        self._sum_uj = 0
        self._lock = threading.Lock()
        self.lost: str | None = None
        """Why nothing is told any more."""

    def look(self) -> None:
        """Adds what was drawn since the last look."""
        with self._lock:
            if self.lost is None:
                try:
                    self._add()
                except RaplError as error:
                    self.lost = str(error)

    def read_j(self) -> float | None:
        """Joules up to now; None once a zone no longer tells."""
        self.look()
        return None if self.lost is not None else self._sum_uj / _JOULE

    def _add(self) -> None:
        now = {zone: zone.read_uj() for zone in self._last}
        for zone, counted in now.items():
            grown = counted - self._last[zone]
            if grown < 0:
                grown += zone.range_uj
            if not 0 <= grown <= zone.range_uj / 2:
                raise RaplError(
                    f"{zone.file} went from {self._last[zone]} to {counted}: it was set back, or"
                    " not looked at for too long; measure again"
                )
            self._sum_uj += grown
        self._last = now


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError as error:
        raise RaplError(
            f"{file} is not there, though its folder is named: a container hides it; run outside"
        ) from error
    except PermissionError as error:
        raise RaplError(
            f"{file} can only be read by root; `sudo chmod a+r {file.parent.parent}/intel-rapl:*/"
            "energy_uj` lets everyone read it until the machine starts again"
        ) from error
    except (OSError, ValueError) as error:
        raise RaplError(f"{file} cannot be read ({error}); run outside of a container") from error


def _number(file: Path) -> int:
    text = _text(file)
    if not text.isascii() or not text.isdigit():
        raise RaplError(f"{file} holds {text[:40]!r}, which is no energy; report it to the kernel")
    return int(text)
