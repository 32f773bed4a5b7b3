"""Writes as many synthetic records as asked for, and times the commands that read them.

    python tools/many_records.py 1000000 FOLDER --suites 200

The records are those of the published quickstart, again and again: each time the same measurements
taken by another version, with keys and times of their own. FOLDER must not exist, and is removed at
the end. A million records take some 10 GB. Each command is timed twice: the first leaves an index,
in a cache beside the records, that the second finds.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.record import content_key
from qbench.core.store import read_folder, record_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.core.record import Record

TEMPLATE = Path(__file__).parent.parent / "results" / "published" / "quickstart"
SUITE = TEMPLATE.parents[2] / "suites" / "quickstart.yaml"
_SUITE, _KEY, _TIME, _VERSION = "@suite@", "@key@", "@time@", "@version@"
_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class _Form:
    """One record of the template, with marks in the places of what differs."""

    text: str
    identity: dict[str, object]
    record: Record

    def write(self, results: Path, suite: str, version: int, when: datetime) -> None:
        """Writes it as the record of a version; folders are made as they are needed."""
        key = content_key({**self.identity, "version": f"v{version}"})
        record = self.record
        kind = record.environment.device_kind
        path = record_path(results, suite, kind, record.cell.slug, record.item, key)
        text = self.text.replace(_SUITE, suite).replace(_KEY, key)
        text = text.replace(_TIME, when.isoformat()).replace(_VERSION, f"v{version}")
        try:
            path.write_text(text, encoding="utf-8")
        except FileNotFoundError:
            path.parent.mkdir(parents=True)
            path.write_text(text, encoding="utf-8")


def write_many(
    count: int, results: Path, suites: int = 1, template: Sequence[Record] | None = None
) -> list[str]:
    """Writes `count` records below `results`, spread over suites; returns the suites' names.

    Each record has the form, the key and the name that a run gives it. Raises `StoreError` where
    there is no template.
    """
    records = read_folder(TEMPLATE)[0] if template is None else template
    forms = [_form(record) for record in records]
    names = [f"suite-{number:03}" for number in range(suites)]
    for at, (form, suite, version) in zip(range(count), _places(forms, names), strict=False):
        form.write(results, suite, version, _START + timedelta(seconds=at))
    return names


def _places(forms: Sequence[_Form], names: Sequence[str]) -> Iterator[tuple[_Form, str, int]]:
    version = 0
    while True:
        for name in names:
            for form in forms:
                yield form, name, version
        version += 1


def _form(record: Record) -> _Form:
    identity = {**record.identity, "version": _VERSION}
    marked = {"suite": _SUITE, "key": _KEY, "started_at": _TIME, "identity": identity}
    made = record.model_copy(update=marked)
    return _Form(made.model_dump_json(indent=1) + "\n", record.identity, record)


def _suite(folder: Path, name: str) -> str:
    """Writes the suite that the template is of, under another name."""
    text = SUITE.read_text(encoding="utf-8")
    (folder / "suite.yaml").write_text(text.replace("name: quickstart", f"name: {name}"), "utf-8")
    return "suite.yaml"


def _timed(command: Sequence[str], folder: Path) -> tuple[float, float, int]:
    """Seconds on the clock, seconds of the processors, and how the command ended."""
    environment = {**os.environ, "QBENCH_CACHE": str(folder / "cache")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "qbench", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    elapsed = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return elapsed, used, done.returncode


def main() -> None:
    """Writes the records, then times each command twice: the first leaves the index."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("count", type=int, help="how many records")
    parser.add_argument("folder", type=Path, help="where; must not exist yet")
    parser.add_argument("--suites", type=int, default=1, help="over how many suites")
    parser.add_argument("--all", action="store_true", help="also report all suites at once")
    parser.add_argument("--keep", action="store_true", help="leave the folder there")
    chosen = parser.parse_args()
    folder: Path = chosen.folder
    folder.mkdir(parents=True)
    start = time.perf_counter()
    names = write_many(chosen.count, folder / "results", chosen.suites)
    print(f"wrote {chosen.count:,} records in {time.perf_counter() - start:.0f} s")  # noqa: T201
    suite, where = _suite(folder, names[-1]), f"results/{names[-1]}"
    baseline = ["--baseline", "baseline.json"]
    commands = [
        ["report", where],
        ["baseline", suite, "--output", "baseline.json"],
        ["gate", suite, *baseline],
        ["plan", suite],
        ["compare", where, where],
    ]
    if chosen.all:
        commands.append(["report", "results"])
    for command in commands:
        for turn in ("first", "again"):
            elapsed, used, status = _timed(command, folder)
            print(  # noqa: T201
                f"{' '.join(command)}: {turn} {elapsed:.1f} s, {used:.1f} s of CPU, exit {status}"
            )
    if not chosen.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
