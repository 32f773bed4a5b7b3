"""What is shown of cells on the reference's answers, and of KL by how sure the reference is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.recommend.budget import Budget
from qbench.compare.recommend.choices import choices
from qbench.compare.recommend.recommend import recommend
from qbench.compare.selection import select
from qbench.core.page import Chart, Charts, Heading, Table, Words
from qbench.core.record import Metric
from qbench.report.charts.chat import chat_charts, survival_chart
from qbench.report.charts.confidence import confidence_chart
from qbench.report.chat import chat_parts, chat_table, parted, place_table
from qbench.report.confidence import change_table, confidence_table
from qbench.report.details import detail_tables
from qbench.report.over_length import over_length
from qbench.report.overview import overview_page
from qbench.report.quality import divergence_table
from qbench.report.report_page import report_page
from tests.paired_records import divergence
from tests.record_factory import make_record
from tests.report.charts.specs import values, without_data

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record

SLUG = "asked-n24-t8"
PROMPTS = 24
NAME = "</script>'+alert(1)+'"


def chat(cell: str, kl: float, places: list[int | None], **changes: Any) -> Record:
    """A record of 24 answers of 8 tokens, each token of this divergence."""
    metrics = {
        "chat.perplexity": 2.0 + kl,
        "chat.tokens": 8.0 * PROMPTS,
        "chat.kl.mean": kl,
        "chat.top1_agreement": 0.75,
        "chat.same_text": places.count(None) / PROMPTS,
    }
    given: dict[str, Any] = {
        "slug": SLUG,
        "params": {"text": {"name": "asked"}, "count": PROMPTS, "new_tokens": 8},
        "series": {
            "item_tokens": [8.0] * PROMPTS,
            "item_kl_sum": [8 * kl] * PROMPTS,
            "item_same_text": [float(place is None) for place in places],
        },
        "details": {
            "ids_sha256": "ab",
            "parts_at": places,
            "item_ids": [f"item-{at}" for at in range(PROMPTS)],
            "by_confidence": {
                "from": [0.0, 0.5, 0.999],
                "tokens": [100, 60, 32],
                "kl": [100 * kl * 3, 60 * kl, 0.0],
            },
        },
    }
    return make_record(cell, "chat", metrics, **(given | changes))


def table_of(*records: Record) -> TableRecords:
    (table,) = select(list(records)).tables
    return table


def three() -> list[Record]:
    return [
        chat("fp32", 0.0, [None] * PROMPTS),
        chat("int8", 0.01, [3] * 6 + [5] * 6 + [None] * 12),
        chat(NAME, 0.05, [0] * 6 + [2] * 12 + [None] * 6),
    ]


def shown(table: Table, at: int) -> dict[str, float | None]:
    keys = (column.key for column in table.columns)
    figures = table.rows[at].figures
    return {key: figure.value for key, figure in zip(keys, figures, strict=True)}


def test_the_table_has_a_row_a_cell() -> None:
    found = chat_table(table_of(*three()), SLUG)
    assert found.title.endswith(": 24 prompts of asked, answers of at most 8 tokens")
    assert shown(found, 2)["chat.kl.mean"] == 0.05
    assert shown(found, 2)["chat.same_text"] == 0.25
    never = found.rows[1].figures[[one.key for one in found.columns].index("chat.same_text")]
    assert never.low is not None
    assert never.low < 0.5 < (never.high or 0)


def test_the_pages_have_a_section_of_it() -> None:
    records = three()
    page = report_page(records)
    headings = [part.text for part in page.parts if isinstance(part, Heading)]
    assert "Answers of the reference: 24 prompts of asked, answers of at most 8 tokens" in headings
    (charts,) = [
        part
        for part in page.parts
        if isinstance(part, Charts) and part.charts[0].title.startswith("Where greedy text parts")
    ]
    assert [chart.title.partition(":")[0] for chart in charts.charts] == [
        "Where greedy text parts",
        "KL by how sure the reference is",
    ]
    terminal = overview_page(records)
    (table,) = [
        part
        for part in terminal.parts
        if isinstance(part, Table) and part.title.startswith("Answers of the reference")
    ]
    assert len(table.columns) == 4
    lines = [
        part for part in page.parts if isinstance(part, Table) and part.title.startswith("Diff")
    ]
    assert any(row.label.startswith("chat.kl.mean, 24 prompts") for row in lines[0].rows)


def test_nothing_is_said_where_nothing_was_asked() -> None:
    table = table_of(divergence("fp32", [0.0] * 9), divergence("nf4", [0.02] * 9))
    assert chat_parts(table) == []
    assert list(chat_charts(table)) == []


def test_the_picture_falls_where_answers_part() -> None:
    table = table_of(*three())
    chart = survival_chart(table, SLUG, "asked")
    assert chart is not None
    rows = [(row["cell"], row["tokens"], row["share"]) for row in values(chart)]
    assert rows == [
        ("int8", 0, 100.0),
        ("int8", 3, 75.0),
        ("int8", 5, 50.0),
        ("int8", 8, 50.0),
        (NAME, 0, 100.0),
        (NAME, 0, 75.0),
        (NAME, 2, 25.0),
        (NAME, 8, 25.0),
    ]
    assert "alert" not in without_data(chart.spec)
    # Of drawn answers none is known to part.
    drawn = [chat(cell, 0.01, [None] * PROMPTS, details={}) for cell in ("fp32", "nf4")]
    assert survival_chart(table_of(*drawn), SLUG, "asked") is None


@pytest.mark.parametrize("places", ["3", [3], ["x"] * PROMPTS, None, [{}] * PROMPTS])
def test_places_that_are_none_are_passed_over(places: Any) -> None:
    record = chat("nf4", 0.01, [1] * PROMPTS)
    hostile = record.model_copy(update={"details": {**record.details, "parts_at": places}})
    table = table_of(three()[0], hostile)
    (cell,) = (cell for cell in table.cells if cell.label == "nf4")
    assert parted(cell, SLUG) is None
    assert survival_chart(table, SLUG, "asked") is None


def test_what_longer_prompts_change_is_told_over_their_length() -> None:
    def at(length: int, cell: str, kl: float) -> Record:
        record = chat(cell, kl, [None] * PROMPTS)
        params = {**record.item.params, "prompt_tokens": length}
        item = record.item.model_copy(update={"slug": f"{SLUG}-p{length}", "params": params})
        return record.model_copy(update={"item": item, "key": f"{length}-{cell}"})

    records = [
        at(length, cell, kl)
        for length in (64, 512)
        for cell, kl in (("fp32", 0.0), ("nf4", length / 1e4))
    ]
    (found, _) = over_length(table_of(*records))
    assert found.title.startswith("KL mean on answers, by prompt tokens: asked, answers of at most")
    assert found.lengths == (64, 512)
    assert [figure.value for figure in found.rows[1][1]] == [0.0064, 0.0512]


def test_a_limit_on_kl_holds_for_answers_too() -> None:
    sizes = {"fp32": 4e6, "int8": 2e6, NAME: 1e6}
    held = [make_record(cell, "footprint", {"memory.static": size}) for cell, size in sizes.items()]
    found = recommend(choices(table_of(*three(), *held), Budget(max_kl=0.02)))
    standings = {one.cell.label: one.standing for one in found.candidates}
    assert standings == {"fp32": "meets", "int8": "recommended", NAME: "fails"}


def test_kl_is_told_by_place_in_the_answer() -> None:
    records = three()
    places = {"from": [0, 16], "tokens": [100, 50], "nll": [1.0, 1.0], "kl": [5.0, 1.0]}
    told = {**records[1].details, "by_position": places}
    records[1] = records[1].model_copy(update={"details": told})
    found = place_table(table_of(*records), SLUG)
    assert [column.title for column in found.columns] == ["0", "16"]
    assert [(row.label, [figure.value for figure in row.figures]) for row in found.rows] == [
        ("int8", [0.05, 0.02])
    ]


def test_why_a_cell_has_no_figures_is_said_once() -> None:
    reason = "the reference was asked in other token ids"
    lacking = [
        Metric(name=name, unit="1", better="lower", value=None, reason=reason)
        for name in ("chat.perplexity", "chat.kl.mean", "chat.same_text", "chat.parts_at")
    ]
    record = chat("stored", 0.0, [None] * PROMPTS)
    nothing = record.model_copy(update={"metrics": tuple(lacking), "series": {}, "details": {}})
    parts = chat_parts(table_of(*three(), nothing))
    told = [str(part.line) for part in parts if isinstance(part, Words)]
    assert told == [f"stored: no divergence on answers: {reason}."]


def test_kl_by_how_sure_the_reference_is() -> None:
    table = table_of(*three())
    found = confidence_table(table, SLUG, "chat", "asked")
    assert [column.title for column in found.columns] == [
        "below 0.5",
        "0.5 to 0.999",
        "0.999 to 1",
    ]
    assert [row.label for row in found.rows] == ["int8", NAME]
    assert [figure.value for figure in found.rows[1].figures] == pytest.approx([0.15, 0.05, 0.0])
    chart = confidence_chart(table, SLUG, "asked", "chat")
    assert isinstance(chart, Chart)
    drawn = [row["value"] for row in values(chart) if row["cell"] == NAME]
    assert drawn == pytest.approx([0.15, 0.05])
    assert "alert" not in without_data(chart.spec)


def test_records_of_before_have_none_of_it() -> None:
    """Tables and pictures of the new figures are left out, not shown empty."""
    table = table_of(divergence("fp32", [0.0] * 9), divergence("nf4", [0.02] * 9))
    slug = "text-w256-default"
    assert change_table(table, slug, "quality", "text").rows == ()
    assert confidence_table(table, slug, "quality", "text").rows == ()
    assert confidence_chart(table, slug, "text") is None
    titles = " ".join(found.title for found in detail_tables(table))
    assert "Change of the true" not in titles
    assert "highest probability" not in titles
    (told,) = (found for found in detail_tables(table) if found.title.startswith("Divergence"))
    assert "kl.reverse" not in {column.key for column in told.columns}
    assert "kl.reverse" in {column.key for column in divergence_table(table, slug).columns}
