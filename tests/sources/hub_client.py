"""Asks for models and data in a process of its own: the hub's library reads its settings once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qbench

PROGRAM = """
import json, sys
from pathlib import Path
from qbench.core.errors import UsageError
from qbench.sources.models.resolve import fetch_model, parse_model, resolve_model
from qbench.sources.data.texts import read_text, resolve_text
from qbench.sources.data.tuning import TuningDataOptions, load_splits, resolve_tuning_data

def model(source):
    found = resolve_model(parse_model(source, base=Path("/")))
    fetched = fetch_model(found) if "--fetch" in sys.argv else None
    return [found.model_dump(mode="json"), str(fetched)]

def text(source):
    return read_text(resolve_text(source, base=Path("/")))

def rows(source):
    options = TuningDataOptions(dataset=source, train=8, validation=2, test=2)
    splits = load_splits(resolve_tuning_data(options, base=Path("/")))
    return [[one.prompt, one.completion] for one in (*splits.train, *splits.test)]

answers = []
for kind, source in json.loads(sys.argv[1]):
    try:
        answers.append({"model": model, "text": text, "rows": rows}[kind](source))
    except UsageError as error:
        answers.append(str(error))
print(json.dumps(answers))
assert "torch" not in sys.modules or "--data" in sys.argv
"""


@dataclass(frozen=True)
class HubClient:
    """A machine with a cache of its own; it answers as JSON, or with the error's message."""

    folder: Path

    def environment(self, endpoint: str, *, offline: bool = False) -> dict[str, str]:
        """Settings of a process that asks the hub at an address."""
        known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return known | {
            "PYTHONPATH": str(Path(qbench.__file__).parent.parent),
            "HF_HOME": str(self.folder / "hub"),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "QBENCH_CACHE": str(self.folder / "cache"),
            "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1",
        }

    def ask(
        self, endpoint: str, *sources: str, fetch: bool = False, offline: bool = False
    ) -> list[Any]:
        """Resolves models, and fetches them: each as JSON with its folder."""
        options = ["--fetch"] if fetch else []
        return self._run(endpoint, [("model", one) for one in sources], options, offline=offline)

    def read(self, endpoint: str, kind: str, *sources: str, offline: bool = False) -> list[Any]:
        """Reads texts (`text`) or rows to tune on (`rows`)."""
        asked = [(kind, source) for source in sources]
        return self._run(endpoint, asked, ["--data"], offline=offline)

    def _run(
        self, endpoint: str, asked: list[tuple[str, str]], options: list[str], *, offline: bool
    ) -> list[Any]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(asked), *options],
            env=self.environment(endpoint, offline=offline),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        # The library for data sets says on the standard error what it takes from its cache.
        assert done.stderr == "" or "--data" in options
        answers: list[Any] = json.loads(done.stdout)
        return answers


def closed_port() -> str:
    """The address of a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
