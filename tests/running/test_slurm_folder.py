"""What the driver and the jobs in Slurm leave for each other: events, records, who begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import UsageError
from qbench.core.store import read_record
from qbench.plan.plan import make_plan
from qbench.plan.suite.suite import load_suite_text
from qbench.running.executors.slurm.folder import Entry, SlurmFolder, Submitted, gather

if TYPE_CHECKING:
    from qbench.plan.job import Job
    from qbench.plan.suite.suite import Suite

SUITE = "models: bundled:tiny-mistral\nprecisions: [fp32]\nmeasure: [footprint]\n"


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / "cache"))
    return load_suite_text(SUITE, "suite.yaml", tmp_path)


@pytest.fixture
def folder(suite: Suite, tmp_path: Path) -> SlurmFolder:
    return SlurmFolder(suite, tmp_path / "results")


@pytest.fixture
def job(suite: Suite, tmp_path: Path) -> Job:
    (found,) = make_plan(suite, tmp_path / "results", device="cpu").jobs(lambda _: True)
    return found


def test_a_line_that_a_kill_cut_short_is_no_event(folder: SlurmFolder) -> None:
    entry = folder.add({})
    entry.tell({"event": "begun"})
    with (entry.folder / "events").open("ab") as file:
        file.write(b'{"event": "record", "ind')
    assert [event["event"] for event, _ in entry.events()] == ["begun"]
    read = [end for _, end in entry.events()][-1]
    entry.end_torn_line()
    entry.end_torn_line()
    entry.tell({"event": "ended"})
    assert [event["event"] for event, _ in entry.events(read)] == ["ended"]
    assert (entry.folder / "events").read_bytes().count(b"\n") == 3
    assert entry.has_ended


def test_a_character_of_two_bytes_that_is_cut_is_read_once_it_is_whole(folder: SlurmFolder) -> None:
    entry = folder.add({})
    line = '{"event": "log", "text": "é"}\n'.encode()
    for size in range(1, len(line)):
        (entry.folder / "events").write_bytes(line[:size])
        assert [*entry.events()] == []
    (entry.folder / "events").write_bytes(line)
    assert [event["text"] for event, _ in entry.events()] == ["é"]


def test_one_side_alone_decides_whether_a_job_begins(folder: SlurmFolder) -> None:
    first, second = folder.add({}), folder.add({})
    assert first.take_up()
    assert not first.take_back()
    assert first.take_up()  # Slurm has started it once more
    assert second.take_back()
    assert second.take_back()
    assert not second.take_up()
    gone = folder.add({})
    gone.remove()
    assert not gone.take_up()


def test_how_a_job_is_found_is_kept(folder: SlurmFolder) -> None:
    entry = folder.add({})
    assert entry.submitted() is None
    entry.keep_submitted(Submitted("12_3", None, "out"))
    assert [Entry(one.folder).submitted() for one in folder.entries()] == [
        Submitted("12_3", None, "out")
    ]


def test_an_entry_that_was_not_finished_is_removed(folder: SlurmFolder) -> None:
    (folder.path / "job-half").mkdir()
    damaged = folder.add({})
    (damaged.folder / "told.json").write_text('{"job": ', encoding="utf-8")
    assert folder.entries() == []
    assert [*folder.path.glob("job-*")] == []


def test_an_entry_whose_removal_was_cut_short_is_none(
    folder: SlurmFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = folder.add_look()
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # killed at the beginning
    entry.remove()
    assert folder.entries() == []


def test_records_are_gathered_unless_later_ones_are_there(folder: SlurmFolder, job: Job) -> None:
    path = Path(job.tasks[0].path)

    def told(started_at: str, reason: str) -> None:
        record = job.record(
            job.tasks[0], "crash", reason=reason, phase="load", started_at=started_at
        )
        # By another version of qbench, whose jobs have more to them.
        entry = folder.add({"job": job.model_dump(mode="json") | {"more": 1}})
        entry.tell({"event": "record", "index": 0, "text": record.model_dump_json()})
        entry.tell({"event": "record", "index": 0, "text": record.model_dump_json()[:40]})
        size = (entry.folder / "events").stat().st_size
        assert gather(entry) == size

    def reason() -> str | None:
        record = read_record(path)
        assert record is not None
        return record.reason

    told("2026-01-02T00:00:00.000Z", "second")
    assert reason() == "second"
    told("2026-01-01T00:00:00.000Z", "first")
    assert reason() == "second"
    told("2026-01-03T00:00:00.000Z", "third")
    assert reason() == "third"
    path.write_text("damaged", encoding="utf-8")
    told("2026-01-01T00:00:00.000Z", "first")
    assert reason() == "first"


def test_another_run_of_the_same_results_is_kept_out(folder: SlurmFolder) -> None:
    held = folder.held()
    with pytest.raises(UsageError, match="another run has jobs of this suite"):
        folder.held()
    os.close(held)
    os.close(folder.held())
