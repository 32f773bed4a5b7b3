"""Records on disk: whole or not there, never lost, and told apart when they cannot be read."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from threading import Thread

import pytest

from qbench.core.errors import StoreError
from qbench.core.store import (
    DamagedRecordError,
    NewerRecordError,
    append_to_log,
    check_writable,
    read_folder,
    read_record,
    write_record,
)
from tests.record_factory import (
    footprint_record,
    latency_record,
    make_failure,
    quality_record,
    quickstart_records,
)
from tests.workplace import keep, place_of


class TestPaths:
    def test_a_record_lies_under_its_suite_device_and_cell(self) -> None:
        record = footprint_record("nf4")
        folder = Path("results/quickstart/cpu-intel-xeon-2c/tiny-mistral--nf4")
        assert place_of(Path("results"), record) == folder / f"footprint-model-{record.key}.json"

    def test_a_repeat_is_named(self) -> None:
        record = latency_record("nf4", repeat=2)
        assert place_of(Path(), record).name == f"latency-b1-p128-n32-r2-{record.key}.json"

    def test_no_two_records_of_a_suite_share_a_file(self) -> None:
        records = quickstart_records()
        assert len({place_of(Path(), record) for record in records}) == len(records)

    def test_a_changed_option_keeps_the_old_record(self, tmp_path: Path) -> None:
        old, new = (footprint_record("nf4", params={"option": value}) for value in (1, 2))
        keep(tmp_path, old)
        keep(tmp_path, new)
        assert {r.key for r in read_folder(tmp_path)[0]} == {old.key, new.key}


class TestLogs:
    def test_a_log_grows_in_a_folder_that_is_made(self, tmp_path: Path) -> None:
        log = tmp_path / "cell" / "worker.log"
        append_to_log(log, "one\n")
        append_to_log(log, "two\n")
        assert log.read_text(encoding="utf-8") == "one\ntwo\n"

    def test_one_that_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="log cannot be written"):
            append_to_log(tmp_path, "one\n")


class TestWriting:
    def test_what_is_written_is_read_back_equal(self, tmp_path: Path) -> None:
        failure = make_failure("nf4", "memory", "crash", "Sörry\nit “died”", log_tail="é\t")
        for record in [*quickstart_records(), failure]:
            assert read_record(keep(tmp_path, record)) == record

    def test_nothing_is_left_beside_it(self, tmp_path: Path) -> None:
        path = keep(tmp_path, footprint_record("nf4"))
        keep(tmp_path, footprint_record("nf4", started_at="2027-01-01T00:00:00+00:00"))
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    def test_others_may_read_it(self, tmp_path: Path) -> None:
        assert keep(tmp_path, footprint_record("nf4")).stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    @pytest.mark.parametrize(
        "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
    )
    def test_a_failure_keeps_the_old_record(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        step: str,
        failure: BaseException,
    ) -> None:
        old = footprint_record("nf4")
        path = keep(tmp_path, old)

        def fail(*_: object) -> None:
            raise failure

        with monkeypatch.context() as patched:
            patched.setattr(os if step == "fsync" else Path, step, fail)
            with pytest.raises((StoreError, KeyboardInterrupt)) as caught:
                write_record(path, old.model_copy(update={"started_at": "later"}))
        if isinstance(failure, OSError):
            assert str(path) in str(caught.value)
            assert "No space left on device" in str(caught.value)
            assert "free space" in str(caught.value)
        assert read_record(path) == old
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "quickstart").write_text("in the way", encoding="utf-8")
        with pytest.raises(StoreError, match="cannot be written"):
            keep(tmp_path, footprint_record("nf4"))
        assert (tmp_path / "quickstart").read_text(encoding="utf-8") == "in the way"

    def test_readers_never_see_half_a_record(self, tmp_path: Path) -> None:
        versions = [quality_record("nf4", started_at=f"{year}") for year in (2026, 2027)]
        path = keep(tmp_path, versions[0])

        def write_often() -> None:
            for turn in range(40):
                write_record(path, versions[turn % 2])

        writers = [Thread(target=write_often) for _ in range(2)]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            assert read_record(path) in versions
        for writer in writers:
            writer.join()


class TestReading:
    def test_none_where_there_is_no_file(self, tmp_path: Path) -> None:
        assert read_record(tmp_path / "absent.json") is None

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
    def test_cut_short(self, tmp_path: Path, share: float) -> None:
        path = keep(tmp_path, quality_record("nf4"))
        contents = path.read_bytes()
        path.write_bytes(contents[: int(share * len(contents))])
        with pytest.raises(DamagedRecordError, match="cut short or damaged") as caught:
            read_record(path)
        assert str(path) in str(caught.value)
        assert "delete the file" in str(caught.value)

    @pytest.mark.parametrize("text", ["[]", "3", "null", "{}", '{"schema_version": 1}', '"text"'])
    def test_json_that_is_no_record(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "a.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DamagedRecordError, match="not a qbench record"):
            read_record(path)

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(b'{"a": "\xff\xfe"}')
        with pytest.raises(DamagedRecordError, match="not UTF-8"):
            read_record(path)

    def test_a_field_of_the_wrong_type_is_named(self, tmp_path: Path) -> None:
        path = keep(tmp_path, footprint_record("nf4"))
        data = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**data, "status": "great"}), encoding="utf-8")
        with pytest.raises(DamagedRecordError, match="status"):
            read_record(path)

    def test_deep_nesting(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_text("[" * 100_000, encoding="utf-8")
        with pytest.raises(DamagedRecordError):
            read_record(path)

    def test_a_newer_version_is_refused_whatever_else_it_holds(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        text = '{"schema_version": 2, "no": "such field yet"}'
        path.write_text(text, encoding="utf-8")
        with pytest.raises(NewerRecordError, match=r"version 2, .* up to 1.*upgrade qbench"):
            read_record(path)
        assert path.read_text(encoding="utf-8") == text

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="cannot be read"):
            read_record(tmp_path)


class TestFolders:
    def test_records_come_in_the_order_they_were_taken(self, tmp_path: Path) -> None:
        for day, precision in enumerate(("nf4", "fp32", "int8"), start=1):
            keep(tmp_path, footprint_record(precision, started_at=f"2026-07-{10 - day:02d}"))
        records, unreadable = read_folder(tmp_path)
        assert [record.cell.precision.label for record in records] == ["int8", "fp32", "nf4"]
        assert unreadable == []

    def test_files_that_are_none_are_listed_and_the_rest_is_read(self, tmp_path: Path) -> None:
        whole = footprint_record("fp32")
        folder = keep(tmp_path, whole).parent
        (folder / "cut.json").write_text('{"key', encoding="utf-8")
        (folder / "newer.json").write_text('{"schema_version": 9}', encoding="utf-8")
        records, unreadable = read_folder(tmp_path)
        assert records == [whole]
        assert {(file.path.name, type(file.error)) for file in unreadable} == {
            ("cut.json", DamagedRecordError),
            ("newer.json", NewerRecordError),
        }

    def test_what_a_kill_leaves_behind_is_no_record(self, tmp_path: Path) -> None:
        path = keep(tmp_path, footprint_record("fp32"))
        (path.parent / f".{path.name}.abc123.part").write_text('{"key', encoding="utf-8")
        (path.parent / ".hidden.json").write_text('{"key', encoding="utf-8")
        (path.parent / "worker.log").write_text("words", encoding="utf-8")
        records, unreadable = read_folder(tmp_path)
        assert len(records) == 1
        assert unreadable == []

    @pytest.mark.parametrize("name", ["absent", "file"])
    def test_no_folder(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_text("", encoding="utf-8")
        with pytest.raises(StoreError, match=rf"{name}: no such folder of results.*qbench run"):
            read_folder(tmp_path / name)


class TestWritable:
    def test_the_folder_is_made_and_left_empty(self, tmp_path: Path) -> None:
        check_writable(tmp_path / "a" / "b")
        assert list((tmp_path / "a" / "b").iterdir()) == []

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "results").write_text("mine", encoding="utf-8")
        with pytest.raises(StoreError, match=r"results: .*cannot be written.*--results"):
            check_writable(tmp_path / "results")
        assert (tmp_path / "results").read_text(encoding="utf-8") == "mine"

    def test_a_folder_that_nobody_can_write(self) -> None:
        with pytest.raises(StoreError, match="cannot be written"):
            check_writable(Path("/proc/results"))

    def test_a_disk_that_is_nearly_full(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"MiB free.*free space"):
            check_writable(tmp_path, least_free_bytes=2**62)
