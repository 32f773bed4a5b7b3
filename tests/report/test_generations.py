"""Generations side by side: where they part, and a page that no text can break."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from scipy import stats

from qbench.compare.selection import select
from qbench.core.page import Fold, Page, SideBySide
from qbench.report import markdown
from qbench.report.generations import (
    MARK,
    Difference,
    Generated,
    compare,
    first_difference,
    generation_parts,
    generation_tables,
    read_generated,
    visible,
)
from tests.record_factory import make_failure, make_record

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords
    from qbench.core.page import Figure
    from qbench.core.record import Record

SLUG = "stdlib-prompts-n2-t4"
NASTY = (
    "```\n</details><script>x</script>\n# heading\n| a | b |\r\x1b[31mred\u202etxt\x00"
    " ``````` \u2028"
)


def generation_record(
    precision: str,
    texts: list[str],
    ids: list[list[int]] | None = None,
    *,
    prompts: list[str] | None = None,
    references: list[str] | None = None,
    **changes: Any,
) -> Record:
    """Of as many prompts as texts; a token a character unless ids are given."""
    details = {
        "prompts": prompts or [f"prompt {number}:" for number in range(len(texts))],
        "references": references,
        "generated": texts,
        "generated_ids": ids or [[ord(letter) for letter in text] for text in texts],
    }
    metrics = {
        "generation.tokens": float(sum(map(len, details["generated_ids"] or ()))),
        "generation.exact_match": None if references is None else 0.5,
        "generation.rougeL": None if references is None else 0.25,
        "generation.chrf": None if references is None else 31.5,
        "generation.bleu": None if references is None else 2.5,
    }
    values: dict[str, Any] = {
        "slug": SLUG,
        "params": {"text": {"name": "stdlib-prompts"}, "new_tokens": 4},
        "details": details,
    }
    return make_record(precision, "generation", metrics, **(values | changes))


def table_of(*records: Record) -> TableRecords:
    (table,) = select(records).tables
    return table


def page_of(*records: Record) -> str:
    return markdown.render(Page("Page", tuple(generation_parts(table_of(*records)))))


def figures(table: TableRecords) -> dict[str, dict[str, Figure]]:
    (made,) = generation_tables(table)
    keys = [column.key for column in made.columns]
    return {row.label: dict(zip(keys, row.figures, strict=True)) for row in made.rows}


@pytest.mark.parametrize(
    ("own", "base", "expected"),
    [
        ("abc", "abc", None),
        ("", "", None),
        ("abd", "abc", 2),
        ("xbc", "abc", 0),
        ("ab", "abc", 2),
        ("abc", "ab", 2),
        ("", "a", 0),
        ("né🙂", "né🙁", 2),
    ],
)
def test_first_difference(own: str, base: str, expected: int | None) -> None:
    assert first_difference(own, base) == expected
    assert first_difference([ord(each) for each in own], [ord(each) for each in base]) == expected


def test_tokens_may_part_where_texts_do_not() -> None:
    base = Generated(("p", "q", "r"), None, ("ab", "ab", "ab"), ((1, 2), (1, 2), (1, 2)))
    own = Generated(("p", "q", "r"), None, ("ab", "ab", "ac"), ((1, 2), (3,), (1, 4)))
    assert compare(own, base) == [Difference(None, None), Difference(0, None), Difference(1, 1)]
    other = Generated(("p", "q", "x"), None, own.texts, own.ids)
    assert compare(other, base) is None


def test_table_counts_what_is_the_same() -> None:
    base = ["abcd", "efgh", "ijkl", "mnop"]
    references = ["a", "b", "c", "d"]
    found = figures(
        table_of(
            generation_record("fp32", base, references=references),
            generation_record("bf16", base, references=references),
            generation_record("nf4", ["abcd", "eXgh", "ijkX", "mnop and"], references=references),
        )
    )
    assert found["fp32"]["identical"].word == "-"
    assert found["bf16"]["identical"].value == 1
    assert found["bf16"]["first_difference"].reason == "there is no difference"
    assert found["nf4"]["identical"].value == 0.25
    assert found["nf4"]["first_difference"].value == 3  # of 1, 3 and 4
    assert found["nf4"]["prompts"].value == 4
    assert found["nf4"]["generation.chrf"].value == 31.5


def test_table_without_a_reference_compares_nothing() -> None:
    failed = make_failure("fp32", "generation", "oom", "no memory", slug=SLUG)
    found = figures(table_of(failed, generation_record("nf4", ["ab"])))
    assert found["fp32"]["generation.tokens"].word == "oom"
    assert found["nf4"]["identical"].value is None
    assert found["nf4"]["generation.rougeL"].word == "n/a"
    page = page_of(failed, generation_record("nf4", ["ab"]))
    assert "There is none of the reference" in page
    assert MARK not in page
    assert "ab" in page


def test_page_marks_the_first_difference_and_groups_the_same() -> None:
    page = page_of(
        generation_record("fp32", ["return a", "x"], references=["return b", "y"]),
        generation_record("bf16", ["return a", "x"]),
        generation_record("int8", ["return c", "x"]),
        generation_record("nf4", ["return c", "x and more"]),
    )
    assert page.count("<details>") == page.count("</details>") == 2
    assert "Prompt 1: 1 of 3 as fp32" in page
    assert "Prompt 2: 2 of 3 as fp32" in page
    assert "fp32, bf16:\n\n```text\nreturn a\n```" in page
    assert f"int8 (token 7), nf4 (token 7):\n\n```text\nreturn {MARK}c\n```" in page
    assert f"nf4 (token 1):\n\n```text\nx{MARK} and more\n```" in page
    assert "reference text:\n\n```text\nreturn b\n```" in page
    assert "end of the prompt:\n\n```text\nprompt 0:\n```" in page


def test_text_that_ends_early_is_marked_at_its_end() -> None:
    page = page_of(generation_record("fp32", ["abc"]), generation_record("nf4", ["ab"]))
    assert f"```text\nab{MARK}\n```" in page


def test_no_text_breaks_the_page() -> None:
    base = generation_record("fp32", [NASTY], prompts=[NASTY], references=[NASTY])
    own = generation_record("nf4", [NASTY[:-1] + "end"], prompts=[NASTY], references=[NASTY])
    page = page_of(base, own)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e\u2028]", page)
    outside, fence = [], None
    for line in page.split("\n"):
        opening = re.match(r"(`{3,})", line)
        if fence is None and opening:
            fence = opening[1]
        elif fence is not None and line == fence:
            fence = None
        elif fence is None:
            outside.append(line)
    assert fence is None
    assert sum(line.startswith("<details>") for line in outside) == 1
    assert outside.count("</details>") == 1
    assert not any("script" in line or line.startswith(("# ", "|")) for line in outside[1:])


def test_visible_shows_what_cannot_be_seen() -> None:
    assert visible("a\n\tb") == "a\n\tb"
    assert (
        visible("\x1b[0m\r\x00\u202e\u200b\ufffd🙂é") == "\\x1b[0m\\r\\x00\\u202e\\u200b\ufffd🙂é"
    )


def test_texts_stand_beside_the_references_from_their_common_beginning_on() -> None:
    common = "a\x1b" * 700
    base = generation_record("fp32", [common + "b" * 900])
    other = generation_record("nf4", [common + "c" * 900], ids=[[2]])
    (part,) = [
        inner
        for fold in generation_parts(table_of(base, other))
        if isinstance(fold, Fold)
        for inner in fold.parts
        if isinstance(inner, SideBySide)
    ]
    (parted,) = part.others
    assert part.text.startswith(parted.same)
    assert (parted.title, parted.same) == ("nf4 (token 0)", "a\\x1b" * 700)
    assert part.text.removeprefix(parted.same) == "b" * 300 + "…"
    assert parted.rest == "c" * 300 + "…"
    assert [code.text.count(MARK) for code in part.codes] == [0, 1]
    assert part.codes[1].text.index(MARK) == len(parted.same)


def test_long_texts_and_many_prompts_are_cut_short() -> None:
    long = "x" * 5000
    base = generation_record("fp32", [long] * 11, prompts=["p" * 4000] * 11)
    own = generation_record("nf4", [long[:3000] + "y"] * 11, prompts=["p" * 4000] * 11)
    page = page_of(base, own)
    assert page.count("<details>") == 8
    assert "3 more prompts are in the records." in page
    assert f"x{MARK}y" in page
    assert "…" + "p" * 240 + "\n" in page
    assert "x" * 3301 not in page


def test_other_prompts_are_not_compared() -> None:
    base = generation_record("fp32", ["a"], prompts=["one"])
    own = generation_record("nf4", ["b"], prompts=["two"])
    assert "other prompts: nf4." in page_of(base, own)
    assert figures(table_of(base, own))["nf4"]["identical"].reason == (
        "the reference continued other prompts"
    )


def test_nothing_where_nothing_was_generated() -> None:
    table = table_of(make_record("fp32", metrics={"memory.static": 1.0}))
    assert generation_tables(table) == []
    assert generation_parts(table) == []


@pytest.mark.parametrize(
    "details",
    [
        {},
        {"prompts": [], "generated": [], "generated_ids": []},
        {"prompts": ["a"], "generated": ["b"]},
        {"prompts": ["a"], "generated": ["b", "c"], "generated_ids": [[1], [2]]},
        {"prompts": ["a"], "generated": ["b"], "generated_ids": [1]},
    ],
)
def test_records_that_hold_no_generations(details: dict[str, Any]) -> None:
    record = make_record("nf4", "generation", slug=SLUG, details=details)
    assert read_generated(record) is None
    assert generation_parts(table_of(record)) == []
    assert read_generated(None) is None


def test_the_share_of_prompts_continued_alike_has_exact_limits() -> None:
    exact = stats.binomtest(1, 4).proportion_ci(0.95, method="exact")
    base = generation_record("fp32", ["ab", "cd", "ef", "gh"])
    figure = figures(table_of(base, generation_record("nf4", ["ab", "x", "y", "z"])))["nf4"]
    assert figure["identical"].value == 0.25
    ends = figure["identical"].low, figure["identical"].high
    assert ends == pytest.approx((exact.low, exact.high), abs=1e-9)
