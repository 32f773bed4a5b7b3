"""Records with the decision tables made of them, and what any page tells, as JSON documents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qbench.compare.recommend.tables import recommendations
from qbench.compare.selection import select
from qbench.compare.stated import NOTHING
from qbench.compare.tuned.arms import arms_of
from qbench.core.page_data import finite, table_data
from qbench.core.record import SCHEMA_VERSION
from qbench.measures.field_names import definitions
from qbench.report.costs import cost_tables, training_cost_table
from qbench.report.crossovers import crossover_data
from qbench.report.decision import decision_table
from qbench.report.details import detail_tables
from qbench.report.differences import difference_table
from qbench.report.energy import energy_tables
from qbench.report.finetune.deployments import deployments_table
from qbench.report.finetune.qat import won_back, won_back_table
from qbench.report.finetune.results import results_of
from qbench.report.finetune.section import tuned_details
from qbench.report.finetune.table import arms_table
from qbench.report.frontier import frontier_tables
from qbench.report.interactions import sums
from qbench.report.recommendation_data import recommendation_data
from qbench.report.sensitivity import sensitivity_tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.compare.price import Price
    from qbench.compare.selection import TableRecords
    from qbench.compare.stated import Stated
    from qbench.core.page import Page, Table
    from qbench.core.record import Record


def render(records: Sequence[Record], stated: Mapping[str, Stated] | None = None) -> str:
    """`schema_version`, all `records`, and `decision_tables` and `fine_tuning` of the newest.

    Each decision table has its `differences` from the reference, the `crossovers` (from how many
    rows on linear layers are slower than bf16), and the `details` behind it; where sensitivities
    and mixes were measured, their tables are in `sensitivities`, `interactions` and `mixes`.
    `recommendations` are those under the budget that the suite states, else the default one: see
    `qbench.report.recommendation_data`. Where an hour has a price, there are `costs`;
    where energy was told there is `energy`, in grams of CO₂ too where the suite has a factor.
    `metrics` says what each metric of the records is, and what else it is called.

    Numbers stand in the metrics' own units; what is missing is null.
    """
    selection = select(records)

    def holds(table: TableRecords) -> Stated:
        return (stated or {}).get(table.suite, NOTHING)

    document = {
        "schema_version": SCHEMA_VERSION,
        "protocol": selection.protocol,
        "older_records": selection.older,
        "other_protocols": dict(selection.other_protocols),
        "other_weights": selection.other_weights,
        "recommendations": [
            finite(recommendation_data(table, found))
            for table in selection.tables
            for found in recommendations(table, holds(table)).every
        ],
        "decision_tables": [
            finite(_decision(table, holds(table).price)) for table in selection.tables
        ],
        "costs": [finite(one) for table in selection.tables for one in _costs(table, holds(table))],
        "energy": [
            finite(one) for table in selection.tables for one in _energy(table, holds(table))
        ],
        "fine_tuning": [finite(_fine_tuning(table)) for table in selection.tables if table.tuned],
        "metrics": _metrics(records),
        # pydantic's own JSON writes what is not finite as null; json.dumps would write NaN
        "records": [json.loads(record.model_dump_json()) for record in records],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _metrics(records: Sequence[Record]) -> dict[str, Any]:
    """The definitions of the metrics in the records; those that are not known here are left out."""
    names = dict.fromkeys(metric.name for record in records for metric in record.metrics)
    known = definitions()
    return {
        name: known[name].model_dump(mode="json", exclude={"name", "varies_by"})
        for name in names
        if name in known
    }


def page_json(page: Page) -> str:
    """What a page tells, for programs; of ASCII alone, so that any terminal can hand it on."""
    return json.dumps(finite(page.data), indent=2, allow_nan=False) + "\n"


def _costs(records: TableRecords, stated: Stated) -> list[dict[str, Any]]:
    """What a table's cells and trainings cost at each point; nothing without a price."""
    price = stated.price
    tables = cost_tables(records, price)
    if price is not None and records.tuned:
        tables.append(training_cost_table(arms_of(records), price))
    where = {"suite": records.suite, "device": records.device, "model": records.model}
    return [{**where, **one} for one in _titled(tables)]


def _energy(records: TableRecords, stated: Stated) -> list[dict[str, Any]]:
    """What a table's cells and trainings draw, and emit."""
    where = {"suite": records.suite, "device": records.device, "model": records.model}
    return [{**where, **one} for one in _titled(energy_tables(records, stated.co2))]


def _decision(records: TableRecords, price: Price | None) -> dict[str, Any]:
    decision, differences = decision_table(records, price), difference_table(records)
    latency, memory = decision.latency_point, decision.memory_point
    return {
        "suite": records.suite,
        "device": records.device,
        "model": records.model,
        "reference": decision.reference,
        "latency_point": latency.item.slug if latency else None,
        "memory_point": memory.item.slug if memory else None,
        **table_data(decision.table),
        "differences": None if differences is None else table_data(differences),
        "crossovers": crossover_data(records),
        "sensitivities": _titled(sensitivity_tables(records)),
        "interactions": _titled(one.table for one in sums(records)),
        "mixes": _titled(frontier_tables(records)),
        "details": _titled(detail_tables(records)),
    }


def _fine_tuning(records: TableRecords) -> dict[str, Any]:
    results = results_of(records)
    compared = won_back(results)
    return {
        "suite": records.suite,
        "device": records.device,
        "model": records.model,
        "arms": table_data(arms_table(results)),
        "deployments": table_data(deployments_table(records, results)),
        "qat": table_data(won_back_table(compared, results.test_slug)) if compared else None,
        "details": _titled(tuned_details(records)),
    }


def _titled(tables: Iterable[Table]) -> list[dict[str, Any]]:
    return [{"title": table.title, **table_data(table)} for table in tables]
