"""Cells with a quantized KV cache in tables: what they have, and what they are not asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.selection import select
from qbench.core.record import Metric
from qbench.report.decision import decision_table
from qbench.report.decoded import decoded_table
from qbench.report.differences import differences_of
from qbench.report.failures import is_whole
from qbench.report.rows import metric_rows
from tests.record_factory import make_record

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record

WINDOWS = 24
SLUG = "text-p8-n4-first24"


def decoded(kv_cache: str | None, kl: float, nll: float) -> Record:
    """Of so many windows of 4 tokens, each with that KL and loss a token, slightly different."""
    sums = [4 * kl * (1 + at / 100) for at in range(WINDOWS)]
    losses = [4 * nll * (1 + at / 1000) for at in range(WINDOWS)]
    tokens = 4 * WINDOWS
    figures = {
        "decoded.perplexity": (2.718281828459045 ** (sum(losses) / tokens), "1"),
        "decoded.kl.mean": (sum(sums) / tokens, "nat"),
    }
    made = make_record(
        "fp32",
        "decoded",
        slug=SLUG,
        params={"text": {"name": "text"}, "prompt_tokens": 8, "new_tokens": 4},
        more_metrics=tuple(
            Metric(name=name, unit=unit, better="lower", value=value)
            for name, (value, unit) in figures.items()
        ),
        series={
            "window_nll": losses,
            "window_tokens": [4.0] * WINDOWS,
            **({} if kv_cache is None else {"window_kl_sum": sums}),
        },
    )
    return with_cache(made, kv_cache)


def with_cache(record: Record, kv_cache: str | None) -> Record:
    cell = record.cell.model_copy(update={"kv_cache": kv_cache})
    return record.model_copy(update={"cell": cell, "reference": kv_cache is None})


def table() -> TableRecords:
    records = [make_record("fp32", "footprint", {"memory.static": 1000.0})]
    for kind, kl, nll, size in (
        (None, 0.0, 2.0, 400),
        ("int4", 0.01, 2.01, 130),
        ("int2", 0.1, 2.2, 90),
    ):
        point = {"batch": 1, "prompt_tokens": 8, "new_tokens": 4}
        held = {"memory.peak.inference": 2000.0, "memory.kv_cache": float(size)}
        made = make_record("fp32", "memory", held, slug="b1-p8-n4", params=point)
        records += [with_cache(made, kind), decoded(kind, kl, nll)]
    [found] = select(records).tables
    return found


def test_each_cell_has_a_row_with_its_bytes_and_its_divergence_where_the_cache_is_read() -> None:
    records = table()
    assert [cell.label for cell in records.cells] == ["fp32", "fp32--kv-int4", "fp32--kv-int2"]
    found = decision_table(records).table
    keys = [column.key for column in found.columns]
    sizes = [row.figures[keys.index("memory.kv_cache")].value for row in found.rows]
    assert sizes == [400, 130, 90]
    kl = [row.figures[keys.index("decoded.kl")].value for row in found.rows]
    assert kl[0] is None  # the reference
    assert 0.01 < (kl[1] or 0) < 0.1 < (kl[2] or 0)


def test_the_table_of_decoded_positions_has_paired_intervals() -> None:
    found = decoded_table(table(), SLUG)
    assert found.title == "Quality of decoded positions: text, 4 tokens decoded after 8"
    keys = [column.key for column in found.columns]
    low, change, high = (
        [row.figures[keys.index(key)].value for row in found.rows]
        for key in ("change.low", "change", "change.high")
    )
    assert low[0] is change[0] is high[0] is None
    for at in (1, 2):
        assert (low[at] or 0) < (change[at] or 0) < (high[at] or 0)


def test_differences_are_judged_with_the_others() -> None:
    differences = differences_of(table())
    assert differences is not None
    verdicts = {(one.cell, one.line.metric.name): one.verdict for one in differences.found}
    assert verdicts["fp32--kv-int2", "decoded.perplexity"] == "worse"
    assert verdicts["fp32--kv-int4", "memory.kv_cache"] == "better"


def test_what_only_the_own_cache_is_asked_for_is_not_missing() -> None:
    records = table()
    assert all(is_whole(records, cell) for cell in records.cells)


def test_exports_name_the_cache() -> None:
    records = [record for cell in table().cells for record in cell.records]
    found = {(row["label"], row["kv_cache"]) for row in metric_rows(records)}
    assert found == {("fp32", None), ("fp32--kv-int4", "int4"), ("fp32--kv-int2", "int2")}
