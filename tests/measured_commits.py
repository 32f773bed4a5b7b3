"""Repositories of git whose commits were measured, with baselines that were committed."""

from __future__ import annotations

import os
import random
import subprocess
from typing import TYPE_CHECKING

from qbench.compare.baseline import write_baseline
from tests.paired_records import footprint, latency, losses, quality
from tests.record_factory import make_environment, make_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from qbench.core.record import Environment, Record

MEMORY = "memory.peak"


class MeasuredRepository:
    """A repository in which each change of the code is measured, and its baseline committed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.results = root / "results"
        self.revisions: list[str] = []
        """Of the code that was measured, the first one first."""
        root.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "A person")
        self.git("config", "user.email", "person@example.org")
        self.git("config", "commit.gpgsign", "false")

    def git(self, *arguments: str) -> str:
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
        command = ["git", *arguments]
        done = subprocess.run(
            command, cwd=self.root, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, subject: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", subject)
        return self.git("rev-parse", "HEAD")

    def change_code(self) -> str:
        number = len(self.revisions)
        (self.root / "code.py").write_text(f"x = {number}\n")
        self.revisions.append(self.commit(f"Code {number}"))
        return self.revisions[-1]

    def measure(self, records: Sequence[Record], suite: str = "quickstart") -> str:
        """Commits a baseline of the records, and returns the commit that brought it."""
        folder = self.results / "baselines"
        folder.mkdir(parents=True, exist_ok=True)
        write_baseline(folder / f"{suite}.json.gz", records)
        return self.commit(f"Baseline of {len(self.revisions) - 1}")


def started(number: int) -> str:
    """A time for the measurement of that number, each a day later."""
    return f"2026-{1 + number // 28:02d}-{1 + number % 28:02d}T12:00:00.000+00:00"


def run_of(
    number: int,
    revision: str | None = None,
    *,
    cells: Sequence[str] = ("fp32", "nf4"),
    slower: float = 0.0,
    worse: float = 0.0,
    larger: float = 0.0,
    noise: float = 0.01,
    slow: float = 0.03,
    environment: Environment | None = None,
) -> list[Record]:
    """What a run leaves of the cells; `slower`, `worse` and `larger` are of the last cell alone.

    Times are those of a machine in another state each run, a share `slow` of them much slower; the
    windows of a text give the same losses in every run, to the last bit, unless the model changed.
    """
    draws = random.Random(f"run {number}")
    state = draws.gauss(0, noise)
    taken = environment or make_environment(git_revision=revision)
    records: list[Record] = []
    for cell in cells:
        last = cell == cells[-1]
        level = 0.010 * (1 + slower * last) * (1 + state)
        heavy = 1 + (0.06 if draws.random() < slow else 0.0)
        seconds = [level * heavy * (1 + draws.gauss(0, 0.004)) for _ in range(5)]
        log_change = 0.01 * len(cell) + worse * last
        resident = 5e7 * (1 + larger * last) * (1 + draws.gauss(0, noise / 3))
        common = {"environment": taken, "started_at": started(number)}
        records += [
            *latency(cell, seconds, **common),
            quality(cell, losses(log_change, seed=1 + (worse * last > 0), windows=60), **common),
            footprint(cell, 1_000_000 * len(cell), **common),
            make_record(cell, "memory", {MEMORY: resident}, slug="b1-p128-n32", **common),
        ]
    return records


def make_history(
    root: Path, commits: int, run: Callable[[int, str], Sequence[Record]]
) -> MeasuredRepository:
    """A repository of so many measured commits; `run` gives the records of each."""
    repository = MeasuredRepository(root)
    for number in range(commits):
        repository.measure(run(number, repository.change_code()))
    return repository
