"""How an export tells of a cell: what it is and the conditions it was measured under.

Without paths: where files lie on the machine that measured is nothing that is given away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.unchecked import as_mapping

if TYPE_CHECKING:
    from qbench.core.record import Record
    from qbench.core.spec import Cell, ModelRef


def model_name(model: ModelRef) -> str:
    """What a model is found by: the hub's id, else its name in the suite, never a path."""
    return model.location if model.kind == "hub" else model.name


def commit_of(record: Record) -> str | None:
    """The hub's commit hash of the model; None of a local one."""
    told = as_mapping(record.identity.get("model")).get("revision")
    return None if told is None else str(told)


def described_cell(cell: Cell) -> dict[str, Any]:
    """Its precision with all options, its cache, and how it was tuned and is served."""
    tuning = cell.tuning
    return {
        "cell": cell.slug,
        "label": cell.label,
        "precision": cell.precision.name,
        "precision_options": cell.precision.options_by_contents,
        "kv_cache": cell.kv_cache,
        "tuning": None
        if tuning is None
        else {
            "label": tuning.label,
            "method": tuning.method,
            "trained_in": tuning.precision.label,
            "seed": tuning.seed,
            "deploy": cell.deploy,
        },
    }


def described_conditions(record: Record) -> dict[str, Any]:
    """The device and the programs that it was measured with."""
    environment = record.environment
    return {
        "qbench": environment.qbench,
        "protocol": record.protocol,
        "device": environment.device,
        "device_kind": environment.device_kind,
        "threads": environment.threads,
        "platform": environment.platform,
        "python": environment.python,
        "cuda": environment.cuda,
        "driver": environment.driver,
        "versions": environment.versions,
    }
