"""Limits that a reader changes in the page: decided as Python decides, and told."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from qbench.compare.recommend.budget import Budget
from qbench.compare.recommend.choices import choices
from qbench.compare.recommend.limits import Limit
from qbench.compare.recommend.recommend import recommend
from qbench.compare.recommend.tables import recommendations
from qbench.compare.selection import select
from tests.report.html.browser import DRAWN

if TYPE_CHECKING:
    from qbench.compare.recommend.choices import Choices
    from qbench.core.record import Record
    from tests.report.html.browser import Shown


class TestChoosing:
    @pytest.fixture
    def found(self, records: list[Record]) -> Choices:
        (table,) = select(records).tables
        return choices(table)

    def in_python(self, found: Choices) -> list[list[str]]:
        return [[one.cell.label, one.standing] for one in recommend(found).candidates]

    def test_the_rule_is_that_of_python(self, shown: Shown, found: Choices) -> None:
        chance = random.Random(7)
        code = """([limits, minimize]) => decide(choices[0], limits, minimize).candidates
            .map((one) => [one.cell.label, one.standing])"""
        standings = set()
        for _ in range(60):
            limits = {}
            for axis in chance.sample(found.axes, k=chance.randint(0, 4)):
                ends = [
                    end
                    for cell in found.cells
                    for one in [cell.ranges[axis.key]]
                    for end in (one.value, one.low, one.high)
                    if end is not None
                ]
                bound = chance.choice(ends) * chance.choice((1, 1, 0.9, 1.3))
                limits[axis.key] = Limit(bound, "max" if axis.better == "lower" else "min", "test")
            costs = [axis.key for axis in found.axes if axis.kind == "cost"]
            tried = replace(found, limits=limits, minimize=chance.choice(costs))
            bounds = {key: limit.bound for key, limit in limits.items()}
            expected = self.in_python(tried)
            assert shown.page.evaluate(code, [bounds, tried.minimize]) == expected
            nearest = recommend(tried).nearest
            assert shown.page.evaluate(
                "([limits, minimize]) =>"
                " decide(choices[0], limits, minimize).nearest?.cell.label ?? null",
                [bounds, tried.minimize],
            ) == (nearest.cell.label if nearest else None)
            standings |= {standing for _, standing in expected}
        assert {axis.better for axis in found.axes} == {"higher", "lower"}
        assert standings >= {"recommended", "meets", "undecided", "fails"}

    def test_so_is_that_for_tuned_models(self, shown: Shown, records: list[Record]) -> None:
        (table,) = select(records).tables
        tuned = recommendations(table).tuned
        assert tuned is not None
        expected = [[one.cell.label, one.standing] for one in tuned.candidates]
        code = """({ limits, minimize }) => decide(choices[1], limits, minimize).candidates
            .map((one) => [one.cell.label, one.standing])"""
        bounds = {key: limit.bound for key, limit in tuned.choices.limits.items()}
        asked = {"limits": bounds, "minimize": tuned.choices.minimize}
        assert shown.page.evaluate(code, asked) == expected
        assert shown.page.locator(".chooser").nth(1).get_attribute("data-recommended") == (
            tuned.best.cell.label if tuned.best else ""
        )

    def recommended(self, shown: Shown) -> str | None:
        return shown.page.locator(".chooser").first.get_attribute("data-recommended")

    def budgeted(self, records: list[Record], budget: Budget) -> str:
        (table,) = select(records).tables
        best = recommend(choices(table, budget)).best
        return best.cell.label if best else ""

    def test_a_typed_limit_changes_what_is_recommended(
        self, shown: Shown, records: list[Record]
    ) -> None:
        page = shown.page
        box = page.locator(".chooser").first
        before = self.recommended(shown)
        assert before == self.budgeted(records, Budget())
        quality = box.get_by_role("textbox", name="change of perplexity")
        for typed, increase in (("0.02%", 0.0002), ("10 %", 0.1), ("2", 0.02)):
            quality.fill(typed)
            quality.press("Enter")
            expected = self.budgeted(records, Budget(max_perplexity_increase=increase))
            assert self.recommended(shown) == expected
            assert expected in box.get_by_role("status").first.inner_text()
            first = box.locator("tbody tr").first.inner_text()
            assert first.split()[0] == expected
            assert "recommended" in first
        box.get_by_label("static bytes at most").fill("12MiB")
        box.get_by_label("static bytes at most").press("Enter")
        box.get_by_label("Lowest").select_option("decode")
        budget = Budget(max_perplexity_increase=0.02, max_bytes=12 * 2**20, minimize="decode")
        assert self.recommended(shown) == self.budgeted(records, budget)
        box.get_by_label("static bytes at most").fill("1 KiB")
        box.get_by_label("static bytes at most").press("Enter")
        assert self.recommended(shown) == ""
        assert (
            "No cell is shown to meet every limit" in box.get_by_role("status").first.inner_text()
        )
        box.get_by_role("button", name="Reset").click()
        assert self.recommended(shown) == before
        assert box.get_by_role("button", name="Reset").is_disabled()

    def test_what_is_no_limit_is_told_and_changes_nothing(self, shown: Shown) -> None:
        box = shown.page.locator(".chooser").first
        before = self.recommended(shown)
        field = box.get_by_label("static bytes at most")
        for text in ("soon", "6 parsecs", "-3 GiB", "1e999"):
            field.fill(text)
            field.press("Enter")
            assert field.get_attribute("aria-invalid") == "true"
            assert "write it like" in field.evaluate("field => field.validationMessage")
            assert self.recommended(shown) == before
        field.fill("")
        field.press("Enter")
        assert field.get_attribute("aria-invalid") is None

    def test_a_limit_is_dragged_and_moved_by_keys(self, shown: Shown) -> None:
        page = shown.page
        box = page.locator(".chooser").first
        box.scroll_into_view_if_needed()
        handle = box.locator(".handle.y")
        field = box.get_by_role("textbox", name="change of perplexity")
        before = self.recommended(shown), field.input_value()
        place = handle.bounding_box()
        assert place is not None
        x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x, y + 400, steps=4)
        page.mouse.up()
        assert self.recommended(shown) != before[0]
        assert field.input_value() != before[1]
        assert handle.inner_text() == field.input_value()
        dragged = field.input_value()
        handle.focus()
        page.keyboard.press("ArrowUp")
        assert float(field.input_value().split()[0]) > float(dragged.split()[0])
        assert handle.get_attribute("aria-valuetext") == field.input_value()
        box.get_by_role("button", name="Reset").click()
        assert (self.recommended(shown), field.input_value()) == before

    def test_the_picture_is_of_any_cost_and_quality(self, shown: Shown) -> None:
        box = shown.page.locator(".chooser").first
        selects = box.locator(".looks select")
        tried = []
        for cost in selects.nth(1).locator("option").all():
            selects.nth(1).select_option(cost.get_attribute("value"))
            title = str(cost.text_content())
            box.locator(f".plot[aria-label*='{title}']").wait_for()
            assert box.locator(".plot").evaluate(DRAWN) > 1
            tried.append(title)
        assert len(tried) >= 3
        for quality in selects.nth(0).locator("option").all():
            selects.nth(0).select_option(quality.get_attribute("value"))
            title = str(quality.text_content())
            box.locator(f".plot[aria-label^='{title}']").wait_for()
            assert box.locator(".plot").evaluate(DRAWN) > 1
        box.get_by_role("button", name="Reset").click()
        assert shown.said == []
