"""The parts of a page in each format, and what a page tells programs."""

from __future__ import annotations

import json

import pytest

from qbench.core.page import (
    Bullets,
    Chart,
    Charts,
    Code,
    Column,
    Figure,
    Fold,
    Heading,
    Mono,
    Notice,
    Page,
    Parted,
    Picture,
    Row,
    SideBySide,
    Strong,
    Table,
    Words,
    bullets,
    words_table,
)
from qbench.core.page_data import rows_data
from qbench.core.picture import BINS
from qbench.report import markdown, terminal
from qbench.report.as_json import page_json
from qbench.report.format import Subject
from qbench.report.formats import OWN, find_format, formats
from tests.pages import on_terminal

NASTY = "# a|b *c* <d> `e`"
COLUMNS = (
    Column("size", "size", "bytes", "lower"),
    Column("change", "from fp32", "estimate"),
    Column("state", "state", "mark"),
    Column("note", "note", "text"),
    Column("item", "item", "text", below="note"),
)
ROWS = (
    Row("fp32", True, (Figure(4096.0), Figure(word="ref"), *(Figure(word=""),) * 3)),  # noqa: FBT003
    Row(
        "nf4",
        False,  # noqa: FBT003
        (
            Figure(1024.0, best=True),
            Figure(0.02, "+0.02 worse", low=0.01, high=0.03),
            Figure(word="bad", tone="bad"),
            Figure(word=NASTY),
            Figure(word="prose"),
        ),
    ),
)
TABLE = Table("Sizes", "precision", COLUMNS, ROWS)
PAGE = Page(
    NASTY,
    (
        Notice("mind the gap"),
        Heading("First"),
        Words(("Take ", Mono("qbench run"), ", ", Strong("now"), ".")),
        Bullets(()),
        bullets(["one", NASTY], "quiet"),
        TABLE,
        Heading("Second", 3),
        Code("`x`\n```\ny", "log"),
        Picture((1,) * BINS, -1.0, 1.0, (0.0,)),
        Chart("drawn", "described", {"mark": "bar"}, "explained"),
        Charts((Chart("drawn", "described", {}),), "explained", "unfolded"),
        SideBySide("base", "same one", (Parted("other", "same ", "two"),), "|"),
        Fold("more", (words_table(("a", "b"), [("1", "2")], right=(0,)),)),
    ),
    {"rows": rows_data(TABLE), "missing": float("nan"), "endless": [float("inf")]},
)


def test_markdown_has_every_part_and_nothing_breaks_it() -> None:
    text = markdown.render(PAGE)
    blocks = text.split("\n\n")
    assert blocks[0] == r"# \# a\|b \*c\* &lt;d> \`e\`"
    assert blocks[1:4] == ["> **mind the gap**", "## First", "Take `qbench run`, **now**."]
    assert blocks[4].startswith("- one\n- ")
    table = next(block for block in blocks if block.startswith("| precision"))
    assert len({len(line) for line in table.splitlines()}) == 1
    assert "| size (KiB) |" in table
    assert "| fp32 (reference) |" in table
    assert "**1.00**" in table
    assert "### Second\n\nlog:\n\n````text\n`x`\n```\ny\n````" in text
    assert "base:\n\n```text\nsame one\n```\n\nother:\n\n```text\nsame |two\n```" in text
    assert not any(words in text for words in ("drawn", "described", "explained", "unfolded"))
    assert "<details><summary>more</summary>\n\n|   a | b   |" in text
    assert text.endswith("</details>\n")
    assert markdown.render(PAGE, top=2).startswith("## ")


@pytest.mark.parametrize("width", [30, 80, 200])
def test_a_terminal_has_every_part_within_its_width(width: int) -> None:
    text = on_terminal(PAGE, width)
    assert max(map(len, text.splitlines())) <= width
    for words in ("First", "qbench run", "one", "log:", "more", "▲", "same one", "same |two"):
        assert words in text
    assert not any(words in text for words in ("drawn", "described", "explained", "unfolded"))
    squeezed = "".join(text.split())
    assert "".join(NASTY.split()) in squeezed
    assert "4.00" in text


def test_what_stands_below_has_no_column_of_its_own_on_a_terminal() -> None:
    lines = on_terminal(Page("p", (TABLE,)), 100).splitlines()
    assert "note, item" in "".join(lines)
    at = next(index for index, line in enumerate(lines) if NASTY in line)
    assert "prose" in lines[at + 1]


def test_no_text_is_lost_where_there_is_hardly_room() -> None:
    words = "internationalization of everything"
    page = Page("p", (words_table(("a", "b", "c"), [(words, words, "12345678")]),))
    text = on_terminal(page, 24)
    assert max(map(len, text.splitlines())) <= 24
    for letter in set(words.replace(" ", "")):
        assert text.count(letter) >= 2 * words.count(letter)


def test_programs_get_numbers_and_no_nan() -> None:
    found = json.loads(page_json(PAGE))
    assert found["missing"] is None
    assert found["endless"] == [None]
    assert found["rows"][1] == {
        "precision": "nf4",
        "size": 1024.0,
        "change": 0.02,
        "change_low": 0.01,
        "change_high": 0.03,
        "change_word": "+0.02 worse",
        "state": "bad",
        "note": NASTY,
        "item": "prose",
    }
    assert page_json(Page("p", (), {"µ": "µ"})).isascii()


@pytest.mark.parametrize("name", [one.name for one in OWN if one.page])
def test_every_format_of_pages_takes_any_page(name: str) -> None:
    for page in (PAGE, Page("empty", ())):
        text = formats()[name].render(Subject(lambda page=page: page))
        assert isinstance(text, str)
        assert text.endswith("\n")


def test_a_file_of_text_has_no_colours() -> None:
    assert "\x1b" not in terminal.as_text(PAGE)


def test_a_format_that_cannot_show_it_is_refused_with_those_that_can() -> None:
    with pytest.raises(Exception, match=r"expected one of text, markdown, html, json$"):
        find_format("csv", "page")
    with pytest.raises(
        Exception, match=r"text, markdown, html, json, csv, .*did you mean 'markdown'"
    ):
        find_format("markdwn", "page", "records")
    with pytest.raises(ValueError, match="junit does not take"):
        formats()["junit"].render(Subject(lambda: PAGE))
