"""RAPL's zones and counters, in a folder that looks like Linux's."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from qbench.core.rapl import RaplCounter, RaplError, rapl_zones
from tests.powercap import Powercap, set_counter

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def powercap(tmp_path: Path) -> Powercap:
    return Powercap(tmp_path / "powercap")


def test_processors_and_their_memory_are_added_up_and_nothing_twice(powercap: Powercap) -> None:
    """Cores and graphics are parts of a processor, psys is all, and mmio the same once more."""
    for zone, name in [
        ("intel-rapl:0", "package-1"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "dram"),
        ("intel-rapl:1", "package-0"),
        ("intel-rapl:1:0", "uncore"),
        ("intel-rapl:1:1", "dram"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl:2:0", "dram"),
        ("intel-rapl-mmio:0", "package-0"),
        ("dtpm", "dtpm"),
    ]:
        powercap.add(zone, name)
    zones = rapl_zones(powercap.folder)
    assert sorted(zone.name for zone in zones) == [
        "package-0",
        "package-0 dram",
        "package-1",
        "package-1 dram",
    ]
    assert {zone.file.parent.name for zone in zones} == {
        "intel-rapl:0",
        "intel-rapl:0:1",
        "intel-rapl:1",
        "intel-rapl:1:1",
    }


def test_a_counter_that_begins_again_goes_on(powercap: Powercap) -> None:
    """By hand: 100 J up to the end of the range, 30 after it, and 5 of the other zone."""
    first = powercap.add("intel-rapl:0", "package-0", 900_000_000, 1_000_000_000)
    second = powercap.add("intel-rapl:1", "package-1", 7_000_000, 1_000_000_000)
    counter = RaplCounter(rapl_zones(powercap.folder))
    assert counter.read_j() == 0
    set_counter(first, 30_000_000)
    set_counter(second, 12_000_000)
    assert counter.read_j() == pytest.approx(135.0)
    # Twice around, seen in between.
    for energy_uj in (400_000_000, 800_000_000, 200_000_000, 600_000_000, 30_000_000):
        set_counter(first, energy_uj)
        counter.look()
    assert counter.read_j() == pytest.approx(135.0 + 2000.0)


def test_a_counter_that_was_set_back_is_told_not_taken_for_its_range(powercap: Powercap) -> None:
    energy = powercap.add("intel-rapl:0", "package-0", 300_000_000, 1_000_000_000)
    counter = RaplCounter(rapl_zones(powercap.folder))
    set_counter(energy, 5_000_000)
    assert counter.read_j() is None
    assert counter.lost is not None
    assert "went from 300000000 to 5000000" in counter.lost
    set_counter(energy, 6_000_000)
    assert counter.read_j() is None  # what was drawn meanwhile is not known


def test_a_counter_that_is_gone_has_its_reason(powercap: Powercap) -> None:
    energy = powercap.add("intel-rapl:0", "package-0")
    counter = RaplCounter(rapl_zones(powercap.folder))
    energy.unlink()
    assert counter.read_j() is None
    assert counter.lost is not None
    assert str(energy) in counter.lost


def reason(powercap: Powercap) -> str:
    with pytest.raises(RaplError) as caught:
        rapl_zones(powercap.folder)
    return str(caught.value)


def test_without_powercap_the_reason_says_where_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(RaplError, match="virtual machine, a container"):
        rapl_zones(tmp_path / "powercap")


def test_without_a_processor_s_zone_the_module_is_named(powercap: Powercap) -> None:
    powercap.add("intel-rapl:0", "psys")
    assert "modprobe intel_rapl_msr" in reason(powercap)


def test_one_zone_that_cannot_be_read_leaves_no_sum(powercap: Powercap) -> None:
    powercap.add("intel-rapl:0", "package-0")
    hidden = powercap.add("intel-rapl:1", "package-1")
    hidden.unlink()
    assert f"{hidden} is not there" in reason(powercap)


@pytest.fixture
def user() -> Iterator[None]:
    """Not root, who reads every file."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    yield
    os.seteuid(was)


def test_what_only_root_may_read_names_the_file_and_the_remedy(user: None) -> None:
    with TemporaryDirectory() as folder:  # which, unlike tmp_path, is the user's
        powercap = Powercap(Path(folder) / "powercap")
        energy = powercap.add("intel-rapl:0", "package-0")
        energy.chmod(0o200)
        told = reason(powercap)
    assert told.startswith(f"{energy} can only be read by root; `sudo chmod a+r {powercap.folder}")


def test_a_folder_that_is_closed_or_none_is_told(user: None) -> None:
    with TemporaryDirectory() as folder:
        powercap = Powercap(Path(folder) / "powercap")
        (powercap.folder / "a file").write_text("", encoding="ascii")
        with pytest.raises(RaplError, match="cannot be read"):
            rapl_zones(powercap.folder / "a file")
        powercap.folder.chmod(0)
        assert (
            reason(powercap) == f"{powercap.folder} cannot be read (Permission denied); run as root"
        )
        powercap.folder.chmod(0o700)


@pytest.mark.parametrize("text", ["", "-3", "many", "1.5"])
def test_what_is_no_number_is_no_energy(text: str, powercap: Powercap) -> None:
    powercap.add("intel-rapl:0", "package-0").write_text(text, encoding="ascii")
    assert "no energy" in reason(powercap)


def test_a_zone_that_a_container_hides_is_told(powercap: Powercap) -> None:
    (powercap.folder / "intel-rapl:0").symlink_to(powercap.folder / "nowhere")
    assert "a container hides it" in reason(powercap)
