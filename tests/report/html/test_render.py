"""Any page as HTML: well formed, its texts nothing but texts, and each part there."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from qbench.core.page import (
    Chart,
    Charts,
    Chooser,
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
from qbench.core.picture import BINS
from qbench.report.html.render import render
from tests.pages import written_as
from tests.record_factory import quickstart_records

if TYPE_CHECKING:
    from qbench.core.page import Part

HOSTILE = '</script><script>alert(1)</script>"><img src=x onerror=alert(2)>{{7*7}}\u202e${x}'
VOID = {"meta", "input", "br", "img", "link", "hr"}
SPEC = {
    "data": {"values": [{"cell": HOSTILE, "value": 1.0}]},
    "mark": "bar",
    "encoding": {
        "x": {"field": "value", "type": "quantitative"},
        "y": {"field": "cell", "type": "nominal"},
    },
}


class Outline(HTMLParser):
    """Elements in their order, with the texts in them; elements that are closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.crossed: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self.opened and self.opened[-1] == tag:
            self.opened.pop()
        else:
            self.crossed.append(tag)

    def handle_data(self, data: str) -> None:
        if data.strip() and self.opened:
            self.texts.append((self.opened[-1], data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of that name."""
        return [attributes for name, attributes in self.found if name == tag]

    def text(self, tag: str) -> list[str]:
        """The texts directly in elements of that name."""
        return [data.strip() for name, data in self.texts if name == tag]


def every_part(text: str) -> tuple[Part, ...]:
    """A part of each kind, filled with a text."""
    columns = (Column("size", text, "bytes", "lower", text), Column("note", "note", "text"))
    rows = (
        Row(text, reference=True, figures=(Figure(4096.0, best=True), Figure(word=text))),
        Row(
            "nf4",
            reference=False,
            figures=(Figure(1024.0, warned=True, detail=text, low=1000.0, high=2048.0), Figure()),
            faulty=True,
        ),
    )
    return (
        Notice(text),
        Heading(text),
        Words(("Take ", Mono(text), ", ", Strong(text, "bad"), "."), "quiet"),
        bullets([text], "warned"),
        Table(text, text, columns, rows),
        Heading("Second", 3),
        Code(text, text),
        Picture((1,) * BINS, -1.0, 1.0, (0.0,)),
        Chart(text, text, SPEC),
        Charts((Chart(text, text, SPEC, text),), text, text),
        Chooser(text, Table(text, text, columns, rows), {"cells": [{"label": text}]}),
        SideBySide(text, text, (Parted(text, text, text), Parted(text, text, "")), "⟂"),
        Fold(text, (words_table(("a", "b"), [(text, "2")], right=(0,)), bullets([]))),
    )


@pytest.mark.parametrize("text", ["plain", HOSTILE])
def test_a_text_is_shown_and_makes_no_element(text: str) -> None:
    found = Outline(render(Page(text, every_part(text))))
    plain = Outline(render(Page("plain", every_part("plain"))))
    assert [name for name, _ in found.found] == [name for name, _ in plain.found]
    assert not found.crossed
    assert not found.opened
    shown = text.replace("\u202e", "\\u202e")
    for tag in (
        "title",
        "h1",
        "h2",
        "p",
        "li",
        "code",
        "strong",
        "pre",
        "summary",
        "figcaption",
    ):
        assert any(shown in one for one in found.text(tag)), tag
    assert any(shown in (one.get("aria-label") or "") for one in found.all("div"))
    assert found.text("mark")[-2:] == [f"⟂{shown.split()[0]}", "⟂"]


def test_charts_of_one_kind_stand_below_their_heading_or_within_a_fold() -> None:
    chart = Chart("one", "told", SPEC)
    others = (Heading("Second"), Heading("Third"), Heading("Fourth"))
    parts = (Heading("First"), Charts((chart,), "read", title="Pictures"), *others)
    found = Outline(render(Page("plain", parts)))
    assert found.text("h3") == ["Pictures"]
    anchor = found.all("h3")[0]["id"]
    assert f"#{anchor}" in [one.get("href") for one in found.all("a")]
    folded = Outline(render(Page("plain", (Charts((chart,), folded="more", title="Pictures"),))))
    assert folded.text("summary") == ["more"]
    assert not folded.all("h3")


def test_what_stands_between_backticks_is_code_but_in_a_model_s_text() -> None:
    words = "choose a smaller `group`, or ` alone, or `<b>`"
    beside = SideBySide("the `prompt`", "prompt", (Parted("nf4", "`same` ", "`rest`"),), "⟂")
    found = Outline(render(Page("page", (bullets([words]), beside))))
    assert found.text("code") == ["group", "<b>"]
    assert "".join(data for name, data in found.texts if name in {"li", "code"}) == (
        "choose a smaller group, or ` alone, or <b>"
    )
    assert "`same`" in found.text("span")


def test_texts_side_by_side_stand_in_pairs_with_the_first_difference_marked() -> None:
    others = (
        Parted("nf4", "one ", "three  four"),
        Parted("fp4", "", "\nzero"),
        Parted("x", "one two", ""),
    )
    found = Outline(render(Page("plain", (SideBySide("fp32", "one two", others, "⟂"),))))
    assert found.text("figcaption") == ["fp32", "nf4", "fp32", "fp4", "fp32", "x"]
    assert found.text("mark") == ["two", "⟂three", "one", "⟂\nzero", "⟂"]
    assert found.text("span")[-4:] == ["one", "one", "one two", "one two"]
    assert [one.get("class") for one in found.all("figure")] == [
        "code",
        "code",
        "code again",
        "code",
        "code again",
        "code",
    ]


def test_what_scripts_read_is_what_was_given() -> None:
    text = render(Page(HOSTILE, every_part(HOSTILE)))
    data = re.search(r'<script type="application/json" id="charts">(.*?)</script>', text)
    assert data is not None
    assert json.loads(data[1]) == [SPEC, SPEC]
    data = re.search(r'<script type="application/json" id="choosers">(.*?)</script>', text)
    assert data is not None
    assert json.loads(data[1]) == [{"cells": [{"label": HOSTILE}]}]
    assert "<img" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("chart", [True, False])
def test_only_what_was_written_may_run(chart: bool) -> None:  # noqa: FBT001 - a parameter
    part = Chart("t", "d", SPEC) if chart else Words("w")
    text = render(Page("p", (part,)))
    policy = next(
        one["content"]
        for one in Outline(text).all("meta")
        if one.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    codes = re.findall(r"<script>(.*?)</script>|<style>(.*?)</style>", text, re.DOTALL)
    assert len(codes) == (5 if chart else 2)
    for code in ("".join(pair) for pair in codes):
        known = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"'sha256-{known}'" in policy
    assert len(text) < (1_000_000 if chart else 60_000)


def test_a_table_says_what_each_figure_is() -> None:
    found = Outline(render(Page("p", every_part("plain"))))
    scopes = [one.get("scope") for one in found.all("th")]
    assert scopes.count("col") == 8
    assert scopes.count("row") == 5
    assert "KiB" in found.text("span")
    details = [one["data-detail"] for one in found.all("td") if "data-detail" in one]
    assert details == ["95 % interval 0.98 to 2.00 KiB; plain"] * 2
    assert {"reference", "faulty layers", "† warned"} <= set(found.text("span"))
    assert [one.get("data-value") for one in found.all("td")][:2] == ["4096.0", None]


def test_headings_are_reached_from_the_contents() -> None:
    found = Outline(written_as("html", quickstart_records()))
    anchors = [attributes.get("id") for name, attributes in found.found if re.match("h[2-6]", name)]
    assert len(set(anchors)) == len(anchors)
    linked = [str(one["href"])[1:] for one in found.all("a") if one.get("class") != "skip"]
    assert linked
    assert set(linked) <= set(anchors)
    levels = [int(name[1]) for name, _ in found.found if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    steps = [after - before for before, after in itertools.pairwise(levels)]
    assert max(steps) == 1


def test_a_report_is_small_and_the_same_each_time() -> None:
    text = written_as("html", quickstart_records())
    assert text == written_as("html", quickstart_records())
    assert len(text.encode()) < 3_000_000
