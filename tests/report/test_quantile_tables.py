"""Tables of quantiles: the figures of the records, with the intervals of their windows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from qbench.compare.differences import difference, level
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.selection import select
from qbench.report.details import detail_tables
from qbench.report.differences import difference_table, differences_of, how_decided
from qbench.report.findings import findings, which
from tests.compare.test_documents import of_documents
from tests.compare.test_quantile_intervals import drawn, of_windows, perplexities, record_of

if TYPE_CHECKING:
    from qbench.compare.estimates.bootstrap import Floats
    from qbench.compare.selection import TableRecords
    from qbench.core.page import Table
    from qbench.core.record import Record

WINDOWS = 240
MEDIAN, P90 = "window_perplexity.median", "window_perplexity.p90"


def cell(precision: str, kl: Floats, losses: list[float]) -> Record:
    """A quality record with quantiles of both kinds."""
    made, windows = record_of(kl, precision), of_windows(losses, precision)
    metrics = [*windows.metrics, *(one for one in made.metrics if one.name.startswith("kl."))]
    kept = {**windows.series, "window_kl_sum": kl.sum(axis=1).tolist()}
    return windows.model_copy(
        update={"metrics": tuple(metrics), "details": made.details, "series": kept}
    )


BASE = cell("fp32", np.zeros((WINDOWS, 255)), perplexities(2)).model_copy(
    update={"reference": True}
)
OWN = cell("nf4", drawn(1, windows=WINDOWS), perplexities(1, 0.03))


def table_of(*records: Record) -> TableRecords:
    return select(records).tables[0]


def titled(records: TableRecords, words: str) -> list[Table]:
    return [table for table in detail_tables(records) if words in table.title]


def test_quantiles_of_tokens_stand_with_their_intervals() -> None:
    (found,) = titled(table_of(BASE, OWN), "Quantiles of the divergence")
    assert [row.label for row in found.rows] == ["nf4"]
    for column, figure in zip(found.columns, found.rows[0].figures, strict=True):
        if column.key == "kl.mean":
            continue
        assert figure.value == OWN.value(column.key)
        wanted = level([OWN], column.key, sampling=Sampling()).ends(0.025)
        assert (figure.low, figure.high) == wanted
        assert column.intervals


def test_quantiles_of_windows_stand_with_their_paired_changes() -> None:
    (found,) = titled(table_of(BASE, OWN), "Perplexity of single windows")
    keys = [column.key for column in found.columns]
    own = found.rows[-1].figures[keys.index(f"change:{P90}")]
    wanted = difference([OWN], [BASE], P90, relative=True, sampling=Sampling())
    assert own.value == wanted.plain
    assert (own.low, own.high) == wanted.ends(0.025)
    quantiles = [np.quantile(np.exp(np.array(perplexities(*one)) / 255), 0.9) for one in
                 ((1, 0.03), (2,))]  # fmt: skip
    assert own.value == pytest.approx(quantiles[0] / quantiles[1] - 1)
    assert found.rows[0].figures[keys.index(f"change:{P90}")].word == "ref"


def test_older_records_have_no_such_tables_or_lines() -> None:
    details = {"ids_sha256": OWN.details["ids_sha256"]}
    old = [
        one.model_copy(
            update={
                "details": details,
                "metrics": tuple(each for each in one.metrics if "window" not in each.name),
            }
        )
        for one in (BASE, OWN)
    ]
    assert titled(table_of(*old), "with 95 % intervals") == []
    differences = difference_table(table_of(*old))
    assert differences is not None
    assert [row.label for row in differences.rows if ".p9" in row.label] == []


def test_differences_are_told_of_the_quantiles_too() -> None:
    found = differences_of(table_of(BASE, OWN))
    assert found is not None
    verdicts = {one.line.metric.name: one.verdict for one in found.found}
    assert verdicts["kl.p99"] == "worse"
    assert P90 in verdicts
    assert "one document" not in how_decided(found)
    documents = [at // 4 for at in range(WINDOWS)]
    by_document = differences_of(
        table_of(of_documents(BASE, documents), of_documents(OWN, documents))
    )
    assert by_document is not None
    assert "Windows of one document are drawn together" in how_decided(by_document)


def test_rows_for_programs_have_every_interval_of_the_page() -> None:
    found = findings(table_of(BASE, OWN))
    for metric in ("kl.p90", "kl.p99", MEDIAN, P90):
        low, high = level([OWN], metric, sampling=Sampling()).ends(0.025)
        told = found[which(OWN), metric]
        assert (told["low"], told["high"]) == (low, high)
    change = found[which(OWN), MEDIAN]
    wanted = difference([OWN], [BASE], MEDIAN, relative=True, sampling=Sampling())
    assert (change["change_low"], change["change_high"]) == wanted.ends(0.025)
    assert math.isclose(change["change"], wanted.plain or 0.0)
    assert change["relative"]
