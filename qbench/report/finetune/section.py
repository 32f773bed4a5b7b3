"""The section on fine-tuning of the report, and what stands behind it in the details."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.compare.tuned.arms import arms_of
from qbench.core.page import Fold, Heading, Words, bullets
from qbench.report.charts.tuning import (
    arm_charts,
    curve_charts,
    deployment_charts,
    step_memory_charts,
)
from qbench.report.costs import training_cost_parts
from qbench.report.details import detail_tables
from qbench.report.finetune.curves import curves_table
from qbench.report.finetune.deployments import deployments_table
from qbench.report.finetune.memory import adapters_table, memory_table
from qbench.report.finetune.options import describe_data, options_table, shared_options
from qbench.report.finetune.qat import TITLE as QAT_TITLE
from qbench.report.finetune.qat import won_back, won_back_table
from qbench.report.finetune.qat_lacking import qat_words
from qbench.report.finetune.results import results_of, test_split_items
from qbench.report.finetune.table import arms_table
from qbench.report.finetune.words import how_judged, told
from qbench.report.generations import side_by_side
from qbench.report.legend import explained, lacking_intervals, missing_values, titled
from qbench.report.recommendation import recommendation_parts
from qbench.report.roofline import HOW_TO_READ, training_roofline_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.price import Price
    from qbench.compare.recommend.recommend import Recommendation
    from qbench.compare.selection import TableRecords
    from qbench.compare.tuned.arms import Arm
    from qbench.core.page import Part, Table

_PROMPTS_SHOWN = 3
_DETAILS = "Tuned models: how they were trained, and all that was measured of them"
_MEMORY = (
    "Weights, states and gradients are counted from their tensors, activations predicted from"
    " shapes; what is unexplained is the measured peak less all of them."
)
_ADAPTERS = (
    "A further adapter takes what its tensors take; switching keeps all of them on the device."
    " Stored in 8 or 4 bits an adapter is dequantized when it is loaded: what that costs is"
    " measured as a deployment of its own."
)


def finetune_parts(
    records: TableRecords,
    what_to_train: Recommendation | None = None,
    price: Price | None = None,
    *,
    several: bool,
) -> list[Part]:
    """Parts of the page; none where nothing was tuned. `several`: of more than one table."""
    if not records.tuned:
        return []
    results = results_of(records)
    arms = [one.arm for one in results.arms]
    where = f": {records.model} on {records.device}" if several else ""
    parts: list[Part] = [
        Heading(f"Fine-tuning{where}"),
        *(recommendation_parts(what_to_train) if what_to_train else []),
        *told(results),
        *arm_charts(results),
        *_explained(arms_table(results)),
        Words(how_judged()),
    ]
    memory = memory_table(arms)
    compared = won_back(results)
    words = qat_words(results, compared)
    if compared or words:
        parts += [Heading(QAT_TITLE, 3), Words(words)]
    if compared:
        parts += _explained(won_back_table(compared, results.test_slug))
    parts += titled(memory, _MEMORY, pictures=step_memory_charts(memory))
    parts += titled(training_roofline_table(arms), HOW_TO_READ)
    parts += training_cost_parts(arms, price)
    parts += titled(curves_table(arms, results.test_slug), pictures=curve_charts(arms))
    deployments = deployments_table(records, results)
    if deployments.rows:
        parts.append(Heading(deployments.title, 3))
        parts += [*deployment_charts(records, results), *_explained(deployments)]
    parts += titled(adapters_table(arms), _ADAPTERS)
    return [*parts, *_generation_parts(records, arms)]


def finetune_details(records: TableRecords, level: int) -> list[Part]:
    """Everything measured of the tuned models, and how they were trained, folded away."""
    if not records.tuned:
        return []
    arms = arms_of(records)
    options = options_table(arms)
    parts: list[Part] = [
        Heading(options.title, level),
        options,
        Words(f"All arms: {shared_options(arms)}."),
        Words(f"Data: {describe_data(arms) or 'no record says'}."),
    ]
    for table in tuned_details(records):
        parts += [Heading(f"Tuned: {table.title}", level), table]
        parts.append(bullets(lacking_intervals(table)))
    return [Fold(_DETAILS, tuple(parts))]


def tuned_details(records: TableRecords) -> list[Table]:
    """The detail tables of the tuned models as they are served, below the reference."""
    reference = [cell for cell in records.cells if cell.reference]
    served = [cell for cell in records.tuned if not cell.is_training]
    found = detail_tables(replace(records, cells=(*reference, *served), tuned=()))
    return [replace(table, stub="cell") for table in found]


def _explained(table: Table) -> list[Part]:
    return explained(table, missing_values(table))


def _generation_parts(records: TableRecords, arms: Sequence[Arm]) -> list[Part]:
    """The reference beside one cell of each arm, for the first prompts of the test split."""
    cells = [cell for cell in records.cells if cell.reference]
    cells += [arm.shown[0] for arm in arms if arm.shown]
    heading = Heading("Base and tuned, side by side: prompts of the test split", 3)
    return [
        part
        for slug in test_split_items(cells)
        for part in side_by_side(cells, slug, heading, prompts_shown=_PROMPTS_SHOWN)
    ]
