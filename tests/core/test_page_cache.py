"""What is said of the page cache is true of it: files are dropped, read, and counted by pages."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from qbench.core.page_cache import (
    drop_from_page_cache,
    file_system_of,
    read_into_page_cache,
    share_in_page_cache,
)

PAGES = 64
_MEMORY = Path("/dev/shm")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One that was written just now: its pages are in memory, and none is on the disk yet."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(PAGES * mmap.PAGESIZE - 100))
    drop_from_page_cache([path])
    if share_in_page_cache([path]) != 0:
        pytest.skip(f"{file_system_of(path)} keeps files in memory, or does not tell")
    read_into_page_cache([path])
    return path


def test_dropped_files_are_out_of_it_and_read_ones_within(file: Path) -> None:
    assert share_in_page_cache([file]) == 1
    drop_from_page_cache([file])
    assert share_in_page_cache([file]) == 0
    read_into_page_cache([file])
    assert share_in_page_cache([file]) == 1


def test_the_share_is_of_all_pages_of_all_files(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(bytes(3 * PAGES * mmap.PAGESIZE))
    drop_from_page_cache([other])
    assert share_in_page_cache([file, other]) == 0.25
    with file.open("rb") as opened:  # half of it, by the system's own request
        os.posix_fadvise(opened.fileno(), 0, PAGES // 2 * mmap.PAGESIZE, os.POSIX_FADV_DONTNEED)
    assert share_in_page_cache([file]) == 0.5


def test_what_a_process_has_mapped_stays_and_is_told(file: Path) -> None:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[at] for at in range(0, len(mapped), mmap.PAGESIZE)) > 0
        drop_from_page_cache([file])
        assert share_in_page_cache([file]) == 1


def test_nothing_is_read_by_counting(file: Path) -> None:
    drop_from_page_cache([file])
    assert [share_in_page_cache([file]) for _ in range(3)] == [0, 0, 0]


def test_empty_and_absent_files(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert share_in_page_cache([empty]) == 1
    with pytest.raises(FileNotFoundError):
        drop_from_page_cache([tmp_path / "absent"])


@pytest.mark.skipif(not _MEMORY.is_dir(), reason="no file system that is memory")
def test_of_a_file_system_that_is_memory_nothing_goes() -> None:
    path = _MEMORY / f"qbench-test-{os.getpid()}"
    try:
        path.write_bytes(bytes(PAGES * mmap.PAGESIZE))
        drop_from_page_cache([path])
        assert share_in_page_cache([path]) == 1
        assert file_system_of(path) == "tmpfs"
    finally:
        path.unlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everything")
def test_of_files_of_others_nothing_is_told() -> None:
    assert share_in_page_cache([Path("/etc/passwd")]) is None
