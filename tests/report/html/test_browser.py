"""Pages in a real browser: drawn, sorted, filtered, and nothing leaves the file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.record import Record
from tests.pages import written_as
from tests.record_factory import make_record, quickstart_records
from tests.report.html.browser import DRAWN, PHONE, Shown, show
from tests.tuned_records import tuned_arm

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Locator

HOSTILE = (
    "</script><script>hacked=1</script>\"><img src=x onerror='hacked=1'>{{7*7}}${datum.x}"
    " \u202etxet\u202c datum['cell'] " + "long-" * 20
)
LUMINANCE = """([one, other]) => {
  const parts = (colour) => {
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  };
  const of = (name) => {
    const colour = getComputedStyle(document.documentElement).getPropertyValue(name);
    const [red, green, blue] = parts(colour);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const [low, high] = [of(one), of(other)].sort((first, second) => first - second);
  return (high + 0.05) / (low + 0.05);
}"""


PLAIN = frozenset(
    {"deploy", "device_kind", "device_type", "kind", "measurement", "method", "name", "slug"}
    | {"started_at", "status", "better", "unit", "key", "protocol"}
)
"""Keys of texts that are one of few."""


def hostile(record: Record) -> Record:
    """The record with the text behind everything that may be any text."""
    data = _hostile(json.loads(record.model_dump_json()))
    data["cell"]["model"]["name"] += HOSTILE
    return Record.model_validate(data)


def _hostile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: each if key in PLAIN else _hostile(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_hostile(each) for each in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) else value


def test_every_picture_is_drawn_and_nothing_leaves_the_file(shown: Shown, path: Path) -> None:
    page = shown.page
    plots = page.locator(".plot").all()
    assert len(plots) == page.locator(".plot svg").count() > 5
    sizes = [plot.evaluate(DRAWN) for plot in plots]
    assert min(sizes) > 1, sizes
    assert all(plot.get_attribute("aria-label") for plot in plots)
    assert {plot.get_attribute("role") for plot in plots} == {"img"}
    assert shown.said == []
    assert shown.asked == [path.as_uri()]
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


def test_what_is_not_in_the_file_is_refused(browser: Browser, path: Path) -> None:
    shown = show(browser, path)
    shown.page.evaluate("fetch('https://example.org/').catch(() => 0)")
    shown.page.evaluate("document.body.append(make('img', {src: 'https://example.org/a.png'}))")
    shown.page.evaluate("{ const s = make('script'); s.textContent = 'hacked = 1';"
                        " document.body.append(s); }")  # fmt: skip
    assert shown.page.evaluate("typeof hacked") == "undefined"
    assert len(shown.said) >= 3
    assert all("Content Security Policy" in one for one in shown.said), shown.said
    assert set(shown.asked) - {path.as_uri()} == set(shown.refused)
    shown.page.close()


class TestTables:
    def table(self, shown: Shown, heading: str) -> Locator:
        named = f"//*[self::h2 or self::h3][contains(., '{heading}')]"
        return shown.page.locator(f"xpath=({named}/following::table)[1]")

    def column(self, table: Locator, at: int) -> list[str]:
        cells = table.locator(f"tbody tr:visible > :nth-child({at})").all_inner_texts()
        return [cell.split()[0] for cell in cells]

    def test_are_sorted_by_value_with_what_is_missing_last(self, shown: Shown) -> None:
        table = shown.page.locator("table", has=shown.page.get_by_text("bits/weight")).first
        before = self.column(table, 1)
        head = table.locator("thead th", has_text="static")
        at = 1 + head.evaluate("head => head.cellIndex")
        for order, sign in (("ascending", 1), ("descending", -1)):
            head.get_by_role("button").click()
            assert head.get_attribute("aria-sort") == order
            found = self.column(table, at)
            numbers = [float(one) for one in found[:-1]]
            assert numbers == sorted(numbers, key=lambda one: sign * one)
            assert len(set(numbers)) > 3
            assert found[-1] == "oom"
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "none"
        assert self.column(table, 1) == before

    def test_are_sorted_by_words_with_the_keyboard(self, shown: Shown) -> None:
        table = shown.page.locator("table", has=shown.page.get_by_text("bits/weight")).first
        first = table.locator("thead th").first.get_by_role("button")
        first.focus()
        shown.page.keyboard.press("Enter")
        expected = ["bf16", "FP4", "fp16", "fp32", "int8", "nf4", "nf4-dq"]
        assert self.column(table, 1) == expected
        shown.page.keyboard.press("Enter")
        shown.page.keyboard.press("Enter")

    def test_are_filtered_where_they_are_long(self, shown: Shown) -> None:
        table = self.table(shown, "Conditions")
        box = table.locator("xpath=ancestor::*[@data-table]")
        rows = table.locator("tbody tr")
        every = rows.count()
        assert every > 8
        box.get_by_label("Filter rows").fill("TORCH 2.13")
        assert rows.locator("visible=true").count() == 1
        assert box.get_by_role("status").inner_text() == f"1 of {every} rows"
        box.get_by_label("Filter rows").fill("")
        assert rows.locator("visible=true").count() == every

    def test_tell_intervals_by_pointer_by_key_and_below_each_figure(self, shown: Shown) -> None:
        page = shown.page
        table = page.locator("table", has=page.get_by_text("bits/weight")).first
        cell = table.locator("td[data-detail*='95 % interval']").first
        detail = page.locator("#detail")
        cell.hover()
        assert detail.is_visible()
        assert "95 % interval" in detail.inner_text()
        page.keyboard.press("Escape")
        assert not detail.is_visible()
        reached = table.locator("td[tabindex='0']")
        assert reached.count() == 1
        reached.focus()
        row = "document.activeElement.parentElement.rowIndex"
        before = page.evaluate(row)
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "detail"
        assert page.evaluate(row) > before
        assert detail.inner_text() == page.evaluate("document.activeElement.dataset.detail")
        page.keyboard.press("Escape")
        assert not table.locator("small.interval").first.is_visible()
        box = table.locator("xpath=ancestor::*[@data-table]")
        box.get_by_label("95 % intervals").check()
        assert table.locator("small.interval").first.is_visible()
        box.get_by_label("95 % intervals").uncheck()


def test_hostile_texts_stay_texts(browser: Browser, tmp_path: Path) -> None:
    made = [
        hostile(one)
        for one in [
            *quickstart_records(),
            *tuned_arm("qlora-nf4"),
            make_record("nf4", "x", {"y.z": 1.0}),
        ]
    ]
    path = tmp_path / "page.html"
    path.write_text(written_as("html", made), encoding="utf-8")
    shown = show(browser, path)
    page = shown.page
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("img").count() == 0
    assert shown.said == []
    assert shown.asked == [path.as_uri()]
    visible = HOSTILE.replace("\u202e", "\\u202e").replace("\u202c", "\\u202c")
    assert visible in str(page.locator("main").text_content())
    assert page.locator("svg text", has_text="</script>").count() > 3
    assert min(plot.evaluate(DRAWN) for plot in page.locator(".plot").all()) > 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(".chooser .mark-symbol path").first.hover()
    tooltip = page.locator("#vg-tooltip-element")
    tooltip.wait_for()
    assert "<img src=x" in tooltip.inner_text()
    assert page.evaluate("typeof hacked") == "undefined"
    page.close()


def test_it_can_be_read_by_ear_and_by_key(shown: Shown) -> None:
    page = shown.page
    assert page.locator("main").count() == page.locator("h1").count() == 1
    assert page.get_by_role("navigation", name="Contents").is_visible()
    unnamed = """() => [...document.querySelectorAll("input, select, button:not([hidden])")]
        .filter((one) => !one.labels?.length && !one.textContent && !one.ariaLabel).length"""
    assert page.evaluate(unnamed) == 0
    headed = page.locator("th:not([scope=col]):not([scope=row])").count()
    assert headed == 0
    skip = page.get_by_role("link", name="Skip to the content")
    skip.focus()
    place = skip.bounding_box()
    assert place is not None
    assert place["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways(
    browser: Browser,
    path: Path,
    dark: bool,  # noqa: FBT001 - a parameter
) -> None:
    shown = show(browser, path, size=PHONE, dark=dark)
    page = shown.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for fold in page.locator("details").all():
        fold.evaluate("fold => { fold.open = true; }")
    page.wait_for_timeout(400)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for text in ("--ink", "--soft", "--accent", "--good", "--warned", "--bad"):
        for ground in ("--paper", "--raised", "--sunk"):
            assert page.evaluate(LUMINANCE, [text, ground]) >= 4.5, (text, ground)
    assert page.evaluate(LUMINANCE, ["--ink", "--best"]) >= 7
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 23, 26)" if dark else "rgb(252, 252, 250)")
    page.emulate_media(color_scheme="light" if dark else "dark")
    page.wait_for_timeout(400)
    assert min(plot.evaluate(DRAWN) for plot in page.locator(".plot").all()) > 1
    assert shown.said == []
    page.close()


@pytest.mark.slow
def test_paper_shows_what_is_folded_and_every_picture(browser: Browser, path: Path) -> None:
    shown = show(browser, path, dark=True)
    page = shown.page
    page.emulate_media(media="print")
    closed = page.locator("details:not([open])")
    assert closed.count() > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert closed.count() == 0
    assert min(plot.evaluate(DRAWN) for plot in page.locator(".plot").all()) > 1
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert closed.count() > 0
    page.close()
