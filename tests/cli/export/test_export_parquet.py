"""`qbench export parquet`: what pandas and DuckDB read is the frame of `qbench.load_results`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

import qbench
from qbench.core.record import SCHEMA_VERSION
from tests.record_factory import make_environment, make_failure, make_record
from tests.workplace import REPOSITORY, keep

if TYPE_CHECKING:
    from pathlib import Path

    from tests.workplace import Finished, Workplace

QUICKSTART = REPOSITORY / "results" / "published" / "quickstart"


def export(place: Workplace, *arguments: str) -> Finished:
    return place.call_here("export", "parquet", *arguments)


def expected(folder: Path) -> pd.DataFrame:
    """The frame as it is, but for the time, which a frame has as a text."""
    frame = qbench.load_results(folder)
    times = pd.to_datetime(frame["started_at"], utc=True, format="ISO8601")
    return frame.assign(started_at=times.astype("datetime64[us, UTC]"))


def test_pandas_and_duckdb_read_the_frame(workplace: Workplace) -> None:
    import duckdb
    import pyarrow.parquet as pq

    done = export(workplace, str(QUICKSTART), "--to", "rows.parquet")
    assert (done.code, done.errors) == (0, "")
    assert "wrote 132 records to rows.parquet" in done.output
    path = workplace.folder / "rows.parquet"
    frame = expected(QUICKSTART)
    pd.testing.assert_frame_equal(pd.read_parquet(path), frame)
    by_duckdb = duckdb.sql(f"select * from '{path}'")
    kinds = dict(zip(by_duckdb.columns, map(str, by_duckdb.types), strict=True))
    assert {kinds[name] for name in ("value", "low", "duration_s")} == {"DOUBLE"}
    assert {kinds[name] for name in ("reference", "tabled", "derived")} == {"BOOLEAN"}
    assert kinds["repeat"] == "BIGINT"
    assert kinds["started_at"] == "TIMESTAMP WITH TIME ZONE"
    read = by_duckdb.arrow().read_all().to_pandas()
    read["started_at"] = read["started_at"].dt.tz_convert("UTC")
    pd.testing.assert_frame_equal(read.astype(dict(frame.dtypes)), frame)
    schema = pq.read_schema(path)
    assert schema.metadata[b"qbench_schema_version"] == str(SCHEMA_VERSION).encode()
    assert schema.metadata[b"qbench"]
    assert schema.field("duration_s").metadata == {b"unit": b"s"}


def test_values_by_item_join_the_rows(workplace: Workplace) -> None:
    done = export(workplace, str(QUICKSTART), "--to", "rows.parquet", "--items", "items.parquet")
    assert done.code == 0, done.errors
    rows = pd.read_parquet(workplace.folder / "rows.parquet")
    items = pd.read_parquet(workplace.folder / "items.parquet")
    assert items["value"].dtype == "float64"
    accuracy = items.query("measurement == 'tasks' and series == 'acc'")
    means = accuracy.groupby("key")["value"].mean().rename("mean")
    scores = rows.query("metric == 'tasks.stdlib-choice.acc' and not derived")
    joined = scores.merge(means, left_on="key", right_index=True)
    assert len(joined) == len(scores) == len(means) == 10
    assert (joined["mean"] - joined["value"]).abs().max() < 1e-12
    # The same item has the same id in each cell, which is what pairs two of them.
    paired = accuracy.pivot_table(index="item_id", columns="label", values="value")
    assert paired[["fp32", "nf4"]].notna().all(axis=None)
    assert set(items["each"]) == {"item", "window"}
    windows = items.query("each == 'window'")
    assert windows["item_id"].isna().all()
    assert windows.groupby(["key", "series"])["place"].min().eq(0).all()


def test_failures_devices_and_rehearsals_are_told_apart(workplace: Workplace) -> None:
    gpu = make_environment(device="NVIDIA H200", device_kind="nvidia-h200", device_type="cuda")
    failure = make_failure("nf4", "memory", "oom", "out of memory", slug="b1")
    for record in (
        make_record("nf4", metrics={"memory.static": 12.0, "load_time": None}),
        make_record("nf4", metrics={"memory.static": 11.0}, environment=gpu),
        make_record("int8", metrics={"memory.static": 1.0}, rehearsal=("one item",)),
        failure.model_copy(update={"started_at": "yesterday"}),
    ):
        keep(workplace.folder / "results", record)
    done = export(workplace, "results", "--to", "rows.parquet")
    assert done.code == 0
    assert "1 record of a rehearsal: see the column rehearsal" in done.errors
    frame = pd.read_parquet(workplace.folder / "rows.parquet")
    assert sorted(frame["device_kind"].unique()) == ["cpu-intel-xeon-2c", "nvidia-h200"]
    assert frame.query("rehearsal")["label"].tolist() == ["int8"]
    missing = frame.query("metric == 'load_time'").iloc[0]
    assert pd.isna(missing["value"])
    assert missing["reason"] == "could not be taken"
    failed = frame.query("status == 'oom'").iloc[0]
    assert (failed["reason"], pd.isna(failed["started_at"])) == ("out of memory", True)
    refused = export(workplace, "results", "--to", "more.parquet", "--items", "items.parquet")
    assert refused.code == 2
    assert "results holds no values by item; leave it out" in refused.errors
    assert not (workplace.folder / "more.parquet").exists()


def test_twice_is_the_same_and_what_is_there_is_kept(workplace: Workplace) -> None:
    def contents() -> Any:
        return {path.name: path.read_bytes() for path in workplace.folder.glob("*.parquet")}

    quality = str(REPOSITORY / "results" / "published" / "quality")
    both = (quality, "--to", "rows.parquet", "--items", "items.parquet")
    assert export(workplace, *both).code == 0
    before = contents()
    assert len(before) == 2
    refused = export(workplace, quality, "--to", "new.parquet", "--items", "items.parquet")
    assert refused.code == 2
    assert "--items items.parquet: is there already" in refused.errors
    assert not (workplace.folder / "new.parquet").exists()
    assert export(workplace, *both, "--force").code == 0
    assert contents() == before


def test_places_that_cannot_be(workplace: Workplace) -> None:
    def refused(*arguments: str) -> str:
        done = export(workplace, *arguments)
        assert done.code == 2
        return done.errors

    keep(workplace.folder / "results", make_record("nf4", metrics={"memory.static": 12.0}))
    (workplace.folder / "empty").mkdir()
    assert "found a folder" in refused("results", "--to", "empty")
    assert "found the file of --to" in refused("results", "--to", "a", "--items", "a")
    assert "no records there" in refused("empty", "--to", "a")
    (workplace.folder / "empty" / "quality-text-0123.json").write_text("{")
    assert "cut short or damaged" in refused("empty", "--to", "a")
    assert "no such folder" in refused("no-such", "--to", "a")
    workplace.write("file", "")
    assert "cannot be written" in refused("results", "--to", "file/rows.parquet")
