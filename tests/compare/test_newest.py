"""The newest of many records: the same with an index as without, whatever happened to the files."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare import newest, record_index
from qbench.compare.newest import each_once, read_newest
from qbench.compare.record_index import index_path
from qbench.compare.selection import select
from qbench.core import store
from qbench.core.cache import sweep_cache
from qbench.core.errors import StoreError
from qbench.core.record import content_key
from qbench.core.store import read_folder, write_record
from qbench.report.files import by_suite, together
from tests.record_factory import (
    footprint_record,
    latency_record,
    make_environment,
    make_failure,
    memory_record,
    quickstart_records,
)
from tests.workplace import Workplace, keep, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qbench.core.record import Record
    from qbench.core.store import UnreadableFile

TICK_S = 0.02
"""Longer than a tick of the file system's clock; as the time in which a file is not trusted."""


@pytest.fixture(autouse=True)
def _any_number_is_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "MANY", 1)
    monkeypatch.setattr(record_index, "_RACY_NS", TICK_S * 1e9)


@pytest.fixture
def read_paths(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read while there is an index."""
    paths: list[Path] = []

    def read(path: Path, unreadable: list[UnreadableFile]) -> Record | None:
        paths.append(path)
        return store.read_or_note(path, unreadable)

    monkeypatch.setattr(record_index, "read_or_note", read)
    return paths


def version_of(record: Record, version: int, **changes: Any) -> Record:
    """The record as another version of a package took it, so many hours later."""
    identity = {**record.identity, "version": version, **changes.pop("identity", {})}
    started = f"2026-08-{1 + version // 24:02}T{version % 24:02}:00:00+00:00"
    made = {"identity": identity, "key": content_key(identity), "started_at": started}
    return record.model_copy(update=made | changes)


def write_history(results: Path, versions: int = 6) -> None:
    for version in range(versions):
        for record in (footprint_record("nf4"), latency_record("nf4", 1), memory_record("fp32")):
            keep(results, version_of(record, version))
    time.sleep(2 * TICK_S)


def shown(found: tuple[Sequence[Record], Sequence[UnreadableFile]]) -> list[Any]:
    """All that a report, a comparison or a claim makes of what was read."""
    records, unreadable = found
    parts = [list(records), *by_suite(records), *together(records)]
    parts += [
        [record for record in records if record.cell.model.location == location]
        for location in sorted({record.cell.model.location for record in records})
    ]
    parts.append([record for record in records if not record.rehearsal])
    return [
        [select(part) for part in parts],
        list(dict.fromkeys((record.suite, record.cell.label) for record in records)),
        [(file.path, str(file.error)) for file in unreadable],
    ]


def without_index(*folders: Path) -> tuple[list[Record], list[UnreadableFile]]:
    parts = [read_folder(folder) for folder in folders]
    records = each_once([record for found, _ in parts for record in found])
    return records, [file for _, refused in parts for file in refused]


def assert_alike(*folders: Path) -> None:
    expected = shown(without_index(*folders))
    assert _bare(shown(read_newest(*folders))) == _bare(expected)


def _bare(found: list[Any]) -> list[Any]:
    """Records by what is written of them: two are not unlike in what they stand for."""
    selections, *others = found
    return [
        [
            (
                one.protocol,
                one.older,
                one.other_protocols,
                one.other_weights,
                [(cell.place, cell.reference) for cell in one.cells],
                [record.model_dump_json() for record in one.records],
            )
            for one in selections
        ],
        *others,
    ]


class TestWhatIsRead:
    def test_of_a_history_the_newest_alone_the_second_time(
        self, tmp_path: Path, read_paths: list[Path]
    ) -> None:
        write_history(tmp_path, versions=30)
        assert_alike(tmp_path)
        assert len(read_paths) > 90
        read_paths.clear()
        assert_alike(tmp_path)
        # The newest of three things, and the first of two cells.
        assert len(read_paths) == 5

    def test_each_stands_for_those_before_it(self, tmp_path: Path) -> None:
        write_history(tmp_path, versions=9)
        for _ in range(2):
            found, unreadable = read_newest(tmp_path)
            assert unreadable == []
            assert sum(1 + record.older for record in found) == 27
            assert select(found).older == 24

    def test_what_was_written_a_moment_ago_is_read_again(
        self, tmp_path: Path, read_paths: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_history(tmp_path)
        monkeypatch.setattr(record_index, "_RACY_NS", 10**12)
        for _ in range(2):
            read_paths.clear()
            assert_alike(tmp_path)
            assert len(read_paths) > 18
        assert not index_path(tmp_path).exists()

    def test_few_records_are_all_read_and_no_index_is_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_history(tmp_path)
        monkeypatch.setattr(newest, "MANY", 19)
        assert len(read_newest(tmp_path)[0]) == 18
        assert not index_path(tmp_path).exists()

    def test_a_folder_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="no such folder of results"):
            read_newest(tmp_path / "nowhere")

    def test_copies_count_once(self, tmp_path: Path) -> None:
        write_history(tmp_path / "a")
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        keep(tmp_path / "b", version_of(footprint_record("nf4"), 40))
        for _ in range(2):
            assert_alike(tmp_path)
            assert_alike(tmp_path / "b", tmp_path / "a", tmp_path)
            assert select(read_newest(tmp_path / "a", tmp_path / "b")[0]).older == 16

    def test_a_second_name_of_a_file_is_told_from_its_first(self, tmp_path: Path) -> None:
        write_history(tmp_path)
        path = place_of(tmp_path, version_of(footprint_record("nf4"), 5))
        path.with_name("second.json").hardlink_to(path)
        time.sleep(2 * TICK_S)
        for _ in range(2):
            assert_alike(tmp_path)
            assert len(read_newest(tmp_path)[1]) == 1

    def test_weights_that_came_back_are_found_behind_others(self, tmp_path: Path) -> None:
        """Of a thing not the newest record then, but that of the weights of its cell's newest."""
        for version, weights in ((0, "none"), (1, "first"), (2, "second")):
            model = {"model": {"fingerprint": weights, "revision": None}}
            keep(tmp_path, version_of(footprint_record("nf4"), version, identity=model))
        model = {"model": {"fingerprint": "first", "revision": None}}
        keep(tmp_path, version_of(memory_record("nf4"), 3, identity=model))
        for _ in range(2):
            assert_alike(tmp_path)
            selection = select(read_newest(tmp_path)[0])
            assert (len(selection.records), selection.other_weights) == (2, 2)

    def test_how_long_a_thing_took_is_known_by_the_last_that_went_well(
        self, tmp_path: Path
    ) -> None:
        for version, took_s in ((0, 3.0), (1, 4.0), (2, 5.0)):
            keep(tmp_path, version_of(footprint_record("nf4"), version, duration_s=took_s))
        failed = make_failure("nf4", "footprint", "crash", "it died", slug="model")
        keep(tmp_path, version_of(failed, 3))
        time.sleep(2 * TICK_S)
        for _ in range(2):
            found = [one for one in read_newest(tmp_path)[0] if one.older]
            assert [(one.status, one.duration_s, one.older) for one in found] == [("ok", 5.0, 1)]
            assert_alike(tmp_path)

    def test_a_file_replaced_while_records_are_chosen_is_seen(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_history(tmp_path)
        read_newest(tmp_path)
        choose = record_index._Rows.chosen
        last = version_of(footprint_record("nf4"), 5)

        def removed_first(rows: Any) -> list[Record]:
            place_of(tmp_path, last).unlink(missing_ok=True)
            return choose(rows)

        monkeypatch.setattr(record_index._Rows, "chosen", removed_first)
        found = read_newest(tmp_path)
        assert _bare(shown(found)) == _bare(shown(without_index(tmp_path)))
        assert last.key not in {record.key for record in found[0]}


class TestTheIndex:
    @pytest.mark.parametrize("seed", range(5))
    def test_tells_the_same_after_any_change(self, tmp_path: Path, seed: int) -> None:
        chance = random.Random(seed)
        results = tmp_path / "results"
        write_history(results, versions=3)
        outside = tmp_path / "outside"
        write_history(outside, versions=1)
        for _ in range(6):
            for _ in range(chance.randrange(6)):
                chance.choice(CHANGES)(results, outside, chance)
            if chance.random() < 0.7:
                time.sleep(2 * TICK_S)
            assert_alike(results)
            assert_alike(results / "quickstart", outside, results)

    @pytest.mark.parametrize("damage", ["cut", "empty", "noise", "bits", "folder"])
    def test_is_made_anew_when_it_is_damaged(self, tmp_path: Path, damage: str) -> None:
        write_history(tmp_path)
        for seed in range(3):
            read_newest(tmp_path)
            _damage(index_path(tmp_path), damage, random.Random(seed))
            assert_alike(tmp_path)
            assert_alike(tmp_path)
            if damage == "folder":
                return

    def test_of_another_version_is_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_history(tmp_path)
        read_newest(tmp_path)
        old = index_path(tmp_path)
        before = old.read_bytes()
        monkeypatch.setattr(record_index, "INDEX_VERSION", 0)
        assert_alike(tmp_path)
        assert index_path(tmp_path).is_file()
        assert index_path(tmp_path) != old
        assert old.read_bytes() == before

    def test_need_not_be_writable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_history(tmp_path / "results")
        (tmp_path / "file").write_text("in the way", encoding="utf-8")
        monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / "file" / "cache"))
        assert_alike(tmp_path / "results")

    def test_may_have_a_quote_in_its_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_history(tmp_path / "results")
        monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / 'it\'s; "mine"'))
        assert_alike(tmp_path / "results")
        assert index_path(tmp_path / "results").is_file()

    def test_a_kill_while_it_is_written_leaves_the_old_one(self, tmp_path: Path) -> None:
        write_history(tmp_path)
        read_newest(tmp_path)
        before = index_path(tmp_path).read_bytes()
        keep(tmp_path, version_of(footprint_record("nf4"), 50))
        time.sleep(2 * TICK_S)
        process = get_context("fork").Process(target=_killed_before_it_is_moved, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert index_path(tmp_path).read_bytes() == before
        assert len(list(index_path(tmp_path).parent.iterdir())) == 2
        assert_alike(tmp_path)
        sweep_cache()
        assert list(index_path(tmp_path).parent.iterdir()) == [index_path(tmp_path)]

    def test_four_processes_at_once_tell_the_same(self, tmp_path: Path) -> None:
        write_history(tmp_path)
        with get_context("fork").Pool(4) as pool:
            for version in range(6, 9):
                keep(tmp_path, version_of(footprint_record("nf4"), version))
                told = pool.map(_keys, [tmp_path] * 4)
                assert told == [_keys(tmp_path)] * 4
                assert_alike(tmp_path)


class TestCommands:
    @pytest.mark.parametrize(
        "command",
        [
            ["report", "--format", "markdown", "--output", "-"],
            ["report", "--format", "json", "--output", "-"],
            ["report", "results/other", "results/quickstart", "--output", "-"],
            ["compare", "results/quickstart", "results/other"],
            ["compare", "nf4", "fp32"],
            ["recommend", "results/quickstart", "--max-perplexity-increase", "2%"],
            ["claims"],
            ["baseline", "suite.yaml", "-o", "baseline.json"],
        ],
        ids=" ".join,
    )
    def test_print_the_same_with_an_index(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
    ) -> None:
        place = Workplace(tmp_path, tmp_path / "no-model")
        for suite, versions in (("quickstart", (3, 1)), ("other", (5,))):
            for version in versions:
                for record in quickstart_records():
                    if record.cell.precision.label in ("fp32", "int8", "nf4"):
                        keep(tmp_path / "results", version_of(record, version, suite=suite))
        place.write("results/quickstart/broken.json", "{")
        place.write("suite.yaml", "name: quickstart\nmodels: [bundled:tiny-mistral]\n")
        told = []
        for many in (10**9, 1, 1):
            monkeypatch.setattr(newest, "MANY", many)
            (tmp_path / "baseline.json").unlink(missing_ok=True)
            told.append(place.call_here(*command))
        assert told[0].output or told[0].errors
        assert told[1] == told[0]
        assert told[2] == told[0]


def _keys(folder: Path) -> list[str]:
    return sorted(record.key for record in read_newest(folder)[0])


def _killed_before_it_is_moved(folder: Path) -> None:
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if self.suffix == ".duckdb":
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = killed  # type: ignore[method-assign, assignment]
    read_newest(folder)


def _damage(index: Path, how: str, chance: random.Random) -> None:
    whole = bytearray(index.read_bytes())
    if how == "folder":
        index.unlink()
        index.mkdir()
        return
    if how == "bits":
        for _ in range(400):
            whole[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    contents = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "noise": chance.randbytes(len(whole)),
        "bits": whole,
    }
    index.write_bytes(contents[how])


def _some_file(results: Path, chance: random.Random) -> Path:
    files = sorted(path for path in results.rglob("*.json") if path.is_file())
    return chance.choice(files) if files else keep(results, footprint_record("nf4"))


def _some_record(chance: random.Random) -> Record:
    record = chance.choice(
        [
            footprint_record("nf4"),
            footprint_record("fp32", suite="other"),
            latency_record("nf4", chance.randrange(3)),
            make_failure("nf4", "footprint", "oom", "no room", slug="model"),
            memory_record("nf4", environment=make_environment(device_kind="cpu-other")),
        ]
    )
    changes: dict[str, Any] = {"protocol": chance.choice(["1", "2", "2", "10"])}
    if chance.random() < 0.3:
        weights = chance.choice([None, "a", "b"])
        changes["identity"] = {"model": {"fingerprint": weights, "revision": None}}
    if chance.random() < 0.2:
        changes["rehearsal"] = ("less",)
    if chance.random() < 0.3:
        model = record.cell.model.model_copy(update={"location": "elsewhere"})
        changes["cell"] = record.cell.model_copy(update={"model": model})
    return version_of(record, chance.randrange(30), **changes)


def _add(results: Path, outside: Path, chance: random.Random) -> None:
    keep(results, _some_record(chance))


def _replace(results: Path, outside: Path, chance: random.Random) -> None:
    """By another of the same key, as a run that is repeated does."""
    path = _some_file(results, chance)
    record = _some_record(chance)
    with_key = record.model_copy(update={"key": path.stem.rpartition("-")[2]})
    write_record(path, with_key)


def _edit_in_place(results: Path, outside: Path, chance: random.Random) -> None:
    """As long as before and, by its own time, as old as before."""
    path = _some_file(results, chance)
    status = path.stat()
    time.sleep(TICK_S)
    text = path.read_text(encoding="utf-8", errors="replace")
    path.write_text(text.replace("2026-08-", chance.choice(["2027-08-", "x026-08-"])), "utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _cut(results: Path, outside: Path, chance: random.Random) -> None:
    path = _some_file(results, chance)
    path.write_bytes(path.read_bytes()[: chance.randrange(200)])


def _delete(results: Path, outside: Path, chance: random.Random) -> None:
    _some_file(results, chance).unlink()


def _rename(results: Path, outside: Path, chance: random.Random) -> None:
    path = _some_file(results, chance)
    path.rename(path.with_name(chance.choice(["x.json", f"x{path.name}", f".{path.name}"])))


def _move(results: Path, outside: Path, chance: random.Random) -> None:
    path = _some_file(results, chance)
    place = results / chance.choice(["deep/er/still", "baselines", "quickstart/baselines", ".hid"])
    place.mkdir(parents=True, exist_ok=True)
    path.rename(place / path.name)


def _copy(results: Path, outside: Path, chance: random.Random) -> None:
    path = _some_file(results, chance)
    place = results / chance.choice(["copy", "a copy/of it"])
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, place / path.name)


def _link(results: Path, outside: Path, chance: random.Random) -> None:
    """To a file, to one that is not there, to a folder; or a second name of a file."""
    path = _some_file(results, chance)
    link = results / "quickstart" / f"{chance.randrange(10**6)}-{path.name}"
    link.parent.mkdir(exist_ok=True)
    target = _some_file(outside, chance)
    chance.choice(
        [
            lambda: link.symlink_to(path.resolve()),
            lambda: link.symlink_to(target.resolve()),
            lambda: link.symlink_to("nowhere"),
            lambda: link.symlink_to(outside.resolve()),
            lambda: link.hardlink_to(path),
        ]
    )()


def _change_what_is_linked(results: Path, outside: Path, chance: random.Random) -> None:
    _cut(outside, results, chance)


def _folder_named_as_a_file(results: Path, outside: Path, chance: random.Random) -> None:
    (results / f"{chance.randrange(5)}.json").mkdir(exist_ok=True)


def _name_without_letters(results: Path, outside: Path, chance: random.Random) -> None:
    path = _some_file(results, chance)
    path.rename(path.with_name(os.fsdecode(b"\xff\xfe-") + path.name))


def _time_of_the_future(results: Path, outside: Path, chance: random.Random) -> None:
    path = _some_file(results, chance)
    os.utime(path, (0, chance.choice([0, 4_000_000_000, 9_900_000_000])))


CHANGES: list[Callable[[Path, Path, random.Random], None]] = [
    _add,
    _add,
    _replace,
    _edit_in_place,
    _cut,
    _delete,
    _rename,
    _move,
    _copy,
    _link,
    _change_what_is_linked,
    _folder_named_as_a_file,
    _name_without_letters,
    _time_of_the_future,
]
