"""What to decide by and what failed, in a page that a terminal has room for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.recommend.tables import recommendations
from qbench.compare.selection import select
from qbench.compare.stated import NOTHING
from qbench.core.page import Bullets, Heading, Notice, Page, Words, bullets
from qbench.report.chat import chat_parts
from qbench.report.cold_start import cold_start_overview
from qbench.report.costs import hour_words
from qbench.report.decision import decision_table
from qbench.report.energy import emitted_parts
from qbench.report.finetune.overview_table import arms_overview
from qbench.report.finetune.results import results_of
from qbench.report.forward import forward_overview
from qbench.report.frontier import frontier_overview
from qbench.report.interactions import interaction_overview
from qbench.report.kernels import kernel_overview
from qbench.report.legend import short_legend, unlike_served_in_short
from qbench.report.overview_lines import overview_lines
from qbench.report.overview_table import overview_table, what_it_shows
from qbench.report.recommendation import terminal_lines, tuned_line
from qbench.report.rehearsals import BANNER, is_rehearsal
from qbench.report.report_page import NO_RECORDS
from qbench.report.sensitivity import sensitivity_overview
from qbench.report.serving import serving_overview
from qbench.report.summary import passed_over

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.price import Price
    from qbench.compare.recommend.recommend import Recommendation
    from qbench.compare.selection import TableRecords
    from qbench.compare.stated import Stated
    from qbench.core.page import Part, Table
    from qbench.core.record import Record


_OF_A_PRICE = "It is taken as busy all the time; the report has the price of each load and server."


def overview_page(records: Sequence[Record], stated: Mapping[str, Stated] | None = None) -> Page:
    """What to run of each model, what that is decided by, and what failed and is warned of."""
    selection = select(records)
    if not selection.tables:
        return Page("Quantization report", (Words(NO_RECORDS),))
    rehearsed = is_rehearsal(records)
    parts: list[Part] = []
    for at, table in enumerate(selection.tables):
        parts += [Heading(table.title)] if at or rehearsed else []
        own = (stated or {}).get(table.suite, NOTHING)
        recommended = recommendations(table, own)
        parts += _decision_parts(table, recommended.untuned, own.price)
        parts += kernel_overview(table)
        parts += forward_overview(table)
        parts += cold_start_overview(table)
        parts += serving_overview(table)
        parts += chat_parts(table)
        parts += sensitivity_overview(table)
        parts += interaction_overview(table)
        parts += frontier_overview(table)
        parts += emitted_parts(table, own.co2)
        parts += _arms_parts(table, recommended.tuned)
    parts.append(Bullets(tuple(overview_lines(selection))))
    parts.append(bullets(passed_over(selection), "quiet"))
    if rehearsed:
        return Page(BANNER, (*parts, Notice(BANNER)))
    return Page(selection.tables[0].title, tuple(parts))


def _decision_parts(
    records: TableRecords, what_to_run: Recommendation | None, price: Price | None
) -> list[Part]:
    if not records.cells:
        return []
    decision = decision_table(records, price)
    table = overview_table(records, decision)
    told = what_it_shows(records, decision, table)
    paid = [f"{hour_words(records.cells, price)} {_OF_A_PRICE}"] if price else []
    legend = [short_legend(table, "95 % interval"), *unlike_served_in_short(table), *told, *paid]
    told_first = [bullets(terminal_lines(what_to_run))] if what_to_run else []
    return [*told_first, *_with_legend(table, legend)]


def _arms_parts(records: TableRecords, what_to_train: Recommendation | None) -> list[Part]:
    if not records.tuned:
        return []
    table = arms_overview(results_of(records))
    told = [bullets([tuned_line(what_to_train)])] if what_to_train else []
    legend = [short_legend(table), *unlike_served_in_short(table)]
    return [Heading("Fine-tuning"), *told, *_with_legend(table, legend)]


def _with_legend(table: Table, legend: Sequence[str]) -> list[Part]:
    """Nothing where no column has a number."""
    return [table, bullets(filter(None, legend), "quiet")] if table.columns else []
