"""Several suites or devices in one report: what compares stands in one table, the rest apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.recommend.joint import join
from qbench.compare.selection import select
from qbench.core.page import Chooser, Table
from qbench.report.report_page import report_page
from tests.command import call
from tests.pages import whole_report
from tests.record_factory import (
    footprint_record,
    latency_record,
    make_environment,
    make_failure,
    quality_record,
)
from tests.workplace import keep

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.compare.recommend.joint import Joint
    from qbench.core.record import Record

OTHER = make_environment(device="Other CPU (8 cores)", device_kind="cpu-other-8c")


def taken(text: str = "stdlib-heldout", **changes: Any) -> list[Record]:
    """Two cells of one suite on one device."""
    return [
        record
        for precision in ("fp32", "nf4")
        for record in (
            footprint_record(precision, **changes),
            *(latency_record(precision, repeat, **changes) for repeat in range(3)),
            quality_record(precision, text, **changes),
        )
    ]


def joined(*parts: list[Record]) -> list[Joint]:
    return join(select([one for part in parts for one in part]).tables)


def test_two_devices_share_what_compares() -> None:
    (joint,) = joined(taken(), taken(environment=OTHER))
    keys = [axis.key for axis in joint.choices.axes]
    assert keys == ["bytes", "prefill", "decode", "perplexity:stdlib-heldout-w256-default"]
    assert joint.apart == ()
    assert [cell.label for cell in joint.choices.cells] == [
        "fp32 (Intel Xeon (2 cores))",
        "nf4 (Intel Xeon (2 cores))",
        "fp32 (Other CPU (8 cores))",
        "nf4 (Other CPU (8 cores))",
    ]
    assert [place.device for place in joint.places][1:3] == [
        "Intel Xeon (2 cores)",
        "Other CPU (8 cores)",
    ]
    assert joint.references == (True, False, True, False)


def test_another_text_or_point_is_no_shared_quantity() -> None:
    changed = [
        one.model_copy(update={"item": one.item.model_copy(update={"params": params})})
        if one.item.measurement == "quality"
        else one
        for one in taken(suite="b")
        for params in [{"text": {"name": "stdlib-heldout"}, "window": 512, "protocol": "default"}]
    ]
    (joint,) = joined(taken(suite="a"), changed)
    assert [axis.key for axis in joint.choices.axes] == ["bytes", "prefill", "decode"]
    assert joint.apart == (
        "perplexity of b: tiny-mistral on Intel Xeon (2 cores): other window: 512 here, 256 there",
    )
    point = {"batch": 1, "prompt_tokens": 64, "new_tokens": 32}
    other = [
        one.model_copy(update={"item": one.item.model_copy(update={"params": point})})
        if one.item.measurement == "latency"
        else one
        for one in taken(suite="b")
    ]
    (joint,) = joined(taken(suite="a"), other)
    keys = [axis.key for axis in joint.choices.axes]
    assert keys == ["bytes", "perplexity:stdlib-heldout-w256-default"]
    assert any("other prompt_tokens: 64" in one for one in joint.apart)


def test_what_the_first_lacks_is_shared_by_the_others() -> None:
    without = [one for one in taken(suite="a") if one.item.measurement != "latency"]
    (joint,) = joined(without, taken(suite="b"), taken(suite="c"))
    assert [axis.key for axis in joint.choices.axes][:3] == ["bytes", "prefill", "decode"]
    decode = {cell.label: cell.ranges["decode"] for cell in joint.choices.cells}
    assert decode["nf4 (a)"].value is None
    assert decode["nf4 (a)"].reason == "not measured alike (a)"
    assert decode["nf4 (b)"].value == decode["nf4 (c)"].value == pytest.approx(0.00936)


def test_another_text_by_name_has_no_place_in_the_picture() -> None:
    (joint,) = joined(taken(suite="a"), taken("other-text", suite="b"))
    assert all(axis.kind == "cost" for axis in joint.choices.axes)


@pytest.mark.parametrize(
    "other",
    [
        taken(suite="b", model="another-model"),
        [one.model_copy(update={"reference": one.cell.label == "nf4"}) for one in taken(suite="b")],
        [make_failure("fp32", "footprint", "oom", "full", suite="b")],
        [],
    ],
    ids=["model", "reference", "failed", "alone"],
)
def test_what_shares_nothing_is_not_joined(other: list[Record]) -> None:
    assert joined(taken(suite="a"), other) == []


def test_the_page_has_one_picture_and_one_table_of_all() -> None:
    records = [*taken(), *taken(environment=OTHER)]
    parts = report_page(records).parts
    first = next(part for part in parts if isinstance(part, Chooser))
    assert [cell["label"] for cell in first.data["cells"]][::2] == [
        "fp32 (Intel Xeon (2 cores))",
        "fp32 (Other CPU (8 cores))",
    ]
    table = next(part for part in parts if isinstance(part, Table) and part.column("device"))
    devices = [figure.word for figure in table.column("device")]
    assert devices == ["Intel Xeon (2 cores)"] * 2 + ["Other CPU (8 cores)"] * 2
    assert "Together: tiny-mistral, measured in 2 places" in whole_report(records)
    assert "Together" not in whole_report(taken())


def test_several_folders_make_one_report(tmp_path: Path) -> None:
    for record in taken():
        keep(tmp_path / "a", record)
    for record in taken(environment=OTHER):
        keep(tmp_path / "b", record)
    finished = call(tmp_path, "report", "a", "b", "a/quickstart")
    assert finished.code == 0, finished
    names = {path.name for path in (tmp_path / "reports").iterdir()}
    stem = "quickstart-cpu-intel-xeon-2c+cpu-other-8c"
    assert names == {f"{stem}.html", f"{stem}.md"}
    page = (tmp_path / "reports" / f"{stem}.md").read_text("utf-8")
    assert "older" not in page
    assert "nf4 (Other CPU (8 cores))" in page
    refused = call(tmp_path, "report", "a", "absent")
    assert refused.code == 2
    assert "absent: no such folder" in refused.errors
