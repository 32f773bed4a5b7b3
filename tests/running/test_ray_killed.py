"""Nodes and drivers are killed at random moments: nothing that was recorded is lost.

QBENCH_KILLS is how many: `make fuzz` has 50, in about an hour.
"""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.running.ray_nodes import RayNodes, workers

if TYPE_CHECKING:
    import subprocess

    from tests.workplace import Workplace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(10_000)]
KILLS = int(os.environ.get("QBENCH_KILLS", "4"))
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "nf4", "fp4")
RECORDS = 4 * len(PRECISIONS)


def contents(place: Workplace) -> dict[str, str]:
    """The records as they lie on disk, each of which can be read."""
    place.records()
    paths = (place.folder / "results").rglob("*.json")
    return {str(path): path.read_text(encoding="utf-8") for path in paths}


def test_whatever_is_killed_no_record_is_lost(workplace: Workplace) -> None:
    workplace.write_suite(*PRECISIONS)
    chance = random.Random(30)
    kept: dict[str, str] = {}
    with RayNodes(workplace) as nodes:
        nodes.add("a")
        nodes.add("b")

        def start() -> subprocess.Popen[str]:
            return workplace.start(
                "run", "suite.yaml", "--on", nodes.on, "--set", "cluster.ray.cache=own"
            )

        process = start()
        for _ in range(KILLS):
            time.sleep(chance.uniform(1.0, 60.0))
            if process.poll() is not None:  # it was done before: from the beginning
                output, errors = process.communicate()
                assert process.returncode == 0, output + errors
                for path in (workplace.folder / "results").rglob("*.json"):
                    path.unlink()
                kept = {}
                process = start()
                time.sleep(chance.uniform(10.0, 30.0))
            if chance.random() < 0.5:
                victim = chance.choice("ab")
                nodes.kill(victim)
                time.sleep(chance.uniform(0.0, 5.0))
                nodes.add(victim)
            else:
                os.kill(process.pid, signal.SIGKILL)
                process.communicate(timeout=60)
                assert workers(workplace) == []
            now = contents(workplace)
            assert {path: now.get(path) for path in kept} == kept
            kept = now
            if process.poll() == -signal.SIGKILL:
                process = start()
        output, errors = process.communicate(timeout=900)
        assert process.returncode == 0, output + errors
        assert workers(workplace) == []
    now = contents(workplace)
    assert {path: now.get(path) for path in kept} == kept
    assert len(now) == RECORDS
    assert {record.status for record in workplace.records().values()} == {"ok"}
