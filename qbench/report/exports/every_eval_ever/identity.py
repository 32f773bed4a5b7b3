"""Who is told of in a log: the model with its developer, and who measured it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from qbench.compare.comparable import fingerprint
from qbench.core.spec import slugify
from qbench.core.unchecked import as_mapping
from qbench.report.exports.described import (
    commit_of,
    described_cell,
    described_conditions,
    model_name,
)
from qbench.report.exports.tree import strings

if TYPE_CHECKING:
    from qbench.core.record import Record
    from qbench.core.spec import Cell
    from qbench.report.exports.chosen import ExportedCell

Relationship = Literal["first_party", "third_party", "collaborative", "other"]
RELATIONSHIPS: tuple[str, ...] = get_args(Relationship)
UNSTATED = "unknown"
_OF_QBENCH = "qbench"
"""Developer of the models that ship with qbench."""
_OF_PRECISION = ("quantized_share", "dtype", "compute_dtype", "attention")
"""What was really loaded, among a record's details."""


@dataclass(frozen=True)
class Evaluator:
    """Who exports, as far as a person says it: records hold nothing of it."""

    organization: str = UNSTATED
    relationship: str = "other"
    """To the developer of the model."""
    developer: str | None = None
    """Of models that no hub names one of."""


def model_id(cell: Cell, evaluator: Evaluator) -> tuple[str, str] | None:
    """Developer and model; None where nobody says who made it.

    A tuned model is another than its base, made by who tuned it.
    """
    model, name = cell.model, slugify(cell.model.name)
    if cell.tuning is not None:
        name = f"{name}--{slugify(cell.tuning.label)}"
    elif model.kind == "hub" and "/" in model.location:
        developer, _, rest = model.location.partition("/")
        return developer, rest
    made_by = _OF_QBENCH if model.kind == "bundled" else evaluator.developer
    return None if made_by is None else (made_by, name)


def model_info(one: ExportedCell, record: Record, named: tuple[str, str]) -> dict[str, Any]:
    """The model and what it is held in; precisions are no part of its id."""
    cell, conditions = record.cell, described_conditions(record)
    versions = record.environment.versions
    held = (as_mapping(each.details.get("loaded")) for each in one.cell.records)
    loaded = next(filter(None, held), {})
    engine = versions.get("transformers")
    return {
        "name": cell.slug,
        "id": "/".join(named),
        "developer": named[0],
        **(
            {}
            if engine is None
            else {"inference_engine": {"name": "transformers", "version": engine}}
        ),
        "additional_details": {
            "deployment_type": "self_deployed",
            "model_availability": "open_weights" if cell.model.kind == "bundled" else UNSTATED,
            **strings(
                {
                    **described_cell(cell),
                    "base_model": model_name(cell.model),
                    "revision": commit_of(record) or cell.model.revision,
                    "fingerprint": fingerprint(record),
                    **{name: loaded.get(name) for name in _OF_PRECISION},
                    **conditions,
                }
            ),
        },
    }


def source_metadata(evaluator: Evaluator, suite: str) -> dict[str, Any]:
    """Who measured, with which program."""
    return {
        "source_name": "qbench",
        "source_type": "evaluation_run",
        "source_organization_name": evaluator.organization,
        "evaluator_relationship": evaluator.relationship,
        "additional_details": {"suite": suite},
    }
