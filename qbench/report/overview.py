"""What to decide by and what failed, in a page that a terminal has room for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.recommend.choices import choices
from qbench.compare.recommend.recommend import recommend
from qbench.compare.selection import select
from qbench.core.page import Bullets, Heading, Notice, Page, Strong, Words, bullets
from qbench.report.decision import decision_table
from qbench.report.failures import failures, warnings
from qbench.report.finetune.qat import won_back
from qbench.report.finetune.qat_lacking import qat_words
from qbench.report.finetune.results import results_of
from qbench.report.finetune.table import arms_table, compact_table
from qbench.report.finetune.words import paragraph
from qbench.report.legend import short_legend
from qbench.report.recommendation import recommendation_lines
from qbench.report.rehearsals import BANNER, is_rehearsal
from qbench.report.report_page import NO_RECORDS
from qbench.report.summary import passed_over, summarise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.recommend.budget import Budget
    from qbench.compare.selection import Selection, TableRecords
    from qbench.core.page import Part
    from qbench.core.record import Record

_REASON_LINES = 3
_NOT_RUN = ("skipped", "missing")


def overview_page(records: Sequence[Record], budgets: Mapping[str, Budget] | None = None) -> Page:
    """What to run of each model, its decision table, then what failed and was passed over."""
    selection = select(records)
    if not selection.tables:
        return Page("Quantization report", (Words(NO_RECORDS),))
    rehearsed = is_rehearsal(records)
    parts: list[Part] = []
    for at, table in enumerate(selection.tables):
        parts += [Heading(table.title)] if at or rehearsed else []
        if table.cells:
            found = recommend(choices(table, (budgets or {}).get(table.suite)))
            parts += [Words(line) for line in recommendation_lines(found)]
            decision = decision_table(table)
            summary = Words(summarise(table, decision))
            parts += [decision.table, short_legend(decision.table), summary]
        if table.tuned:
            parts += _finetune_parts(table)
    parts += _failure_parts(selection)
    parts.append(bullets(passed_over(selection), "quiet"))
    if rehearsed:
        return Page(BANNER, (*parts, Notice(BANNER)))
    return Page(selection.tables[0].title, tuple(parts))


def _finetune_parts(records: TableRecords) -> list[Part]:
    """The arms in the columns that a terminal has room for."""
    results = results_of(records)
    table = compact_table(arms_table(results))
    of_qat = qat_words(results, won_back(results))
    return [
        Heading("Fine-tuning"),
        table,
        short_legend(table),
        Words(paragraph(results)),
        *([Words(of_qat)] if of_qat else []),
    ]


def _failure_parts(selection: Selection) -> list[Part]:
    lines = []
    for one in failures(selection):
        shown = " ".join(one.reason.strip().splitlines()[:_REASON_LINES])
        phase = f" (while: {one.phase})" if one.phase else ""
        status = Strong(one.status, "warned" if one.status in _NOT_RUN else "bad")
        lines.append(Words((status, f"  {one.cell}, {one.what}{phase}: {shown}")))
    for warned in warnings(selection):
        cells = "all cells" if warned.holds_for_all(selection) else ", ".join(warned.cells)
        lines.append(Words((Strong("!", "warned"), f"  {cells}: {warned.text}")))
    return [Heading("Failed, skipped, warned of"), Bullets(tuple(lines))] if lines else []
