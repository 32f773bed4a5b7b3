"""A browser for the tests of a module, and a page that they look at."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.pages import written_as
from tests.paired_records import task
from tests.record_factory import quickstart_records
from tests.report.html.browser import find_chromium, show
from tests.tuned_records import tuned_arm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

    from qbench.core.record import Record
    from tests.report.html.browser import Shown


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium is installed; `apt install chromium` makes these run")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def records() -> list[Record]:
    chance = random.Random(3)
    answers = [float(chance.random() < 0.7) for _ in range(200)]
    tasks = [
        task(label, [1 - one if chance.random() < lost else one for one in answers])
        for label, lost in (("fp32", 0.0), ("bf16", 0.01), ("nf4", 0.05), ("nf4-dq", 0.2))
    ]
    arms = [*tuned_arm("lora-bf16"), *tuned_arm("qlora-nf4")]
    return [*quickstart_records(), *tasks, *arms]


@pytest.fixture(scope="module")
def path(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pages") / "page.html"
    made.write_text(written_as("html", records), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def shown(browser: Browser, path: Path) -> Shown:
    return show(browser, path)
