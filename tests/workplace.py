"""A folder in which tests call qbench as a user does: by its command."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from qbench.cli.end import run_app
from qbench.cli.main import app
from qbench.core.record_files import BASELINES
from qbench.core.store import read_record, record_path, write_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.core.record import Record

QBENCH = Path(sys.executable).with_name("qbench")
REPOSITORY = Path(__file__).parents[1]
"""The folder of the whole project."""
PLUGINS = REPOSITORY / "tests" / "plugins"
MARK = "QBENCH_TEST_MARK"
"""Environment variable by which a test finds all processes that its command has started."""
SUITE = """\
models: [{model}]
precisions: [{precisions}]
measure:
  footprint:
  latency: {{prompt_tokens: 4, new_tokens: {new_tokens}, repeats: 2, min_iterations: 1,
            min_seconds: 0.05}}
  quality: {{text: text.txt, window: 32}}
"""
_DIES_WITHIN_S = 20.0
_PATIENCE_S = 250.0


@dataclass(frozen=True)
class Finished:
    """What a command left."""

    code: int
    output: str
    errors: str


@dataclass(frozen=True)
class Workplace:
    """A folder with a text, a cache of its own, and a model to measure."""

    folder: Path
    model: Path
    more_environment: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, text: str) -> Path:
        """Writes a file."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def write_suite(self, *precisions: str, new_tokens: int = 2, name: str = "suite.yaml") -> Path:
        """Writes a suite of three quick measurements: four items a cell."""
        chosen = ", ".join(precisions)
        return self.write(
            name, SUITE.format(model=self.model, precisions=chosen, new_tokens=new_tokens)
        )

    def with_environment(self, **variables: str) -> Workplace:
        """The same place with more environment variables."""
        return replace(self, more_environment={**self.more_environment, **variables})

    def with_plugins(self, name: str) -> Workplace:
        """The same place with a plug-in package of `tests/plugins` installed."""
        before = os.environ.get("PYTHONPATH")
        path = os.pathsep.join(filter(None, [str(PLUGINS / name), before]))
        return self.with_environment(PYTHONPATH=path)

    @property
    def environment(self) -> dict[str, str]:
        """One thread, no GPU, no hub, and nothing kept outside the folder."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "QBENCH_CACHE": str(self.folder / "cache"),
            "QBENCH_LOCKS": str(self.folder / "locks"),
            "HF_HOME": str(self.folder / "hub"),
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "NO_COLOR": "1",
            MARK: str(self.folder),
            **self.more_environment,
        }

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Starts `qbench` in the folder, in a session of its own."""
        return subprocess.Popen(
            [str(QBENCH), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def call(self, *arguments: str, **options: Any) -> Finished:
        """Calls `qbench` in the folder to its end."""
        with self.start(*arguments, **options) as process:
            try:
                output, errors = process.communicate(timeout=_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Finished(process.returncode, output, errors)

    def output_of(self, program: str, *arguments: str) -> str:
        """What a program in Python prints that runs in the folder; it must end well."""
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This process in the folder, with the place's environment."""
        with patch.dict(os.environ, self.environment, clear=True), contextlib.chdir(self.folder):
            yield

    def call_here(self, *arguments: str) -> Finished:
        """The same in this process: in milliseconds, for what starts none and imports nothing new.

        Libraries that were imported before keep what they read of the environment then.
        """
        output, errors = io.StringIO(), io.StringIO()
        with (
            self.entered(),
            patch.object(sys, "argv", ["qbench", *arguments]),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            handler = signal.getsignal(signal.SIGTERM)
            try:
                code = run_app(app)
            finally:
                signal.signal(signal.SIGTERM, handler)
        return Finished(code, output.getvalue(), errors.getvalue())

    def records(self) -> dict[str, Record]:
        """The records under `results`, each readable, by `<cell>/<file name>`."""
        found = {}
        for path in sorted((self.folder / "results").rglob("*.json")):
            if BASELINES in path.parts:
                continue
            record = read_record(path)
            assert record is not None
            found[f"{path.parent.name}/{path.name}"] = record
        return found

    def logs(self) -> dict[str, str]:
        """The workers' logs, by cell."""
        return {
            path.parent.name: path.read_text(encoding="utf-8")
            for path in (self.folder / "results").rglob("worker.log")
        }

    def running(self) -> list[str]:
        """Processes that were started here and run now."""
        return _marked(str(self.folder))

    def survivors(self) -> list[str]:
        """Processes that were started here and live on, after a little patience."""
        deadline = time.monotonic() + _DIES_WITHIN_S
        while (found := _marked(str(self.folder))) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found


def write_text(folder: Path) -> Path:
    """Writes some text to evaluate on."""
    path = folder / "text.txt"
    lines = [f"def add_{number}(first): return first + {number}" for number in range(20)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_rows(folder: Path, count: int = 20) -> Path:
    """Writes `rows.jsonl` to train on: numbers by `name`, and by `kind` whether they are even."""
    path = folder / "rows.jsonl"
    rows = [{"name": f"number {at}", "kind": "odd" if at % 2 else "even"} for at in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def place_of(results: Path, record: Record) -> Path:
    """Where a run puts the record."""
    kind, cell = record.environment.device_kind, record.cell.slug
    return record_path(results, record.suite, kind, cell, record.item, record.key)


def keep(results: Path, record: Record) -> Path:
    """Writes the record where a run puts it."""
    path = place_of(results, record)
    write_record(path, record)
    return path


def taken(before: dict[str, Record], after: dict[str, Record]) -> set[str]:
    """Names of the records that are new or were taken again."""
    return {
        name
        for name, record in after.items()
        if name not in before or before[name].started_at != record.started_at
    }


def _marked(mark: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{MARK}={mark}\0".encode() in environment + b"\0":
            found.append(f"{process.name}: {command.decode(errors='replace')}")
    return found
