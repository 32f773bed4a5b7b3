"""What is half written is never seen, and what a kill leaves of it is removed by the next run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from qbench.core.cache import cache_folder
from qbench.core.files import scratch_folder, sweep, waiting_folder, write_atomically
from qbench.plan.plan import make_plan
from qbench.plan.suite.suite import load_suite_text
from qbench.running.executors.inline import InlineExecutor
from qbench.running.executors.this_machine import ThisMachine
from qbench.running.runner import run_suite
from tests.inline_runs import Listener, pretended

if TYPE_CHECKING:
    from pathlib import Path

    from tests.workplace import Workplace

DIES_IN_A_FOLDER = """
import os, pathlib, sys
from qbench.core.files import waiting_folder
with waiting_folder(pathlib.Path(sys.argv[1])) as waiting:
    (waiting / "half.safetensors").write_bytes(b"half")
    if sys.argv[2] == "dies":
        os.kill(os.getpid(), 9)
    print("ready", flush=True)
    sys.stdin.read()
"""


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def half_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("half", encoding="utf-8")
    return path


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIES_IN_A_FOLDER, str(tmp_path / "made")]
    subprocess.run([*command, "dies"], check=False)
    half_file(tmp_path / ".record.json.abcdefgh.part")
    (name, _) = left(tmp_path)
    assert name.startswith(".made.")
    sweep(tmp_path)
    assert left(tmp_path) == []


def test_what_a_live_process_writes_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIES_IN_A_FOLDER, str(tmp_path / "made"), "lives"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (name,) = left(tmp_path)
        sweep(tmp_path)
        assert left(tmp_path) == [name]
        assert left(tmp_path / name) == ["half.safetensors"]
        process.communicate(b"")
    assert left(tmp_path) == []


def test_what_has_another_name_stays(tmp_path: Path) -> None:
    for name in ("record.json", ".hidden", "film.part"):
        half_file(tmp_path / name)
    before = left(tmp_path)
    sweep(tmp_path)
    assert left(tmp_path) == before


def test_a_pipe_and_a_link_are_neither_read_nor_followed(tmp_path: Path) -> None:
    aim = half_file(tmp_path / "elsewhere" / "kept.json")
    (tmp_path / ".link.part").symlink_to(aim)
    os.mkfifo(tmp_path / ".pipe.part")
    sweep(tmp_path)
    assert aim.is_file()


def test_nothing_takes_the_place_of_a_device_or_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    # Links of the test's own: a fault here would replace them, never what they lead to.
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    for name in ("pipe", "null", "stdout"):
        with pytest.raises(OSError, match="a device or a pipe"):
            write_atomically(tmp_path / name, "text")
    assert left(tmp_path) == ["null", "pipe", "stdout"]
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "null").is_symlink()
    assert (tmp_path / "stdout").is_symlink()


def test_writers_and_sweepers_do_not_disturb_each_other(tmp_path: Path) -> None:
    ended = threading.Event()

    def sweep_on() -> None:
        while not ended.is_set():
            sweep(tmp_path)

    sweepers = [threading.Thread(target=sweep_on) for _ in range(2)]
    for thread in sweepers:
        thread.start()
    try:
        for number in range(50):
            write_atomically(tmp_path / "a.json", f"{number}")
            assert (tmp_path / "a.json").read_text(encoding="utf-8") == f"{number}"
            with waiting_folder(tmp_path / "made") as waiting:
                (waiting / "b.json").write_text("{}")
    finally:
        ended.set()
        for thread in sweepers:
            thread.join()
    assert left(tmp_path) == ["a.json"]


def test_a_folder_that_is_moved_is_kept_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    with waiting_folder(tmp_path / "made") as waiting:
        write_atomically(waiting / "a.json", "{}")
        waiting.rename(tmp_path / "made")
    assert left(tmp_path) == ["made"]
    assert left(tmp_path / "made") == ["a.json"]


def test_temporary_folders_of_killed_processes_go_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    half_file(tmp_path / ".qbench-data.0123.part" / "rows.arrow")
    half_file(tmp_path / ".other.0123.part")
    with scratch_folder("qbench-data") as folder:
        assert left(tmp_path) == sorted([".other.0123.part", folder.name])
    assert left(tmp_path) == [".other.0123.part"]


def test_a_run_sweeps_its_records_and_the_cache(workplace: Workplace) -> None:
    text = f"models: [{workplace.model}]\nprecisions: [fp32]\nmeasure: {{footprint: }}\n"
    suite = load_suite_text(text, "suite.yaml", workplace.folder)
    results = workplace.folder / "results"
    (task,) = make_plan(suite, results, device="cpu").tasks
    half = [
        half_file(results / ".writable.1.part"),
        half_file(results.parent / f"{task.path}").with_name(".half.json.abcdefgh.part"),
        half_file(cache_folder() / "sha256" / ".half.json.abcdefgh.part"),
        half_file(cache_folder() / "tuned" / "0123" / "checkpoint" / ".step-1.0123.part"),
    ]
    half_file(half[1])
    made = partial(InlineExecutor, work=pretended())
    run_suite(suite, results, Listener(), on=ThisMachine("cpu", make_executor=made))
    assert not any(path.exists() for path in half)
    assert not list(workplace.folder.rglob("*.part"))


def test_folders_above_are_removed_again_where_nothing_came_of_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), waiting_folder(tmp_path / "a" / "b" / "new"):
        raise ValueError("no")
    assert left(tmp_path) == []
    (tmp_path / "there").mkdir()
    with waiting_folder(tmp_path / "there" / "new"):
        pass
    with waiting_folder(tmp_path / "a" / "b" / "new") as waiting:
        waiting.rename(tmp_path / "a" / "b" / "new")
    assert (tmp_path / "a" / "b" / "new").is_dir()
    assert left(tmp_path) == ["a", "there"]
