"""No server lives on, wherever a run that serves is killed; a rerun takes what is missing.

QBENCH_KILLS is how often one is killed at a random moment: `make fuzz` has it 50 times, in
about ten minutes.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.workplace import MARK, Workplace

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("QBENCH_KILLS", "4"))
MANY_KILLS = 50
"""So many meet each of the run's processes."""
PROGRAM = Path(__file__).parents[1] / "measures" / "misbehaving_server.py"
SUITE = """\
trust_code: true
models: [{model}]
precisions: [fp32]
measure:
  serving:
    prompt_tokens: 8
    output_tokens: 2
    concurrency: 2
    requests: 4
    warmup: 0
    servers:
      - name: stubborn
        command: ["{python}", "{program}", has stubborn children, --port, "{{port}}", "{{model}}",
                  "{{dtype}}"]
"""


def write_suite(place: Workplace) -> None:
    place.write(
        "suite.yaml", SUITE.format(model=place.model, python=sys.executable, program=PROGRAM)
    )


def marked(place: Workplace) -> dict[str, list[int]]:
    """The processes of a run by what they are."""
    found: dict[str, list[int]] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) != str(place.folder):
                continue
            command = " ".join(process.cmdline())
            parent = " ".join(psutil.Process(process.ppid()).cmdline())
        except psutil.Error:
            continue
        found.setdefault(_role(command, parent), []).append(process.pid)
    return found


def _role(command: str, parent: str) -> str:
    if "qbench.core.keeper" in command:
        return "keeper"
    if "fork_server" in command:
        return "worker" if "fork_server" in parent else "fork server"
    if PROGRAM.name in command:
        return "server"
    if "guidellm" in command:
        return "guidellm"
    return "qbench" if "qbench run suite.yaml" in command else "another"


def kill_one(place: Workplace, roles: list[str], number: signal.Signals) -> str | None:
    """Sends a signal to the first of these that is there; says which it was."""
    there = marked(place)
    for role in roles:
        if there.get(role):
            os.kill(there[role][0], number)
            return role
    return None


def end(process: subprocess.Popen[str], place: Workplace, *, killed: bool) -> list[str]:
    """What is left when the run has ended, by itself where it was not killed."""
    try:
        process.communicate(timeout=30 if killed else 200)
    except Exception:
        process.kill()
        process.communicate()
        raise
    return place.survivors()


def wait_for_server(process: subprocess.Popen[str], place: Workplace) -> None:
    while process.poll() is None and "guidellm" not in marked(place):
        time.sleep(0.1)


def test_killed_while_it_serves_nothing_is_left_and_a_rerun_takes_it(workplace: Workplace) -> None:
    """Two of the places by name: the server, whose end is a record, and the run itself."""
    write_suite(workplace)
    process = workplace.start("run", "suite.yaml")
    wait_for_server(process, workplace)
    assert kill_one(workplace, ["server"], signal.SIGKILL) == "server"
    assert end(process, workplace, killed=False) == []
    (record,) = workplace.records().values()
    assert record.status == "crash"
    assert "under load" in (record.reason or "")
    assert "stubborn children begins" in (record.log_tail or "")

    process = workplace.start("run", "suite.yaml")
    wait_for_server(process, workplace)
    assert kill_one(workplace, ["qbench"], signal.SIGKILL) == "qbench"
    assert end(process, workplace, killed=True) == []

    finished = workplace.call("run", "suite.yaml")
    assert finished.code == 0, finished.output + finished.errors
    assert [one.status for one in workplace.records().values()] == ["ok"]
    assert workplace.survivors() == []


@pytest.mark.timeout(3000)
def test_killed_at_random_moments_no_server_is_left(workplace: Workplace) -> None:
    write_suite(workplace)
    chance = random.Random(14)
    every = ["qbench", "fork server", "worker", "keeper", "server", "guidellm"]
    seen: dict[str, int] = {}
    for _ in range(KILLS):
        process = workplace.start("run", "suite.yaml", "--fresh")
        roles = chance.sample(every, len(every))
        number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        time.sleep(chance.uniform(0.5, 20.0))
        role = kill_one(workplace, roles, number)
        seen[role or "none"] = seen.get(role or "none", 0) + 1
        if role != "qbench":  # in the midst of what follows from it, the run itself
            time.sleep(chance.uniform(0.0, 2.0))
            kill_one(workplace, ["qbench"], signal.SIGKILL)
        assert end(process, workplace, killed=True) == [], (role, number)
    assert KILLS < MANY_KILLS or set(every) <= set(seen), seen
    finished = workplace.call("run", "suite.yaml", "--retry", "crash,error,timeout,oom")
    assert finished.code == 0, finished.output + finished.errors
    assert [one.status for one in workplace.records().values()] == ["ok"]
    assert workplace.survivors() == []
