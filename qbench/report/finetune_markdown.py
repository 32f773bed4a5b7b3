"""The section on fine-tuning of the markdown page, and what stands behind it in the details."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.report.details import detail_tables
from qbench.report.figures import NO_VALUE, NOT_MEASURED
from qbench.report.finetune_arms import arms_of
from qbench.report.finetune_curves import curves_table
from qbench.report.finetune_ladder import ladder_table
from qbench.report.finetune_memory import adapters_table, memory_table
from qbench.report.finetune_options import describe_data, options_table, shared_options
from qbench.report.finetune_qat import TITLE as QAT_TITLE
from qbench.report.finetune_qat import won_back, won_back_table, won_back_words
from qbench.report.finetune_qat_lacking import without_counterpart
from qbench.report.finetune_results import results_of, test_split_items
from qbench.report.finetune_table import arms_table
from qbench.report.finetune_words import how_judged, paragraph
from qbench.report.generations import side_by_side
from qbench.report.markdown_parts import bullets, escape
from qbench.report.markdown_tables import legend_of_marks, table_source
from qbench.report.roofline import HOW_TO_READ, training_roofline_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.report.figures import Table
    from qbench.report.finetune_arms import Arm
    from qbench.report.selection import TableRecords

_PROMPTS_SHOWN = 3
_DETAILS = "Tuned models: how they were trained, and all that was measured of them"
_MEMORY = (
    "Weights, states and gradients are counted from their tensors, activations predicted from"
    " shapes; what is unexplained is the measured peak less all of them."
)
_ADAPTERS = (
    "A further adapter takes what its tensors take; switching keeps all of them on the device."
    " Stored in 8 or 4 bits an adapter is dequantized when it is loaded: what that costs is a rung"
    " of the ladder."
)


def finetune_blocks(records: TableRecords, *, several: bool) -> list[str]:
    """Blocks of markdown; none where nothing was tuned. `several`: of more than one table."""
    if not records.tuned:
        return []
    results = results_of(records)
    arms = [one.arm for one in results.arms]
    where = f": {records.model} on {records.device}" if several else ""
    blocks = [
        f"## Fine-tuning{escape(where)}",
        escape(paragraph(results)),
        *_explained(arms_table(results)),
        escape(how_judged()),
    ]
    compared = won_back(results)
    lacking = without_counterpart(results, compared)
    if compared or lacking:
        words = f"{won_back_words(compared)} {lacking}".strip()
        blocks += [f"### {escape(QAT_TITLE)}", escape(words)]
    if compared:
        blocks += _explained(won_back_table(compared, results.test_slug))
    blocks += _titled(memory_table(arms), _MEMORY)
    blocks += _titled(training_roofline_table(arms), HOW_TO_READ)
    blocks += _titled(curves_table(arms, results.test_slug))
    ladder = ladder_table(records, results)
    if ladder.rows:
        blocks += [f"### {escape(ladder.title)}", *_explained(ladder)]
    blocks += _titled(adapters_table(arms), _ADAPTERS)
    return [*blocks, *_generation_blocks(records, arms)]


def finetune_detail_blocks(records: TableRecords, level: str) -> list[str]:
    """Everything measured of the tuned models, and how they were trained, collapsed."""
    if not records.tuned:
        return []
    arms = arms_of(records)
    reference = [cell for cell in records.cells if cell.reference]
    served = [cell for cell in records.tuned if not cell.is_training]
    options = options_table(arms)
    blocks = [
        f"<details><summary>{_DETAILS}</summary>",
        f"{level} {escape(options.title)}",
        table_source(options),
        f"All arms: {escape(shared_options(arms))}.",
        f"Data: {escape(describe_data(arms) or 'no record says')}.",
    ]
    for table in detail_tables(replace(records, cells=(*reference, *served), tuned=())):
        blocks += [
            f"{level} Tuned: {escape(table.title)}",
            table_source(replace(table, stub="cell")),
        ]
    return [*blocks, "</details>"]


def missing_values(table: Table) -> list[str]:
    """Why there is no number, where no failure explains it: each reason once, with its places."""
    places: dict[str, dict[str, list[str]]] = {}
    for row in table.rows:
        for column, figure in zip(table.columns, row.figures, strict=True):
            told = figure.word in {NO_VALUE, NOT_MEASURED, "undecided"}
            if told and figure.reason and figure.reason not in _SAYS_NOTHING:
                reasons = places.setdefault(figure.reason, {})
                reasons.setdefault(column.title, []).append(row.label)
    return [
        f"{'; '.join(f'{title} of {_listed(labels, table)}' for title, labels in found.items())}:"
        f" {reason}"
        for reason, found in places.items()
    ]


_SAYS_NOTHING = {"not measured", "the record does not hold this metric"}


def _listed(labels: Sequence[str], table: Table) -> str:
    return "all" if len(labels) == len(table.rows) > 1 else ", ".join(labels)


def _explained(table: Table) -> list[str]:
    """A table with its marks, what is missing in it, and what its columns mean."""
    legend = [
        f"**{escape(column.title)}**: {escape(column.definition)}"
        for column in table.columns
        if column.definition
    ]
    marks = [*legend_of_marks(table), *map(escape, missing_values(table))]
    return [
        table_source(table),
        bullets(marks),
        "<details><summary>What the columns mean</summary>",
        bullets(legend),
        "</details>",
    ]


def _titled(table: Table, text: str = "") -> list[str]:
    if not table.rows:
        return []
    return [
        f"### {escape(table.title)}",
        table_source(table),
        escape(text),
        bullets(map(escape, missing_values(table))),
    ]


def _generation_blocks(records: TableRecords, arms: Sequence[Arm]) -> list[str]:
    """The reference beside one cell of each arm, for the first prompts of the test split."""
    cells = [cell for cell in records.cells if cell.reference]
    cells += [arm.shown[0] for arm in arms if arm.shown]
    heading = "### Base and tuned, side by side: prompts of the test split"
    return [
        block
        for slug in test_split_items(cells)
        for block in side_by_side(cells, slug, heading, prompts_shown=_PROMPTS_SHOWN)
    ]
