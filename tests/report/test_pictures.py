"""The pictures of a report stand in the order in which a reader decides, each once."""

from __future__ import annotations

from qbench.compare.selection import select
from qbench.core.page import Charts
from qbench.report.pictures import picture_parts
from qbench.report.report_page import report_page
from tests.paired_records import task
from tests.record_factory import make_metric, make_record, quickstart_records
from tests.report.charts.specs import charts_of


def test_a_group_for_each_thing_that_was_measured() -> None:
    layers = [{"name": "layers.0.q", "relative_error": 0.1}]
    kl = make_metric("kl.mean", 0.1)
    records = [
        record
        if record.item.measurement != "quality"
        else record.model_copy(update={"metrics": (*record.metrics, kl)})
        for record in quickstart_records()
    ]
    records += [task("fp32", [1.0, 0.0] * 50), task("nf4", [1.0, 1.0] * 50)]
    records.append(make_record("nf4", "weight_error", {"a": 1}, details={"layers": layers}))
    limits = {"latency.read_bandwidth": 1e9, "latency.decode.read_bytes": 1e6}
    records = [
        record
        if record.item.measurement != "latency"
        else record.model_copy(
            update={"metrics": (*record.metrics, *(make_metric(*one) for one in limits.items()))}
        )
        for record in records
    ]
    (table,) = select(records).tables
    parts = picture_parts(table)
    assert [part.title for part in parts if isinstance(part, Charts)] == [
        "Divergence from the reference",
        "Tasks",
        "Latency of each process",
        "How near to the machine's limits",
        "Memory by kind, and as it was predicted",
        "Error of the weights of each layer",
    ]
    latency = parts[2]
    assert isinstance(latency, Charts)
    assert [chart.title for chart in latency.charts] == [
        f"{kind}: batch {batch}, 128 prompt tokens, 32 new tokens"
        for batch in (1, 4)
        for kind in ("Prefill, time a prompt", "Decode, time a new token")
    ]
    assert latency.caption, "what all say is said once"
    assert not any(chart.caption for chart in latency.charts)
    drawn = list(charts_of(report_page(records).parts))
    for chart in charts_of(parts):
        assert [one.spec for one in drawn].count(chart.spec) == 1, chart.title


def test_nothing_measured_nothing_drawn() -> None:
    (table,) = select([make_record("fp32", "other", {"a": 1.0})]).tables
    assert picture_parts(table) == []
