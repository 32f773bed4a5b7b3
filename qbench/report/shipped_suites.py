"""The suites that ship with qbench, as a page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qbench.core.page import Mono, Page, Words, words_table
from qbench.sources.bundled import bundled_suites

if TYPE_CHECKING:
    from pathlib import Path

SUITES = "suites"
"""What `qbench list` is asked for them by."""
_EDITORS = "yaml-language-server:"
"""Begins the comment that tells an editor the suite's schema."""
_SENTENCE = re.compile(r"(?<=[.?!])\s")
"""Where a sentence ends and another begins."""


def shipped_suites_page() -> Page:
    """Each suite by its name, with the first sentence of its file."""
    entries = [
        {"name": name, "summary": first_sentence(path), "file": str(path)}
        for name, path in bundled_suites().items()
    ]
    rows = [(entry["name"], entry["summary"]) for entry in entries]
    note = Words(
        (
            "Measure one: ",
            Mono("qbench run NAME"),
            "; make one of your own of it: ",
            Mono("qbench run NAME --print-suite"),
        ),
        "quiet",
    )
    title = "Suites that ship with qbench"
    return Page(title, (words_table(("name", "what it measures"), rows), note), {SUITES: entries})


def first_sentence(path: Path) -> str:
    """The first sentence of the comments that a suite begins with; empty where there are none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = (line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    text = " ".join(line for line in comments if not line.startswith(_EDITORS)).strip()
    return _SENTENCE.split(text, maxsplit=1)[0]
