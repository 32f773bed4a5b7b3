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


def wait_for_records(process: subprocess.Popen[str], count: int) -> None:
    """Returns when the run has told of so many records, or has ended."""
    assert process.stdout is not None
    seen = 0
    while seen < count and (line := process.stdout.readline()):
        seen += line.startswith("[")


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_in_the_same_records(workplace: Workplace) -> None:
    suite = workplace.write_suite("fp32", "nf4")
    temporary = workplace.folder / "temporary"
    temporary.mkdir()
    workplace = workplace.with_environment(TMPDIR=str(temporary))
    chance = random.Random(20)
    killed = 0
    for _ in range(KILLS):
        process = workplace.start("run", "suite.yaml")
        count = chance.randrange(3)
        wait_for_records(process, count)
        time.sleep(chance.uniform(0.0, 0.5 if count else 6.0))
        killed += process.poll() is None
        process.kill()
        process.communicate()
        assert workplace.survivors() == []
        assert set(workplace.records()) <= expected_files(workplace, suite)
    assert killed
    finished = workplace.call("run", "suite.yaml")
    assert finished.code == 0, finished.errors
    assert set(workplace.records()) == expected_files(workplace, suite)
    assert {record.status for record in workplace.records().values()} == {"ok"}
    assert read_folder(workplace.folder / "results")[1] == []
    assert list(temporary.iterdir()) == []
    assert list(workplace.folder.rglob("*.part")) == []


def test_ctrl_c_says_how_to_go_on_and_leaves_nothing_running(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    process = workplace.start("run", "suite.yaml")
    wait_for_records(process, 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert workplace.survivors() == []
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "the same command continues" in errors
    assert len(errors.strip().splitlines()) == 1
    assert workplace.records()


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
        while len(place.survivors()) < 6:  # the run, its server, the worker and what it started
            pass
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
    place.write("text.txt", "def add(first): return first + 1\n" * 20)
    place.write_suite("fp32", "nf4")
    processes = [place.start("run", "suite.yaml") for _ in range(2)]
    outputs = [process.communicate(timeout=200) for process in processes]
    return place, [
        Finished(process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


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

    def test_the_second_waits_for_the_device(
        self, two_at_once: tuple[Workplace, list[Finished]]
    ) -> None:
        _, finished = two_at_once
        assert any("another qbench run is using cpu" in one.output for one in finished)

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
