"""The records as they are and the decision tables made of them, as one JSON document."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qbench.record import SCHEMA_VERSION
from qbench.report.finetune_ladder import ladder_table
from qbench.report.finetune_results import results_of
from qbench.report.finetune_table import arms_table
from qbench.report.selection import select
from qbench.report.tables import decision_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.record import Record
    from qbench.report.figures import Table
    from qbench.report.selection import TableRecords
    from qbench.report.tables import Decision


def render(records: Sequence[Record]) -> str:
    """`schema_version`, all `records`, and `decision_tables` and `fine_tuning` of the newest.

    Numbers stand in the metrics' own units; what is missing is null.
    """
    selection = select(records)
    document = {
        "schema_version": SCHEMA_VERSION,
        "protocol": selection.protocol,
        "older_records": selection.older,
        "other_protocols": dict(selection.other_protocols),
        "decision_tables": [_decision(decision_table(table)) for table in selection.tables],
        "fine_tuning": [_fine_tuning(table) for table in selection.tables if table.tuned],
        # pydantic's own JSON writes what is not finite as null; json.dumps would write NaN
        "records": [json.loads(record.model_dump_json()) for record in records],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _decision(decision: Decision) -> dict[str, Any]:
    latency, memory = decision.latency_point, decision.memory_point
    return {
        "suite": decision.suite,
        "device": decision.device,
        "model": decision.model,
        "reference": decision.reference,
        "latency_point": latency.item.slug if latency else None,
        "memory_point": memory.item.slug if memory else None,
        **_table(decision.table),
    }


def _fine_tuning(records: TableRecords) -> dict[str, Any]:
    results = results_of(records)
    return {
        "suite": records.suite,
        "device": records.device,
        "model": records.model,
        "arms": _table(arms_table(results)),
        "deployments": _table(ladder_table(records, results)),
    }


def _table(table: Table) -> dict[str, Any]:
    return {
        "columns": {
            column.key: {
                "title": column.title,
                "better": column.better,
                "definition": column.definition,
            }
            for column in table.columns
        },
        "rows": [
            {
                table.stub: row.label,
                "reference": row.reference,
                "figures": {
                    column.key: asdict(figure)
                    for column, figure in zip(table.columns, row.figures, strict=True)
                },
            }
            for row in table.rows
        ],
    }
