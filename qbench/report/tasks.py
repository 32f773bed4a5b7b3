"""Tables of tasks: each score with its interval, and the items that went another way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.comparable import Gap
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.flips import CHANGED, FLIPS, find_flips
from qbench.compare.items import TASKS, batch_told, items
from qbench.compare.series import CLUSTERS, ITEMS_OF
from qbench.core.page import Column, Figure, Table
from qbench.core.unchecked import as_list, as_mapping, as_number
from qbench.report.cell_row import cell_row
from qbench.report.figures import (
    NOT_MEASURED,
    REFERENCE_WORD,
    change_with_interval,
    figure_of,
    with_interval,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.flips import Flips
    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record

LOST, GAINED = "right_to_wrong", "wrong_to_right"
"""Keys of the items that one side alone got right."""
CHANCE = "chance"
"""Key of the score that guessing gives."""
THOUGHTS = "thoughts"
"""Key of a record's details with how many answers there are, and in how many no thought ended."""
_UNENDED = Column(
    "unended",
    "unended thoughts",
    "exact",
    definition="answers without the end token: all that was written is scored as the answer",
)
FLIP_COLUMNS = (
    Column(
        LOST,
        "right → wrong",
        "exact",
        definition="items that the reference gets right and the cell wrong",
    ),
    Column(GAINED, "wrong → right", "exact", definition="the reverse"),
    Column(
        FLIPS,
        "flips",
        "percent",
        definition="both, of all items",
        intervals=True,
    ),
    Column(
        CHANGED,
        "other answer",
        "percent",
        definition="items with another answer than the reference's, right or wrong, of all items",
        intervals=True,
    ),
)


def task_tables(records: TableRecords) -> list[Table]:
    """A table for each metric of each task: score, difference, flips and chance."""
    return [
        _task_table(records, kind, slug, metric.name, conditions(record) + _batch(records, record))
        for kind in TASKS
        for slug, record in items(records, kind).items()
        for metric in record.metrics
    ]


def conditions(record: Record) -> str:
    """How a task was put, where that is not the task's own way: `, thinking, 3 times`."""
    params = record.item.params
    words = []
    if params.get("endpoint") is not None:
        words.append(str(params["endpoint"]))
    if (params.get("concurrency") or 1) != 1:
        words.append(f"{params['concurrency']} at once")
    if params.get("thinking") is not None:
        words.append("thinking" if params["thinking"] else "without thinking")
    if params.get("system_prompt"):
        words.append("with a system prompt")
    if params.get("fewshot_as_multiturn") is False:
        words.append("examples in one turn")
    given = {**as_mapping(params.get("gen_kwargs")), **as_mapping(params.get("metadata"))}
    words += [f"{key} {_in_words(value)}" for key, value in given.items()]
    takes = as_list(record.details.get("repeats"))
    if takes:
        seeds = [str(as_mapping(one).get("seed")) for one in takes]
        words.append(f"mean of {len(takes)} times, seeds {', '.join(seeds)}")
    return "".join(f", {one}" for one in words)


def _in_words(value: object) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def flip_figures(
    records: Sequence[Record], reference: Sequence[Record], metric: str
) -> dict[str, Figure]:
    """Right to wrong, wrong to right, flips and changed answers, by the keys of their columns."""
    found = find_flips(records, reference, metric, sampling=Sampling(), same_run=True)
    if isinstance(found, Gap):
        told = None if found.kind == "not applicable" else found.reason
        missing = Figure(word=NOT_MEASURED, reason=told)
        return {column.key: missing for column in FLIP_COLUMNS}
    return figures_of_flips(found)


def figures_of_flips(found: Flips) -> dict[str, Figure]:
    """The same of what was found."""
    return {
        LOST: Figure(float(found.lost)),
        GAINED: Figure(float(found.gained)),
        FLIPS: figure_of(found.flips),
        CHANGED: figure_of(found.changed),
    }


def _batch(records: TableRecords, record: Record) -> str:
    """Of a server no batch is known: it makes its own."""
    return batch_told(records, record) if "batch" in record.item.params else ""


def _task_table(records: TableRecords, kind: str, slug: str, name: str, told: str) -> Table:
    base = records.reference.of(kind, slug) if records.reference else []
    score = name.rpartition(".")[2]
    rows = []
    thinks = any(THOUGHTS in one.details for cell in records.cells for one in cell.of(kind, slug))
    for cell in records.cells:
        found = cell.of(kind, slug)
        if not found:
            continue
        if cell.reference:
            compared = dict.fromkeys(("change", *(one.key for one in FLIP_COLUMNS)), _REFERENCE)
        else:
            compared = {
                "change": change_with_interval(found, base, name),
                **flip_figures(found, base, name),
            }
        chance = as_number(as_mapping(found[0].details.get("chance")).get(score))
        items_scored = _items_scored(found[0], score)
        figures = (
            with_interval(found, name),
            *compared.values(),
            Figure(items_scored) if items_scored is not None else Figure(word=NOT_MEASURED),
            _groups(found[0]),
            Figure(chance) if chance is not None else Figure(word=NOT_MEASURED),
            *([_unended(found[0])] if thinks else []),
        )
        rows.append(cell_row(cell, figures))
    columns = (
        Column(name, score, "number", decimals=4, definition=_SCORE, intervals=True),
        Column(
            "change",
            "less the reference's",
            "number",
            decimals=4,
            definition="with the 95 % interval of the paired difference",
            intervals=True,
        ),
        *FLIP_COLUMNS,
        Column("items", "items", "exact"),
        Column("groups", _group_title(records, kind, slug), "exact", definition=_GROUPS),
        Column(CHANCE, "chance", "number"),
        *([_UNENDED] if thinks else []),
    )
    title = "Task" if kind == TASKS[0] else "Task at a server"
    return Table(f"{title}: {slug}, {score}{told}", "precision", columns, tuple(rows))


def _items_scored(record: Record, score: str) -> float | None:
    """How many items count under a score: of scores by length, those of that length."""
    places = as_mapping(record.details.get(ITEMS_OF)).get(score)
    if places is not None:
        return float(len(as_list(places)))
    return as_number(record.details.get("items"))


def _unended(record: Record) -> Figure:
    """Answers in which the end of a thought does not stand."""
    told = as_mapping(record.details.get(THOUGHTS))
    count = as_number(told.get("unended"))
    return Figure(count) if count is not None else Figure(word=NOT_MEASURED)


def _groups(record: Record) -> Figure:
    """How many groups of items there are; nothing where each stands by itself."""
    clusters = as_list(record.details.get(CLUSTERS))
    if not clusters:
        return Figure(word=NOT_MEASURED)
    return Figure(float(len(set(map(str, clusters)))))


def _group_title(records: TableRecords, kind: str, slug: str) -> str:
    found = (
        one.details.get("clustered_by") for cell in records.cells for one in cell.of(kind, slug)
    )
    shared = next((name for name in found if isinstance(name, str)), None)
    return f"groups by {shared}" if shared else "groups"


_GROUPS = (
    "of items that share it: all items of a group are drawn together for the intervals, which are"
    " about other groups"
)
_REFERENCE = Figure(word=REFERENCE_WORD)
_SCORE = (
    "with its 95 % interval: what other items of such a task may give; of right and wrong answers"
    " the exact limits, of other scores, and where items stand in groups, those of a bootstrap"
)
