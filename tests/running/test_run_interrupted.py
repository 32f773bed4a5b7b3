"""Nothing is lost and nothing lives on, however a run ends; two runs do not disturb each other."""

from __future__ import annotations

import random
import re
import resource
import signal
import time
from typing import TYPE_CHECKING

import pytest

from qbench.core.store import read_folder
from qbench.plan.plan import make_plan
from qbench.plan.suite.suite import load_suite
from qbench.running.executors.device_locks import DeviceLocks, lock_names
from tests.waiting import WAITS, is_waiting, let_go
from tests.workplace import Finished, Workplace

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

pytestmark = pytest.mark.slow

KILLS = 5


def expected_files(place: Workplace, suite: Path) -> set[str]:
    """The record files that an undisturbed run leaves; `test_run` shows that they are these."""
    plan = make_plan(load_suite(suite), place.folder / "results", device="cpu")
    return {"/".join(task.path.rsplit("/", 2)[-2:]) for task in plan.tasks}


def own_records(place: Workplace) -> set[str]:
    """Names of the records of qbench's own measurements."""
    return {name for name in place.records() if "/unruly" not in name}


def add_waiting(place: Workplace) -> None:
    with (place.folder / "suite.yaml").open("a", encoding="utf-8") as file:
        file.write(WAITS)


def wait_for_records(process: subprocess.Popen[str], count: int) -> None:
    """Returns when the run has told of so many records, or has ended."""
    assert process.stdout is not None
    seen = 0
    while seen < count and (line := process.stdout.readline()):
        seen += line.startswith("[")


def wait_until_it_waits(process: subprocess.Popen[str], place: Workplace) -> None:
    """Returns when the run is in the midst of the measurement that lasts until it is let go."""
    while not is_waiting(place.folder):
        assert process.poll() is None
        time.sleep(0.02)


def test_killed_at_random_moments_it_ends_in_the_same_records(workplace: Workplace) -> None:
    expected = expected_files(workplace, workplace.write_suite("fp32", "nf4"))
    temporary = workplace.folder / "temporary"
    temporary.mkdir()
    place = workplace.with_plugins("unruly").with_environment(TMPDIR=str(temporary))
    add_waiting(place)
    chance = random.Random(20)
    for kill in range(KILLS):
        process = place.start("run", "suite.yaml")
        if kill == 0:  # however quick the machine is
            wait_until_it_waits(process, place)
            let_go(place.folder)
        else:
            count = chance.randrange(3)
            wait_for_records(process, count)
            time.sleep(chance.uniform(0.0, 0.5 if count else 6.0))
        process.kill()
        process.communicate()
        assert place.survivors() == []
        assert own_records(place) <= expected
    finished = place.call("run", "suite.yaml")
    assert finished.code == 0, finished.errors
    assert own_records(place) == expected
    assert {record.status for record in place.records().values()} == {"ok"}
    assert read_folder(place.folder / "results")[1] == []
    assert list(temporary.iterdir()) == []
    assert list(place.folder.rglob("*.part")) == []


def test_ctrl_c_says_how_to_go_on_and_leaves_nothing_running(workplace: Workplace) -> None:
    place = workplace.with_plugins("unruly")
    place.write_suite("fp32")
    add_waiting(place)
    process = place.start("run", "suite.yaml")
    wait_until_it_waits(process, place)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert place.survivors() == []
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "the same command continues" in errors
    assert len(errors.strip().splitlines()) == 1
    assert place.records()


@pytest.mark.parametrize("how", ["its output is not read", "it is killed"])
def test_a_measurement_that_takes_long_ends_with_the_run(workplace: Workplace, how: str) -> None:
    place = workplace.with_plugins("unruly")
    (place.folder / "temporary").mkdir()
    place = place.with_environment(TMPDIR=str(place.folder / "temporary"))
    suite = "models: [{}]\nprecisions: [fp32]\nmeasure: {{unruly: {{acts: [fine, sleeps]}}}}\n"
    place.write("suite.yaml", suite.format(place.model))
    process = place.start("run", "suite.yaml")
    wait_for_records(process, 1)
    assert process.stdout is not None
    assert process.stderr is not None
    if how == "it is killed":
        while len(place.running()) < 6:  # the run, its server, the worker and what it started
            time.sleep(0.02)
        process.kill()
    else:
        process.stdout.close()
    process.wait(timeout=60)
    errors = process.stderr.read()
    process.stderr.close()
    process.stdout.close()
    assert place.survivors() == []
    assert [record.status for record in place.records().values()] == ["ok"]
    if how == "it is killed":
        return
    assert process.returncode == 141
    assert errors.split("\n")[1:] == [""]
    assert "no one reads standard output any more; the same command continues" in errors
    assert list((place.folder / "temporary").iterdir()) == []


@pytest.fixture(scope="module")
def two_at_once(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> tuple[Workplace, list[Finished]]:
    place = Workplace(tmp_path_factory.mktemp("two"), tiny_model)
    place = place.with_environment(PYTHONUNBUFFERED="1")
    place.write("text.txt", "def add(first): return first + 1\n" * 20)
    place.write_suite("fp32", "nf4")
    # Neither has begun before both are there, however long the start of one takes.
    with place.entered(), DeviceLocks(lock_names("cpu")) as locks:
        assert locks.acquired()
        processes = [place.start("run", "suite.yaml", "--device", "cpu") for _ in range(2)]
        begun = [read_until(process, "another qbench run") for process in processes]
    finished = []
    for process, lines in zip(processes, begun, strict=True):
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout as output, process.stderr as errors:
            told = lines + output.read(), errors.read()
        finished.append(Finished(process.wait(timeout=200), *told))
    return place, finished


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What the run has printed up to the line with these words, or to its end."""
    assert process.stdout is not None
    lines = ""
    while words not in lines and (line := process.stdout.readline()):
        lines += line
    return lines


class TestTwoAtOnce:
    def test_both_end_well_with_all_records(
        self, two_at_once: tuple[Workplace, list[Finished]]
    ) -> None:
        place, finished = two_at_once
        assert [one.code for one in finished] == [0, 0], finished
        expected = expected_files(place, place.folder / "suite.yaml")
        assert set(place.records()) == expected
        assert {record.status for record in place.records().values()} == {"ok"}
        assert all("8 records (8 ok)" in one.output for one in finished)

    def test_each_waits_for_the_device(self, two_at_once: tuple[Workplace, list[Finished]]) -> None:
        _, finished = two_at_once
        assert all("another qbench run is using cpu" in one.output for one in finished)

    def test_each_item_is_taken_once(self, two_at_once: tuple[Workplace, list[Finished]]) -> None:
        _, finished = two_at_once
        counts = [re.search(r"(\d+) taken now", one.output) for one in finished]
        assert sum(int(count[1]) for count in counts if count) == 8


def test_a_full_disk_stops_the_run_and_loses_nothing(workplace: Workplace) -> None:
    """No file may grow beyond 2000 bytes: like a full disk, but for the name of the error."""
    workplace.write_suite("fp32")
    limit = (2000, 2000)
    finished = workplace.call(
        "run", "suite.yaml", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    assert finished.code == 2
    assert "Traceback" not in finished.errors
    assert "the record cannot be written (File too large)" in finished.errors
    assert "free space" in finished.errors
    assert len(finished.errors.strip().splitlines()) == 1
    assert workplace.records() == {}
    assert list(workplace.folder.rglob("*.part")) == []
    assert workplace.survivors() == []
