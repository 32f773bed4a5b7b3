"""Trackio: a project for a suite, a run for each cell."""

from __future__ import annotations

import os
import re
import warnings
from typing import TYPE_CHECKING, Any

from qbench.core.errors import QbenchError
from qbench.core.record import content_key
from qbench.core.spec import slugify
from qbench.report.trackers.told import STEP_LOSS, VALIDATION_LOSS
from qbench.report.trackers.tracker import Already

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.report.trackers.run import TrackedRun
    from qbench.report.trackers.told import Entry, Point

KEY, TAKEN = "qbench/record", "qbench/taken"
"""In the row of a record its key, and when it was taken; in that of a page its name and digest."""


_LONGEST_NAME = 150
"""Letters of the names of projects and runs, which Trackio makes files and folders of."""


class NotTakenError(QbenchError):
    """Trackio could not keep what it was given: it warns of that and goes on."""


class Trackio:
    """Satisfies `Tracker`."""

    most_open = 1

    def __init__(self) -> None:
        from trackio import utils

        self._told = _Warnings()
        self._folder = utils.TRACKIO_DIR
        self._space, self._server = utils.resolve_space_id_and_server_url(None, None)

    def begin(self) -> str:
        """The space, the server, or the folder."""
        if self._space is not None:
            return f"the Hugging Face space {self._space}"
        if self._server is not None:
            return self._server.partition("?")[0]  # what stands behind it is a token
        return str(self._folder)

    def check(self) -> None:
        """Opens no connection: the first run does."""
        if self._space is None and self._server is None:
            self._folder.mkdir(parents=True, exist_ok=True)

    def open(self, run: TrackedRun) -> TrackioRun:
        """The run of the cell's name, which Trackio goes on with."""
        import trackio

        project, name = _as_file(slugify(run.suite)), _as_file(run.name)
        made = trackio.init(
            project=project,
            name=name,
            group=run.device_kind,
            config={"suite": run.suite, "rehearsal": run.rehearsal, **run.params},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._told.check()
        return TrackioRun(made, self._rows(project, name, made.id), self._told)

    def _rows(self, project: str, name: str, run_id: str) -> list[dict[str, Any]]:
        """What an earlier process logged."""
        remote = self._space or self._server
        if remote is None:
            from trackio.sqlite_storage import SQLiteStorage

            return SQLiteStorage.get_logs(project, name, run_id=run_id)
        from huggingface_hub import get_token
        from trackio.remote_client import RemoteClient
        from trackio.utils import parse_trackio_server_url

        token = None if self._space else parse_trackio_server_url(remote)[1]
        client = RemoteClient(
            remote,
            hf_token=get_token() if self._space else None,
            write_token=token or os.environ.get("TRACKIO_WRITE_TOKEN"),
            verbose=False,
        )
        rows = client.predict(api_name="/get_logs", project=project, run=name, run_id=run_id)
        return list(rows or ())


class TrackioRun:
    """Satisfies `OpenRun`."""

    def __init__(self, made: Any, rows: Sequence[dict[str, Any]], told: _Warnings) -> None:
        """`rows`: what the run had before."""
        self._run = made
        self._told = told
        steps = [row["step"] for row in rows if STEP_LOSS in row]
        self.already = Already(
            records={row[KEY]: row[TAKEN] for row in rows if KEY in row},
            steps=1 + max(steps) if steps else 0,
            validated=frozenset(row["step"] for row in rows if VALIDATION_LOSS in row),
            values={
                name: value
                for row in rows
                for name, value in row.items()
                if isinstance(value, int | float)
            },
        )

    def add(self, entry: Entry) -> None:
        """A row with the record's key, and an artifact."""
        self._attach(entry.path, f"{entry.path.parent.name}-{entry.path.stem}", "record")
        self._log({**entry.numbers, **entry.words, KEY: entry.key, TAKEN: entry.taken})

    def draw(self, points: Sequence[Point]) -> None:
        """As a row a step."""
        for point in points:
            self._log(point.values, step=point.step)

    def log(self, values: dict[str, float]) -> None:
        """As a row."""
        self._log(values)

    def show(self, page: Path, digest: str) -> None:
        """As an artifact, and as a page among the media."""
        import trackio

        self._attach(page, page.stem, "report")
        self._log({"report": trackio.Html(page, inject=False), KEY: page.name, TAKEN: digest})

    def keep(self) -> None:
        """The rows say themselves what is there."""

    def close(self) -> None:
        """Waits until all is written."""
        self._run.finish()
        self._told.check()

    def _attach(self, path: Path, name: str, kind: str) -> None:
        self._run.log_artifact(path, name=re.sub(r"[^A-Za-z0-9._-]", "-", name), type=kind)

    def _log(self, values: dict[str, Any], step: int | None = None) -> None:
        self._run.log(values, step=step)
        self._told.check()


def _as_file(name: str) -> str:
    """The name; of one that is too long for a file's the beginning, with a digest of all."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{content_key({'name': name})}"


class _Warnings:
    """Trackio warns, in threads of its own, of what it cannot keep, and goes on."""

    def __init__(self) -> None:
        """From now on no warning of this process is shown."""
        self._told: list[str] = []
        warnings.simplefilter("always")
        warnings.showwarning = self._show

    def check(self) -> None:
        """Raises `NotTakenError` with the first warning since it was called last."""
        told, self._told = self._told, []
        if told:
            raise NotTakenError(told[0])

    def _show(
        self, message: Warning | str, category: type[Warning], *_: object, **__: object
    ) -> None:
        if issubclass(category, UserWarning):
            self._told.append(str(message))
