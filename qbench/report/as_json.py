"""The records as they are and the decision tables made of them, as one JSON document."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qbench.record import SCHEMA_VERSION
from qbench.report.selection import select
from qbench.report.tables import decision_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.record import Record
    from qbench.report.tables import Decision


def render(records: Sequence[Record]) -> str:
    """`schema_version`, `records` (all that were given) and `decision_tables` (of the newest).

    Numbers stand in the metrics' own units; what is missing is null.
    """
    selection = select(records)
    document = {
        "schema_version": SCHEMA_VERSION,
        "protocol": selection.protocol,
        "older_records": selection.older,
        "other_protocols": dict(selection.other_protocols),
        "decision_tables": [_decision(decision_table(table)) for table in selection.tables],
        # pydantic's own JSON writes what is not finite as null; json.dumps would write NaN
        "records": [json.loads(record.model_dump_json()) for record in records],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _decision(decision: Decision) -> dict[str, Any]:
    columns = decision.table.columns
    latency, memory = decision.latency_point, decision.memory_point
    return {
        "suite": decision.suite,
        "device": decision.device,
        "model": decision.model,
        "reference": decision.reference,
        "latency_point": latency.item.slug if latency else None,
        "memory_point": memory.item.slug if memory else None,
        "columns": {
            column.key: {
                "title": column.title,
                "better": column.better,
                "definition": column.definition,
            }
            for column in columns
        },
        "rows": [
            {
                "precision": row.label,
                "reference": row.reference,
                "figures": {
                    column.key: asdict(figure)
                    for column, figure in zip(columns, row.figures, strict=True)
                },
            }
            for row in decision.table.rows
        ],
    }
