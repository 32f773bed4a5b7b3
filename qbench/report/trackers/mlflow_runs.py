"""MLflow: an experiment for a suite, a run for each cell below one that has the report's page."""

from __future__ import annotations

import json
import os
import re
import tempfile
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.report.trackers.told import STEP_LOSS, VALIDATION_LOSS
from qbench.report.trackers.tracker import Already

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

    from qbench.report.trackers.run import TrackedRun
    from qbench.report.trackers.told import Entry, Point

ID_TAG = "qbench.id"
"""By which the run of a cell is found again."""
_SENT = "qbench-sent.json"
_MOST_METRICS, _MOST_PARAMS, _LONGEST_VALUE = 1000, 100, 6000
"""Of one call, and letters of a parameter; see `mlflow.utils.validation`."""


class Mlflow:
    """Satisfies `Tracker`."""

    most_open = 1

    def __init__(self) -> None:
        import mlflow

        uri = mlflow.get_tracking_uri()
        chosen = "MLFLOW_TRACKING_URI" in os.environ
        if not chosen and uri.startswith("sqlite:") and find_spec("sqlalchemy") is None:
            # MLflow's own default, of which mlflow-skinny has no driver.
            uri = Path("mlruns").resolve().as_uri()
        if uri.startswith("file:") or "://" not in uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._uri = uri
        self._experiments: dict[str, str] = {}
        self._parents: dict[TrackedRun, str] = {}

    def begin(self) -> str:
        """The tracking URI."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
        return self._uri if name is None else f"{self._uri}, experiment {name}"

    def check(self) -> None:
        """Asks for an experiment."""
        self._client().search_experiments(max_results=1)

    def open(self, run: TrackedRun) -> MlflowRun:
        """The run with the cell's id among its tags."""
        client = self._client()
        experiment = self._experiment(client, run.suite)
        tags = {"qbench.suite": run.suite, "qbench.device_kind": run.device_kind}
        if run.cell is not None:
            if run.report not in self._parents:
                parent = _found_or_made(client, experiment, run.report, {})
                client.set_terminated(parent.info.run_id)
                self._parents[run.report] = parent.info.run_id
            tags |= {"mlflow.parentRunId": self._parents[run.report], "qbench.cell": run.cell}
        found = _found_or_made(client, experiment, run, tags)
        return MlflowRun(client, found, run)

    def _client(self) -> MlflowClient:
        from mlflow.tracking import MlflowClient

        return MlflowClient(self._uri)

    def _experiment(self, client: MlflowClient, suite: str) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or suite
        if name not in self._experiments:
            found = client.get_experiment_by_name(name)
            made = client.create_experiment(name) if found is None else found.experiment_id
            self._experiments[name] = made
        return self._experiments[name]


class MlflowRun:
    """Satisfies `OpenRun`."""

    def __init__(self, client: MlflowClient, found: Run, run: TrackedRun) -> None:
        self._client = client
        self._id = found.info.run_id
        client.update_run(self._id, status="RUNNING")
        self._set_params(found, run)
        self.already = self._read_already(found)

    def add(self, entry: Entry) -> None:
        """An artifact below `records`, tags, and metrics at the time that they were taken."""
        stamp = _milliseconds(entry.taken)
        # Metrics last: only they would be there twice if one of these failed and all is sent again.
        self._client.log_artifact(self._id, str(entry.path), "records")
        self._tag(entry.words)
        self._log(_metric(name, value, stamp, entry.step) for name, value in entry.numbers.items())

    def draw(self, points: Sequence[Point]) -> None:
        """As metrics by step."""
        stamp = _milliseconds(None)
        self._log(
            _metric(name, value, stamp, point.step)
            for point in points
            for name, value in point.values.items()
        )

    def log(self, values: dict[str, float]) -> None:
        """As metrics."""
        stamp = _milliseconds(None)
        self._log(_metric(name, value, stamp, 0) for name, value in values.items())

    def show(self, page: Path, digest: str) -> None:
        """As an artifact, which MLflow shows."""
        self._client.log_artifact(self._id, str(page), "report")

    def keep(self) -> None:
        """In an artifact; the curves say themselves how far they are."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / _SENT
            path.write_text(json.dumps(self.already.records, indent=1), encoding="utf-8")
            self._client.log_artifact(self._id, str(path))

    def close(self) -> None:
        """The run is finished, until it is opened again."""
        self._client.set_terminated(self._id)

    def _log(self, metrics: Iterable[Metric]) -> None:
        made = list(metrics)
        for start in range(0, len(made), _MOST_METRICS):
            self._client.log_batch(self._id, metrics=made[start : start + _MOST_METRICS])

    def _set_params(self, found: Run, run: TrackedRun) -> None:
        """A parameter never changes: what has, such as a version, becomes a tag beside it."""
        from mlflow.entities import Param

        there = found.data.params
        told = {_key(name): str(value)[:_LONGEST_VALUE] for name, value in run.params.items()}
        new = [Param(name, value) for name, value in told.items() if name not in there]
        for start in range(0, len(new), _MOST_PARAMS):
            self._client.log_batch(self._id, params=new[start : start + _MOST_PARAMS])
        self._tag(
            {
                f"now/{name}": value
                for name, value in told.items()
                if there.get(name, value) != value
            }
        )

    def _tag(self, words: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(_key(name), text[:_LONGEST_VALUE]) for name, text in words.items()]
        for start in range(0, len(tags), _MOST_PARAMS):
            self._client.log_batch(self._id, tags=tags[start : start + _MOST_PARAMS])

    def _read_already(self, found: Run) -> Already:
        values = found.data.metrics
        already = Already(values=dict(values))
        if STEP_LOSS in values:
            steps = self._client.get_metric_history(self._id, STEP_LOSS)
            already.steps = 1 + max(metric.step for metric in steps)
        if VALIDATION_LOSS in values:
            history = self._client.get_metric_history(self._id, VALIDATION_LOSS)
            already.validated = frozenset(metric.step for metric in history)
        if any(file.path == _SENT for file in self._client.list_artifacts(self._id)):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(self._client.download_artifacts(self._id, _SENT, folder))
                already.records = json.loads(path.read_text(encoding="utf-8"))
        return already


def _found_or_made(
    client: MlflowClient, experiment: str, run: TrackedRun, tags: dict[str, str]
) -> Run:
    found = client.search_runs([experiment], f"tags.`{ID_TAG}` = '{run.id}'", max_results=1)
    if found:
        return found[0]
    name = run.name if run.cell is not None else f"{run.suite}: {run.name}"
    return client.create_run(experiment, tags={**tags, ID_TAG: run.id}, run_name=name)


def _metric(name: str, value: float, stamp: int, step: int) -> Any:
    from mlflow.entities import Metric

    return Metric(_key(name), value, stamp, step)


def _key(name: str) -> str:
    """The name as MLflow takes it: letters, digits, `_`, `-`, `.`, `:`, `/` and spaces."""
    return re.sub(r"[^\w.\- :/]", "-", name)[:250]


def _milliseconds(at: str | None) -> int:
    when = datetime.now().astimezone() if at is None else datetime.fromisoformat(at)
    return round(when.timestamp() * 1000)
