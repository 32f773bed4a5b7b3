"""Folders of results become one: what overlaps, clashes, is no record, or is missing."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import threading
import time
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.merge.merge import merge_results
from qbench.core.files import held
from qbench.core.record import SCHEMA_VERSION
from tests.record_factory import (
    cell_records,
    footprint_record,
    latency_record,
    make_environment,
    make_failure,
    make_metric,
    quality_record,
)
from tests.workplace import Finished, keep, place_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.merge.merge import Merged
    from qbench.core.record import Record
    from tests.workplace import Workplace

EARLY, LATE = "2026-07-01T12:00:00+00:00", "2026-07-02T12:00:00+00:00"
H200 = make_environment(
    device="NVIDIA H200", device_kind="nvidia-h200", device_type="cuda", device_memory_bytes=141
)


def merged(place: Workplace, *arguments: str, code: int = 0) -> Finished:
    finished = place.call_here("merge", *arguments)
    assert finished.code == code, finished.output + finished.errors
    return finished


def data(place: Workplace, *arguments: str, code: int = 0) -> dict[str, Any]:
    found = json.loads(merged(place, *arguments, "--format", "json", code=code).output)
    assert isinstance(found, dict)
    return found


def keep_in(place: Workplace, folder: str, *records: Record) -> list[Path]:
    return [keep(place.folder / folder, record) for record in records]


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their place."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def with_figure(record: Record, name: str, value: float | None, **changes: Any) -> Record:
    metrics = tuple(make_metric(name, value) if one.name == name else one for one in record.metrics)
    assert metrics != record.metrics
    return record.model_copy(update={"metrics": metrics, **changes})


def test_folders_that_overlap_become_one_and_stay_as_they_are(workplace: Workplace) -> None:
    shared, *first = cell_records("fp32")
    second = cell_records("nf4")
    keep_in(workplace, "a", shared, *first)
    keep_in(workplace, "b", shared, *second)
    before = files(workplace.folder / "a"), files(workplace.folder / "b")
    found = data(workplace, "a", "b")
    assert (found["new"], found["several"], found["not_joined"]) == (
        len([shared, *first, *second]),
        [],
        [],
    )
    assert files(workplace.folder / "results") == {**before[0], **before[1]}
    assert (files(workplace.folder / "a"), files(workplace.folder / "b")) == before
    again = data(workplace, "a", "b")
    assert (again["new"], again["replaced"], again["already"]) == (0, 0, found["new"])


@pytest.mark.parametrize("order", list(permutations("abc")))
def test_what_is_ok_goes_before_what_failed_whatever_the_order(
    workplace: Workplace, order: Sequence[str]
) -> None:
    good = quality_record("nf4", started_at=EARLY)
    (path,) = keep_in(workplace, "a", good)
    failed = good.model_copy(update={"status": "oom", "reason": "full", "metrics": ()})
    keep_in(workplace, "b", failed.model_copy(update={"started_at": LATE}))
    keep_in(workplace, "c", failed.model_copy(update={"status": "skipped", "started_at": LATE}))
    for preference in ([], ["--prefer", "first"], ["--prefer", "newest"]):
        found = data(workplace, *order, *preference)
        assert place_of(workplace.folder / "results", good).read_bytes() == path.read_bytes()
    assert found["several"][0]["why"] == "ok before failed"
    told = merged(workplace, *order).output
    assert "ok before failed" in told


def test_of_failures_the_newest_is_kept_and_one_before_what_was_skipped(
    workplace: Workplace,
) -> None:
    failure = make_failure("nf4", "latency", "crash", "killed", started_at=EARLY)
    keep_in(workplace, "a", failure)
    keep_in(workplace, "b", failure.model_copy(update={"status": "oom", "started_at": LATE}))
    keep_in(
        workplace,
        "c",
        failure.model_copy(update={"status": "skipped", "started_at": "2026-07-03T12:00:00+00:00"}),
    )
    data(workplace, "a", "b", "c")
    (record,) = workplace.records().values()
    assert record.status == "oom"


def test_a_record_with_more_figures_goes_before_one_with_fewer(workplace: Workplace) -> None:
    full = quality_record("nf4", started_at=EARLY)
    keep_in(workplace, "a", full)
    keep_in(workplace, "b", with_figure(full, "bits_per_byte", None, started_at=LATE))
    found = data(workplace, "b", "a", "--prefer", "first")
    assert [one["why"] for one in found["several"]] == ["more figures"]
    (record,) = workplace.records().values()
    assert record.value("bits_per_byte") is not None


def test_of_times_measured_twice_the_newest_is_kept_and_the_difference_told(
    workplace: Workplace,
) -> None:
    slow = latency_record("nf4", started_at=EARLY)
    decode_s = slow.value("latency.decode")
    assert decode_s is not None
    fast = with_figure(slow, "latency.decode", decode_s / 2, started_at=LATE)
    keep_in(workplace, "a", fast)
    keep_in(workplace, "b", slow)
    (choice,) = data(workplace, "a", "b")["several"]
    assert (choice["why"], choice["kept"].split("/")[0]) == ("measured twice", "a")
    (difference,) = choice["differences"]
    assert difference["metric"] == "latency.decode"
    assert difference["relative"] == pytest.approx(1.0)
    assert difference["should_be_equal"] is False
    told = merged(workplace, "b", "a", "--to", "first", "--prefer", "first").output
    assert "latency.decode" in told
    assert "(-50 %)" in told
    assert files(workplace.folder / "first") == files(workplace.folder / "b")


@pytest.mark.parametrize(
    ("record", "metric", "factor"),
    [
        (quality_record("nf4"), "perplexity", 1.01),
        (footprint_record("nf4"), "memory.static", 1.001),
        (footprint_record("nf4"), "bits_per_weight.linear", 1.001),
    ],
)
def test_figures_that_should_be_equal_and_are_not_clash(
    workplace: Workplace, record: Record, metric: str, factor: float
) -> None:
    value = record.value(metric)
    assert value is not None
    other = with_figure(record, metric, value * factor, started_at=LATE)
    free = latency_record("fp32")
    keep_in(workplace, "a", record, free)
    keep_in(workplace, "b", other)
    finished = merged(workplace, "a", "b", code=1)
    assert "Clashes" in finished.output
    assert metric in finished.output
    assert "--prefer" in finished.output
    assert [one.item.measurement for one in workplace.records().values()] == ["latency"]

    (row,) = csv.DictReader(
        io.StringIO(merged(workplace, "a", "b", "--format", "csv", code=1).output)
    )
    assert (row["kind"], row["kept"], row["metric"]) == ("clash", "", metric)

    for preference, kept in (("first", "a"), ("newest", "b")):
        found = data(workplace, "a", "b", "--to", preference, "--prefer", preference)
        assert [one["why"] for one in found["several"]] == ["clash"]
        at = place_of(Path(), record).as_posix()
        wanted = files(workplace.folder / kept)[at]
        assert files(workplace.folder / preference)[at] == wanted


def test_a_clash_leaves_the_target_as_it_was_and_first_is_the_target(workplace: Workplace) -> None:
    mine = quality_record("nf4", started_at=EARLY)
    keep_in(workplace, "results", mine)
    keep_in(workplace, "a", with_figure(mine, "perplexity", 99.0, started_at=LATE))
    before = files(workplace.folder / "results")
    merged(workplace, "a", code=1)
    assert files(workplace.folder / "results") == before
    merged(workplace, "a", "--prefer", "first")
    assert files(workplace.folder / "results") == before
    merged(workplace, "a", "results", "--prefer", "first")  # named, and not the first
    assert files(workplace.folder / "results") == files(workplace.folder / "a")


def test_rounding_is_no_clash(workplace: Workplace) -> None:
    record = quality_record("nf4")
    value = record.value("perplexity")
    assert value is not None
    keep_in(workplace, "a", record)
    keep_in(workplace, "b", with_figure(record, "perplexity", value * (1 + 1e-5), started_at=LATE))
    found = data(workplace, "a", "b")
    assert [(one["why"], one["differences"]) for one in found["several"]] == [
        ("measured twice", [])
    ]
    assert "1 measured twice with the same figures" in merged(workplace, "a", "b").output


def test_devices_suites_and_rehearsals_keep_to_themselves(workplace: Workplace) -> None:
    records = [
        footprint_record("nf4"),
        footprint_record("nf4", environment=H200),
        footprint_record("nf4", suite="other suite"),
    ]
    keep_in(workplace, "a", *records)
    rehearsed = footprint_record("nf4", rehearsal=("the model is a small one",))
    keep(workplace.folder / "b" / "rehearsal", rehearsed)
    data(workplace, "a", "b")
    assert files(workplace.folder / "results") == {
        **files(workplace.folder / "a"),
        **files(workplace.folder / "b"),
    }
    places = {path.relative_to(workplace.folder / "results").parts[:2] for path in _json(workplace)}
    assert places == {
        ("quickstart", "cpu-intel-xeon-2c"),
        ("quickstart", "nvidia-h200"),
        ("other-suite", "cpu-intel-xeon-2c"),
        ("rehearsal", "quickstart"),
    }


def test_what_is_no_record_is_told_and_the_others_are_joined(workplace: Workplace) -> None:
    good = footprint_record("fp32")
    (path,) = keep_in(workplace, "a", good)
    cut, newer, moved = (
        keep_in(workplace, "a", footprint_record(name))[0] for name in ("bf16", "nf4", "fp4")
    )
    cut.write_bytes(cut.read_bytes()[:100])
    newer.write_text(
        json.dumps({**json.loads(newer.read_text()), "schema_version": SCHEMA_VERSION + 1}),
        encoding="utf-8",
    )
    elsewhere = path.parent / moved.name
    moved.rename(elsewhere)
    (workplace.folder / "a" / "notes.json").write_text("{}", encoding="utf-8")
    (workplace.folder / "a" / "README").write_text("mine", encoding="utf-8")
    (workplace.folder / "a" / "baselines").mkdir()
    (workplace.folder / "a" / "baselines" / "quickstart.json").write_text("{}", encoding="utf-8")
    found = data(workplace, "a", code=1)
    assert found["new"] == 1
    assert list(workplace.records().values()) == [good]
    told = {Path(one["file"]).name: one["reason"] for one in found["not_joined"]}
    assert set(told) == {cut.name, newer.name, elsewhere.name, "notes.json"}
    assert "cut short" in told[cut.name]
    assert "upgrade qbench" in told[newer.name]
    assert "belongs at quickstart/cpu-intel-xeon-2c/tiny-mistral--fp4/" in told[elsewhere.name]
    assert "not a qbench record" in told["notes.json"]
    assert [one.partition(":")[0] for one in found["left"]] == ["a/README", "a/baselines"]
    screen = merged(workplace, "a", code=1).output
    assert "4 files could not be joined" in screen


def test_links_and_names_that_lead_out_are_not_followed(
    workplace: Workplace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    secret = keep(outside, footprint_record("bf16"))
    (path,) = keep_in(workplace, "a", footprint_record("fp32"))
    (path.parent / secret.name).symlink_to(secret)
    (workplace.folder / "a" / "linked").symlink_to(outside)
    wicked = footprint_record("nf4").model_dump(mode="json")
    wicked["item"]["measurement"] = "../../../../../escaped"
    named = f"x-{wicked['key']}.json"
    (path.parent / named).write_text(json.dumps(wicked), encoding="utf-8")
    found = data(workplace, "a", code=1)
    assert found["new"] == 1
    assert any("links are not followed" in one for one in found["left"])
    assert [Path(one["file"]).name for one in found["not_joined"]] == [named]
    assert not list(workplace.folder.rglob("*escaped*"))
    assert [one.name for one in _json(workplace)] == [path.name]


def test_logs_are_joined_once(workplace: Workplace) -> None:
    record = footprint_record("fp32")
    for folder, text in (("a", "--- 1\nhello\n"), ("b", "--- 2\nworld"), ("c", "--- 1\nhello\n")):
        (path,) = keep_in(workplace, folder, record)
        (path.parent / "worker.log").write_text(text, encoding="utf-8")
    stray = workplace.folder / "a" / "other"
    stray.mkdir()
    (stray / "worker.log").write_text("of no record", encoding="utf-8")
    for _ in range(2):
        merged(workplace, "a", "b", "c")
        assert list(workplace.logs().values()) == ["--- 1\nhello\n--- 2\nworld"]
    for folder, text in (("a", "--- 3\nmore\n"), ("b", "\n--- 4\nand more\n")):
        (log,) = (workplace.folder / folder).rglob(f"{path.parent.name}/worker.log")
        log.write_text(log.read_text(encoding="utf-8") + text, encoding="utf-8")
    for _ in range(2):
        merged(workplace, "a", "b", "c")
        assert list(workplace.logs().values()) == [
            "--- 1\nhello\n--- 2\nworld\n--- 3\nmore\n--- 4\nand more\n"
        ]


def test_a_suites_folder_is_joined_and_results_within_results_are_not(
    workplace: Workplace,
) -> None:
    (path,) = keep_in(workplace, "a", footprint_record("fp32"))
    keep_in(workplace, "a/published", footprint_record("bf16"))
    found = data(workplace, "a")
    assert found["left"] == [
        "a/published: 1 record of another folder of results within; name it by itself"
    ]
    assert [one.name for one in _json(workplace)] == [path.name]
    for inner in (path.parents[2], path.parents[1], path.parent):
        data(workplace, str(inner), "--to", inner.name)
        assert len(_json(workplace, inner.name)) == 1
        assert place_of(workplace.folder / inner.name, footprint_record("fp32")).exists()
    refused = workplace.call_here("merge", "published")
    assert (refused.code, "found nothing; expected a folder of results" in refused.errors) == (
        2,
        True,
    )


def test_a_link_that_is_named_stands_for_what_it_leads_to(workplace: Workplace) -> None:
    (path,) = keep_in(workplace, "a", footprint_record("fp32"))
    keep_in(workplace, "a/published", footprint_record("bf16"))
    for number, folder in enumerate([workplace.folder / "a", *list(path.parents)[:3]]):
        link = workplace.folder / f"link-{number}"
        link.symlink_to(folder)
        found = data(workplace, link.name, "--to", f"to-{number}")
        assert (found["new"], found["not_joined"]) == (1, [])
    assert data(workplace, "link-0")["left"] == [
        "link-0/published: 1 record of another folder of results within; name it by itself"
    ]


def test_results_side_by_side_in_a_folder_are_to_be_named(workplace: Workplace) -> None:
    keep_in(workplace, "artifacts/shard-1", footprint_record("fp32"))
    refused = workplace.call_here("merge", "artifacts")
    assert refused.code == 2
    assert "artifacts/shard-1: 1 record of another folder of results within" in refused.errors
    assert not (workplace.folder / "results").exists()


def test_the_targets_own_files_are_kept_or_mended(workplace: Workplace) -> None:
    damaged, newer = footprint_record("fp32"), footprint_record("nf4")
    keep_in(workplace, "a", damaged, newer)
    broken, other = keep_in(workplace, "results", damaged, newer)
    broken.write_text("{", encoding="utf-8")
    version = {**json.loads(other.read_text()), "schema_version": SCHEMA_VERSION + 1}
    other.write_text(json.dumps(version), encoding="utf-8")
    found = data(workplace, "results", "a", code=1)
    assert json.loads(other.read_text()) == version
    assert (
        broken.read_bytes()
        == files(workplace.folder / "a")[
            broken.relative_to(workplace.folder / "results").as_posix()
        ]
    )
    assert {Path(one["file"]).name for one in found["not_joined"]} == {other.name}


def test_a_dry_run_tells_the_same_and_writes_nothing(workplace: Workplace) -> None:
    keep_in(workplace, "a", *cell_records("fp32"))
    keep_in(workplace, "b", *cell_records("nf4"))
    told = data(workplace, "a", "b", "--dry-run")
    assert not (workplace.folder / "results").exists()
    done = data(workplace, "a", "b")
    assert {**told, "dry_run": False} == done


def test_a_killed_merge_leaves_whole_records_and_goes_on(workplace: Workplace) -> None:
    records = [
        quality_record("nf4", text=f"text-{number}", started_at=EARLY) for number in range(150)
    ]
    keep_in(workplace, "a", *records)
    keep_in(workplace, "b", *(one.model_copy(update={"started_at": LATE}) for one in records[::2]))
    with workplace.start("merge", "a", "b") as process:
        while process.poll() is None and len(_json(workplace)) < 5:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    there = workplace.records()  # each of them is whole
    assert 5 <= len(there) <= len(records)
    merged(workplace, "a", "b")
    wanted = {**files(workplace.folder / "a"), **files(workplace.folder / "b")}
    assert files(workplace.folder / "results") == wanted


def test_of_two_merges_at_once_the_second_sees_what_the_first_one_joined(
    workplace: Workplace,
) -> None:
    record = quality_record("nf4")
    keep_in(workplace, "a", record)
    target = workplace.folder / "results"
    target.mkdir()
    found: list[Merged] = []
    second = threading.Thread(
        target=lambda: found.append(merge_results([workplace.folder / "a"], target))
    )
    waiting = re.compile(rf"-> FLOCK .*:{target.stat().st_ino} ")
    with held(target):  # as the first one has it
        second.start()
        while not waiting.search(Path("/proc/locks").read_text(encoding="utf-8")):
            assert second.is_alive()
            time.sleep(0.01)
        keep_in(workplace, "results", with_figure(record, "perplexity", 99.0))
    second.join()
    assert (found[0].new, len(found[0].undecided)) == (0, 1)


def test_a_target_that_cannot_be_written_is_told(workplace: Workplace) -> None:
    keep_in(workplace, "a", footprint_record("fp32"))
    (workplace.folder / "results").write_text("a file", encoding="utf-8")
    refused = workplace.call_here("merge", "a")
    assert refused.code == 2
    assert "results: the results folder cannot be written" in refused.errors
    assert "choose another with --to" in refused.errors


def test_names_stay_in_one_line_whatever_is_in_them(workplace: Workplace) -> None:
    name = "odd\n::error::\x1b[31m name"
    keep_in(workplace, name, footprint_record("fp32"))
    (damaged,) = keep_in(workplace, name, footprint_record("nf4"))
    damaged.write_text("{", encoding="utf-8")
    told = merged(workplace, name, "--to", "to\nhere", code=1).output
    assert "\n::error::" not in told
    assert "\x1b" not in told
    assert told.startswith("odd ::error::\\x1b[31m name joined into to here\n")


def test_many_folders_and_many_differences_are_shown_shortly(workplace: Workplace) -> None:
    names = [f"shard-{number}" for number in range(30)]
    record = latency_record("nf4")
    value = record.value("latency.decode")
    assert value is not None
    for number, name in enumerate(names):
        at = f"2026-07-01T12:00:{number:02}+00:00"
        for text in range(30 if number < 2 else 1):
            item = record.item.model_copy(update={"slug": f"b1-p{text}-n32"})
            keep_in(
                workplace,
                name,
                with_figure(
                    record, "latency.decode", value * (2 + number), started_at=at, item=item
                ),
            )
    screen = merged(workplace, *names).output
    assert screen.count("and 10 more") == 2
    assert screen.startswith("shard-0, shard-1, shard-2 and 27 more joined into results")
    whole = merged(workplace, *names, "--to", "other", "--format", "markdown").output
    assert "b1-p29-n32" in whole
    assert "shard-29: 1 record, 1 ok" in whole


def test_a_preference_that_is_none_is_refused(workplace: Workplace) -> None:
    keep_in(workplace, "a", footprint_record("fp32"))
    refused = workplace.call_here("merge", "a", "--prefer", "best")
    assert refused.code == 2
    assert "--prefer: found 'best'; expected first" in refused.errors


def _json(place: Workplace, folder: str = "results") -> list[Path]:
    return [path for path in sorted((place.folder / folder).rglob("*.json")) if path.name[0] != "."]
