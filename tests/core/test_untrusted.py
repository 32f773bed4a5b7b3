"""Texts and files of strangers: what becomes of them where they enter."""

from __future__ import annotations

import os
import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench.core.untrusted import (
    LONGEST_LINE,
    LONGEST_WORDS,
    as_message,
    cleaned,
    in_one_line,
    parse_json,
    parse_yaml,
    read_bounded,
    visible,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve – 你好 \N{PILE OF POO}", "naïve – 你好 \N{PILE OF POO}"),
        ("two\nlines\tof text", "two\nlines\tof text"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("over\rwritten", r"over\rwritten"),
        ("\x9b2J", r"\x9b2J"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\u2028b", r"a\u2028b"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters()))
def test_cleaning_leaves_nothing_to_clean(text: str) -> None:
    for clean in (visible, in_one_line, as_message):
        once = clean(text)
        assert clean(once) == once
        kinds = {unicodedata.category(mark) for mark in once if mark not in "\n\t"}
        assert not kinds & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
        once.encode()
    assert "\n" not in in_one_line(text)


def test_long_texts_are_cut_and_say_so() -> None:
    assert as_message("a" * LONGEST_WORDS) == "a" * LONGEST_WORDS
    assert as_message("a" * 100_000).endswith("a… (96,000 more characters)")
    assert len(in_one_line("a\n" * 100_000)) == LONGEST_LINE


def test_names_stand_in_one_line_and_messages_in_theirs() -> None:
    data = {
        "suite": "a\n::error::b",
        "reason": "first\nsecond\x1b",
        "details": {"generated": ["x\ny" * LONGEST_LINE], "numbers": [1, 2.5, None, True]},
    }
    assert cleaned(data) == {
        "suite": "a ::error::b",
        "reason": "first\nsecond\\x1b",
        "details": {"generated": ["x\ny" * LONGEST_LINE], "numbers": [1, 2.5, None, True]},
    }


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b'{"a": Infinity}', "Infinity is no number"),
        (b"[NaN]", "NaN is no number"),
        (b"[1e999]", "too large"),
        (b"1" + b"0" * 30, "too large"),
        (b"[" * 100 + b"]" * 100, "more than 64 deep"),
        (b"[" * 100_000, "more than 64 deep"),
        (b"\xff\xfe\xfd", "not UTF-8"),
        (b"{", "Expecting"),
        (b"", "Expecting"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_what_is_no_json_is_refused(contents: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(contents)


def test_only_regular_files_of_usual_size_are_read(tmp_path: Path) -> None:
    file, pipe, endless = (tmp_path / name for name in ("file", "pipe", "endless"))
    file.write_bytes(b"12345")
    os.mkfifo(pipe)
    endless.symlink_to("/dev/zero")
    assert read_bounded(file, 5) == b"12345"
    for path, reason in ((file, "larger than 4 bytes"), (pipe, "no reg"), (endless, "no reg")):
        with pytest.raises(OSError, match=reason) as caught:
            read_bounded(path, 4)
        assert caught.value.filename == str(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 3_000, "deep"),
        ("a: &a [*a]", "deep"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(
                f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdefgh")
            ),
            "more than 100,000 values",
        ),
        ("day: 2024-99-99", "month"),
        ("!!timestamp x", "groupdict"),
        ("a: !!int _", "range"),
        ("? {a: b}\n: c", "mapping"),
        ("!!python/object/apply:os.system [ls]", "constructor"),
        ("\0", "character"),
    ],
)
def test_what_yaml_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_yaml(text)


def test_yaml_with_aliases_is_read() -> None:
    assert parse_yaml("a: &a [1]\nb: *a\n") == {"a": [1], "b": [1]}
    assert parse_yaml("") is None
