"""Runs of all users wait for each other's devices; nothing in the locks' folder misleads them."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import StoreError
from qbench.running.executors.device_locks import DeviceLocks, lock_folder, lock_names
from tests.gpu_standin.machines import with_gpus

if TYPE_CHECKING:
    from tests.workplace import Workplace

NAMES = """
from qbench.running.executors.device_locks import lock_names
print(lock_names({device!r}, every_gpu={every}))
"""
TAKE = "import qbench.running.executors.device_locks as d; print(d.DeviceLocks(['cpu']).acquired())"


def said(script: str, environment: dict[str, str], **options: int) -> str:
    return subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        **options,
    ).stdout.strip()


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        ("0,1", "cuda:1", [1]),
        ("1", "cuda:0", [1]),
        ("1,0", "cuda:1", [0]),
        ("GPU-00000001", "cuda", [1]),
        ("0,1", "cpu", None),
    ],
)
def test_a_gpu_is_locked_by_its_id(
    workplace: Workplace, visible: str, device: str, expected: list[int] | None
) -> None:
    place = with_gpus(workplace, "t4", "t4", CUDA_VISIBLE_DEVICES=visible)
    names = said(NAMES.format(device=device, every=False), place.environment)
    ids = re.findall(r"(?:gpu|GPU)-0000000(\d)", names)
    assert ids == [str(at) for at in expected or []]
    if expected is None:
        assert names == "('cpu',)"


def test_a_model_over_all_gpus_locks_each(workplace: Workplace) -> None:
    place = with_gpus(workplace, "t4", "t4", CUDA_VISIBLE_DEVICES="1,0")
    names = said(NAMES.format(device="cuda:0", every=True), place.environment)
    assert re.findall(r"(?:gpu|GPU)-0000000(\d)", names) == ["0", "1"]


def test_the_folder_is_the_same_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QBENCH_LOCKS")
    found = set()
    for place in ("/one", "/other"):
        for name in ("QBENCH_CACHE", "HOME", "XDG_CACHE_HOME", "TMPDIR"):
            monkeypatch.setenv(name, place)
        found.add(lock_folder())
    assert found == {Path("/tmp/qbench-locks")}


def test_one_at_a_time(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = workplace.environment
    monkeypatch.setenv("QBENCH_LOCKS", environment["QBENCH_LOCKS"])
    with DeviceLocks(["cpu"]) as locks:
        assert locks.acquired()
        assert said(TAKE, environment) == "False"
        with DeviceLocks(["other", "cpu"]) as waiting:  # what it holds meanwhile is given back
            assert not waiting.acquired()
        with DeviceLocks(["other"]) as other:
            assert other.acquired()
    assert said(TAKE, environment) == "True"


def test_whoever_waits_is_next() -> None:
    """A run gives its lock back after each job, and asks for the next one's at once."""
    with DeviceLocks(["cpu"]) as waiting:
        with DeviceLocks(["cpu"]) as job:
            assert job.acquired()
            assert not waiting.acquired()
        with DeviceLocks(["cpu"]) as next_job:
            assert not next_job.acquired()
            assert waiting.acquired()
            assert not next_job.acquired()
    with DeviceLocks(["cpu"]) as gave_up, DeviceLocks(["cpu"]) as job:
        assert job.acquired()
        assert not gave_up.acquired()
    with DeviceLocks(["cpu"]) as later:
        assert later.acquired()


def test_a_lock_file_that_was_cleaned_away_locks_nothing() -> None:
    with DeviceLocks(["cpu"]) as first, DeviceLocks(["cpu"]) as second:
        assert first.acquired()
        (lock_folder() / "cpu.lock").unlink()
        assert second.acquired()
        with DeviceLocks(["cpu"]) as third:
            assert not third.acquired()


def test_others_can_lock_what_one_user_made() -> None:
    before = os.umask(0o077)
    try:
        with DeviceLocks(["cpu"]) as locks:
            assert locks.acquired()
    finally:
        os.umask(before)
    folder = lock_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / "cpu.lock").stat().st_mode) == 0o666


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user")
def test_another_user_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    del tmp_path  # only root may enter it
    folder = Path(f"/tmp/qbench-locks-test-{os.getpid()}")
    monkeypatch.setenv("QBENCH_LOCKS", str(folder))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    script = f"import os; os.setgid(65534); os.setuid(65534)\n{TAKE}"
    try:
        with DeviceLocks(["cpu"]) as locks:
            assert locks.acquired()
            assert said(f"{TAKE.partition(';')[0]}\n{script}", environment) == "False"
        assert said(f"{TAKE.partition(';')[0]}\n{script}", environment) == "True"
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_nothing_in_the_folder_leads_elsewhere(tmp_path: Path) -> None:
    folder = lock_folder()
    folder.mkdir()
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (folder / "cpu.lock").symlink_to(precious)
    with DeviceLocks(["cpu"]) as locks, pytest.raises(StoreError, match="QBENCH_LOCKS"):
        locks.acquired()
    (folder / "cpu.lock").unlink()
    (folder / "cpu.lock").symlink_to(tmp_path / "not-there")
    with DeviceLocks(["cpu"]) as locks, pytest.raises(StoreError, match="cannot be locked"):
        locks.acquired()
    os.mkfifo(folder / "pipe.lock")
    with DeviceLocks(["pipe"]) as locks, pytest.raises(StoreError, match="it is no file"):
        locks.acquired()
    assert precious.read_text() == "mine"
    assert not (tmp_path / "not-there").exists()


@pytest.mark.parametrize("kind", ["link", "file", "below a file"])
def test_a_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    place = tmp_path / "place"
    (tmp_path / "other").mkdir()
    if kind == "link":
        place.symlink_to(tmp_path / "other")
    else:
        place.write_text("")
    monkeypatch.setenv("QBENCH_LOCKS", str(place / "below" if kind == "below a file" else place))
    with pytest.raises(StoreError, match=r"QBENCH_LOCKS"):
        DeviceLocks(["cpu"])
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.slow
def test_a_run_with_another_cache_waits(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = workplace.with_environment(
        QBENCH_CACHE=str(workplace.folder / "other-cache"), PYTHONUNBUFFERED="1"
    )
    place.write(
        "suite.yaml", f"models: [{place.model}]\nprecisions: [fp32]\nmeasure: [footprint]\n"
    )
    monkeypatch.setenv("QBENCH_LOCKS", place.environment["QBENCH_LOCKS"])
    monkeypatch.setenv("QBENCH_CACHE", str(workplace.folder / "cache"))
    with DeviceLocks(lock_names("cpu")) as locks:
        assert locks.acquired()
        process = place.start("run", "suite.yaml", "--device", "cpu")
        assert process.stdout is not None
        line = next(line for line in process.stdout if "another qbench run" in line)
        assert "cpu" in line
        assert not place.records()
    process.communicate(timeout=200)
    assert process.returncode == 0
    assert len(place.records()) == 1
