"""What csv and json hold, read back with pandas, are the figures of the published pages."""

from __future__ import annotations

import io
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from qbench.compare.selection import select
from qbench.core.page import Fold, Table
from qbench.core.store import read_folder
from qbench.report.frame import to_frame
from qbench.report.report_page import report_page
from tests.pages import written_as

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qbench.core.page import Column, Figure, Part, Row
    from qbench.core.record import Record

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
RECOMMENDED = "What to run"
"""Its figures stand in json under keys of their own."""
CHANGE = ["change", "change_low", "change_high"]


@cache
def records(suite: str) -> tuple[Record, ...]:
    found, unreadable = read_folder(PUBLISHED / suite)
    assert found
    assert not unreadable
    return tuple(found)


@cache
def frame(suite: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(written_as("csv", records(suite))), low_memory=False)


@cache
def tables(suite: str) -> tuple[Table, ...]:
    return tuple(_tables(report_page(records(suite)).parts))


def _tables(parts: Iterable[Part]) -> Iterator[Table]:
    for part in parts:
        if isinstance(part, Table):
            yield part
        elif isinstance(part, Fold):
            yield from _tables(part.parts)


def figures(table: Table) -> Iterator[tuple[Row, Column, Figure]]:
    for row in table.rows:
        for column, figure in zip(table.columns, row.figures, strict=True):
            yield row, column, figure


def titled(suite: str, start: str) -> list[Table]:
    return [table for table in tables(suite) if table.title.startswith(start)]


def close(row: pd.Series[Any], names: list[str], values: list[float | None]) -> bool:
    return all(
        pd.isna(row[name]) if value is None else row[name] == pytest.approx(value, rel=1e-12)
        for name, value in zip(names, values, strict=True)
    )


def test_the_decision_table() -> None:
    table = next(one for one in tables("full") if one.column("bits_per_weight.model"))
    own = frame("full").query("tabled and not derived")
    checked = 0
    for row, column, figure in figures(table):
        if figure.value is None:
            continue
        key, _, slug = column.key.partition(":")
        metric = {"change": "perplexity", "kl": "kl.mean"}.get(key, key)
        found = own[(own["label"] == row.label) & (own["metric"] == metric)]
        found = found[found["item"] == slug] if slug else found
        names = CHANGE if key == "change" else ["pooled", "low", "high"]
        values = [figure.value, figure.low, figure.high]
        assert any(close(one, names, values) for _, one in found.iterrows()), column.key
        checked += figure.low is not None
    assert checked > 50


@pytest.mark.parametrize("suite", ["full", "finetune"])
def test_every_difference_from_the_reference_with_its_verdict_and_margin(suite: str) -> None:
    (table,) = titled(suite, "Differences from")
    reference = table.title.removeprefix("Differences from ").partition(":")[0]
    judged = frame(suite).query("not derived and verdict.notna() and tuning.isna()")
    assert set(judged["against"].dropna()) == {reference}
    verdicts: Counter[str] = Counter()
    for row, column, figure in figures(table):
        if column.key == "margin" or figure.verdict is None:
            continue
        metric = row.label.partition(",")[0]
        found = judged[(judged["label"] == column.key) & (judged["metric"] == metric)]
        found = found[found["margin"] == figure.margin]
        values = [figure.value, figure.low, figure.high]
        alike = [
            one["verdict"] == figure.verdict
            for _, one in found.iterrows()
            if close(one, CHANGE, values)
        ]
        assert any(alike), (row.label, column.key)
        if figure.value is None:
            assert set(found["change_reason"].dropna()) >= {figure.reason}
        verdicts[figure.verdict] += 1
    # No difference of the frame is one that the page does not show.
    shown = judged.drop_duplicates(["label", "measurement", "item", "metric"])
    compared = Counter(shown["verdict"])
    assert {name: compared[name] for name in verdicts} == dict(verdicts)


def test_scores_and_flips_of_every_task() -> None:
    known = frame("full").query("tabled and measurement == 'tasks'")
    shown = [*titled("full", "Task: "), *titled("full", "Tuned: Task: ")]
    shown += [table for table in titled("full", "Task: ") if table.stub == "cell"]
    checked = 0
    for table in shown:
        score = table.columns[0].key
        for row, column, figure in figures(table):
            if figure.value is None or column.key in {"items", "chance"}:
                continue
            metric = score if column.key in {score, "change"} else f"{score}.{column.key}"
            found = known[(known["label"] == row.label) & (known["metric"] == metric)]
            assert len(found) == 1, (row.label, metric)
            names = CHANGE if column.key == "change" else ["pooled", "low", "high"]
            assert close(found.iloc[0], names, [figure.value, figure.low, figure.high])
            checked += 1
    assert checked > 100


def test_every_change_that_fine_tuning_made() -> None:
    changes = frame("finetune").query("derived and verdict.notna()")
    checked = 0
    for table in tables("finetune"):
        if table.title not in {"Arms", "How the tuned model is served"}:
            continue
        for row, column, figure in figures(table):
            if column.display != "estimate" or figure.verdict is None:
                continue
            arm = row.label.partition("--")[0]
            found = changes[(changes["arm"] == arm) & (changes["verdict"] == figure.verdict)]
            found = found[found["margin"] == figure.margin]
            values = [figure.value, figure.low, figure.high]
            assert any(close(one, CHANGE, values) for _, one in found.iterrows())
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("suite", ["full", "finetune"])
def test_json_holds_every_number_of_the_tables_that_are_judged(suite: str) -> None:
    document = json.loads(written_as("json", records(suite)))
    known = Counter(_known(document["decision_tables"] + document["fine_tuning"]))
    shown = Counter(
        (column.key, row.label, *(_rounded(one) for one in _told(figure)))
        for table in tables(suite)
        if table.title != RECOMMENDED
        for row, column, figure in figures(table)
        if (figure.low is not None or figure.verdict) and column.key != "margin"
    )
    assert len(shown) > 50
    assert not shown - known


def _told(figure: Figure) -> tuple[Any, ...]:
    return figure.value, figure.low, figure.high, figure.verdict, figure.margin, figure.word


def _rounded(value: object) -> object:
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _known(value: object) -> Iterator[tuple[Any, ...]]:
    """Every figure of every table of a document."""
    if isinstance(value, list):
        for one in value:
            yield from _known(one)
    elif isinstance(value, dict):
        for row in value.get("rows", []):
            label = next(iter(row.values()))
            for key, figure in row["figures"].items():
                names = ("value", "low", "high", "verdict", "margin", "word")
                yield (key, label, *(_rounded(figure[name]) for name in names))
                assert (figure["level"] is None) == (figure["low"] is None)
        for key, one in value.items():
            if key != "rows":
                yield from _known(one)


def test_a_frame_is_what_the_csv_holds() -> None:
    made, read = to_frame(records("full")), frame("full")
    assert len(made) == len(read)
    for name in ("pooled", "low", "high", *CHANGE, "margin", "level"):
        pd.testing.assert_series_equal(made[name], read[name], check_exact=False)
    assert list(made["verdict"].fillna("")) == list(read["verdict"].fillna(""))
    tabled = {id(one) for one in select(records("full")).records}
    assert made.loc[~made["derived"], "tabled"].sum() >= len(tabled)
