"""The trackers that records can be sent to: one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.errors import UsageError
from qbench.core.names import what_there_is
from qbench.core.packages import missing_packages
from qbench.report.trackers.tracker import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.report.trackers.tracker import Tracker


def _mlflow() -> Tracker:
    from qbench.report.trackers.mlflow_runs import Mlflow

    return Mlflow()


def _wandb() -> Tracker:
    from qbench.report.trackers.wandb_runs import Wandb

    return Wandb()


def _trackio() -> Tracker:
    from qbench.report.trackers.trackio_runs import Trackio

    return Trackio()


TRACKERS = {
    kind.name: kind
    for kind in (
        Kind(
            "mlflow",
            "mlflow-skinny",
            "MLflow, by MLFLOW_TRACKING_URI",
            _mlflow,
            {
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
                "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
            },
        ),
        Kind(
            "wandb",
            "wandb",
            "Weights & Biases, by WANDB_MODE and WANDB_PROJECT",
            _wandb,
            {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"},
        ),
        Kind(
            "trackio",
            "trackio",
            "Trackio, by TRACKIO_DIR or TRACKIO_SPACE_ID",
            _trackio,
            {"HF_HUB_DISABLE_TELEMETRY": "1"},
        ),
    )
}


def parse_trackers(texts: Iterable[str], option: str) -> list[Kind]:
    """The trackers that are named, each once, by one or several in a text with commas.

    Raises `UsageError` for an unknown one, and for one whose package is not installed.
    """
    names = [name.strip() for text in texts for name in text.split(",")]
    chosen: dict[str, Kind] = {}
    for name in filter(None, names):
        kind = TRACKERS.get(name)
        if kind is None:
            raise UsageError(f"{option}: no tracker {name!r}; {what_there_is(name, TRACKERS)}")
        missing = missing_packages((kind.package,))
        if missing is not None:
            raise UsageError(f"{option} {name}: {missing}")
        chosen[name] = kind
    return list(chosen.values())
