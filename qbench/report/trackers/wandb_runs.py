"""Weights & Biases: a run for each cell, in a group for the suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from qbench.core.errors import UsageError
from qbench.report.trackers.tracker import Already

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qbench.report.trackers.run import TrackedRun
    from qbench.report.trackers.told import Entry, Point

PROJECT = "qbench"
"""Unless `WANDB_PROJECT` names another one."""
STEP = "training/step"
"""What the curves of a training are drawn over."""
_SENT = "qbench/sent"
_LONGEST_NAME, _LONGEST_TAG = 128, 64
"""Letters that W&B takes; runs are told apart by their ids."""
_INIT_S = 30.0
"""That W&B may take to begin a run; its own default is 90."""


class Wandb:
    """Satisfies `Tracker`."""

    most_open = 32
    """Each time that a run is opened offline makes a folder, which is sent by itself."""

    def __init__(self) -> None:
        import wandb

        self._settings = wandb.setup().settings

    def begin(self) -> str:
        """The folder of offline runs, or the server with its project."""
        import wandb

        mode = self._settings.mode
        if self._offline:
            self._check_folder()
            return f"{self._folder} (offline: `wandb sync` sends what is there)"
        if mode == "disabled":
            raise UsageError(
                "W&B is switched off by WANDB_MODE=disabled; WANDB_MODE=offline keeps runs on disk"
            )
        if not wandb.login(prompt=False, verify=False):
            raise UsageError(
                "W&B has no API key here; `wandb login` or WANDB_API_KEY gives one,"
                " WANDB_MODE=offline keeps runs on disk"
            )
        return f"{self._settings.base_url}, project {self._project}"

    def check(self) -> None:
        """Opens no connection: the first run does."""

    def open(self, run: TrackedRun) -> WandbRun:
        """The run of the cell's id, which W&B goes on with."""
        before = self._offline_summary(run.id) if self._offline else {}
        if before:
            return WandbRun(lambda: self._init(run), before)
        made = self._init(run)
        return WandbRun(lambda: made, dict(made.summary))

    def _init(self, run: TrackedRun) -> Any:
        import wandb

        made = wandb.init(
            project=self._project,
            group=run.suite[:_LONGEST_NAME],
            id=run.id,
            name=run.name[:_LONGEST_NAME],
            job_type="report" if run.cell is None else "cell",
            tags=[run.device_kind[:_LONGEST_TAG], *(["rehearsal"] if run.rehearsal else [])],
            config={"suite": run.suite, "cell": run.cell, **run.params},
            allow_val_change=True,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                init_timeout=_INIT_S,
                disable_git=True,
                host=run.device_kind,
                save_code=False,
                silent=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        made.define_metric("training/*", step_metric=STEP)
        return made

    def _check_folder(self) -> None:
        """W&B would write into another folder, and not say so."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            raise UsageError(
                f"{self._folder}: cannot be written ({error.strerror}); name another folder with"
                " WANDB_DIR, or fix its permissions"
            ) from error

    @property
    def _offline(self) -> bool:
        return self._settings.mode in {"offline", "dryrun"}

    @property
    def _project(self) -> str:
        return self._settings.project or PROJECT

    @property
    def _folder(self) -> Path:
        return Path(self._settings.wandb_dir)

    def _offline_summary(self, run_id: str) -> dict[str, Any]:
        """What earlier processes left of a run in files: nobody else knows of it."""
        made: dict[str, Any] = {}
        for folder in sorted(self._folder.glob(f"offline-run-*-{run_id}")):
            # W&B's own reader of its files; it has none in Python.
            read = subprocess.run(
                [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", folder],
                capture_output=True,
                check=False,
                env={**os.environ, "WANDB_SILENT": "true"},
            )
            if read.returncode == 0:
                made |= json.loads(read.stdout).get("summary", {})
        return made


class WandbRun:
    """Satisfies `OpenRun`."""

    def __init__(self, make: Callable[[], Any], summary: dict[str, Any]) -> None:
        """`make` begins the run, once something is sent; `summary` is what it had before."""
        self._make = make
        sent = json.loads(summary.get(_SENT) or "{}")
        self.already = Already(
            records=sent.get("records", {}),
            steps=sent.get("steps", 0),
            validated=frozenset(sent.get("validated", ())),
            values={
                name: value for name, value in summary.items() if isinstance(value, int | float)
            },
        )

    def add(self, entry: Entry) -> None:
        """A row of the history, which W&B draws bars of; words of the summary; a file."""
        self.log(entry.numbers)
        self._run.summary.update(entry.words)
        self._run.save(entry.path, base_path=entry.path.parent, policy="now", glob=False)

    def draw(self, points: Sequence[Point]) -> None:
        """As rows of the history, over the training's steps."""
        for point in points:
            self._run.log({STEP: point.step, **point.values})

    def log(self, values: dict[str, float]) -> None:
        """As a row of the history."""
        if values:
            self._run.log(values)

    def show(self, page: Path, digest: str) -> None:
        """As an artifact, and as a panel that shows it."""
        import wandb

        artifact = wandb.Artifact(f"report-{self._run.id}", "report")
        artifact.add_file(str(page))
        self._run.log_artifact(artifact)
        self._run.log({"report": wandb.Html(str(page), inject=False)})

    def keep(self) -> None:
        """In the summary."""
        already = self.already
        sent = {
            "records": already.records,
            "steps": already.steps,
            "validated": sorted(already.validated),
        }
        self._run.summary[_SENT] = json.dumps(sent)

    def close(self) -> None:
        """The run is finished, until it is opened again."""
        if "_run" in self.__dict__:
            self._run.finish()

    @cached_property
    def _run(self) -> Any:
        return self._make()
