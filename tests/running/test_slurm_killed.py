"""Nothing that was measured is lost, whatever of a run through submitit is killed and when.

QBENCH_KILLS is how many runs have a process of theirs killed at a random moment.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from qbench.core.store import read_record
from tests.workplace import MARK

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(10_000)]

KILLS = int(os.environ.get("QBENCH_KILLS", "3"))
SUITE = """\
models: [{model}]
precisions: [fp32, nf4]
measure:
  footprint:
  quality: {{text: text.txt, window: 32}}
"""
ROLES = {
    "qbench run": "driver",
    "submitit.local._local": "controller",
    "submitit.core._submit": "job",
    "fork_server": "server or worker",
}
MOST_RUNS = 5


def processes(place: Workplace) -> dict[str, list[psutil.Process]]:
    """The processes of a run by what they are."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(place.folder):
                command = " ".join(process.cmdline())
                role = next((role for part, role in ROLES.items() if part in command), "another")
                found.setdefault(role, []).append(process)
    return found


def test_kills_of_jobs_and_drivers_lose_nothing(workplace: Workplace) -> None:
    workplace.write("suite.yaml", SUITE.format(model=workplace.model))
    chosen = random.Random(0)
    killed: dict[str, int] = {}
    for turn in range(KILLS):
        call = ["run", "suite.yaml", "--on", "slurm:local", "--set", f"name=turn-{turn}"]
        seen: dict[str, str] = {}

        def check(turn: int = turn, seen: dict[str, str] = seen) -> None:
            for path in (workplace.folder / "results" / f"turn-{turn}").rglob("*.json"):
                record = read_record(path)
                assert record is not None
                # What lacked a reference that was killed is taken again, with it.
                lacks = not record.reference and any(one.value is None for one in record.metrics)
                if record.status == "ok" and not lacks:
                    assert seen.setdefault(str(path), record.started_at) == record.started_at, path

        with workplace.start(*call) as process:
            # A role first: most of the time there is one driver beside many others.
            wanted = chosen.choice([*ROLES.values()])
            until = time.monotonic() + chosen.uniform(1, 10)
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
            while process.poll() is None and wanted not in (there := processes(workplace)):
                time.sleep(0.05)
            if process.poll() is None:
                victim = chosen.choice(there[wanted])
                with suppress(psutil.NoSuchProcess):
                    victim.send_signal(signal.SIGKILL)
                    killed[wanted] = killed.get(wanted, 0) + 1
            process.wait(timeout=240)  # jobs that outlive it hold its pipes
        check()
        for _ in range(MOST_RUNS):
            done = workplace.call(*call)
            check()
            if done.code == 0:
                break
        assert done.code == 0, (turn, killed, done)
        assert len(seen) == 4, (turn, killed)
        assert workplace.survivors() == [], (turn, killed)
        left = [*(workplace.folder / "cache" / "slurm").glob(f"turn-{turn}-*/job-*")]
        assert left == [], (turn, killed)
    assert killed  # how often depends on how fast the machine is
