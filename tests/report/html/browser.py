"""A real browser for pages from disk: Chromium, and all that it says while it shows one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
_PATIENCE_MS = 60_000
DRAWN = """plot => {
  const marks = [...plot.querySelectorAll("svg [class*=mark-] path, svg [class*=mark-] line")]
    .map((mark) => mark.getBBox());
  return Math.max(0, ...marks.map(({ width, height }) => Math.max(width, height)));
}"""
"""How large the largest mark of a plot is."""


def find_chromium() -> str | None:
    """Where a Chromium is installed; None where none is."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@dataclass
class Shown:
    """A page in the browser, with what it said and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    """Messages on its console, errors and dialogs."""
    asked: list[str] = field(default_factory=list)
    """Addresses that it asked for."""
    refused: list[str] = field(default_factory=list)
    """Those of them that its own policy let no one be asked for."""


def show(
    browser: Browser, path: Path, *, size: dict[str, int] | None = None, dark: bool = False
) -> Shown:
    """The page of a file, once all its pictures are drawn."""
    page = browser.new_page(
        viewport=size or DESKTOP,  # type: ignore[arg-type]
        color_scheme="dark" if dark else "light",
    )
    shown = Shown(page)
    page.on("console", lambda message: shown.said.append(message.text))
    page.on("pageerror", lambda error: shown.said.append(str(error)))
    page.on("dialog", lambda dialog: (shown.said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: shown.asked.append(request.url))
    page.on(
        "requestfailed",
        lambda request: shown.refused.append(request.url) if request.failure == "csp" else None,
    )
    page.goto(path.as_uri(), timeout=_PATIENCE_MS)
    page.wait_for_selector("html[data-drawn]", state="attached", timeout=_PATIENCE_MS)
    return shown
