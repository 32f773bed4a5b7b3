"""Any page as one HTML file: templates, style and scripts put together."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from qbench.core.untrusted import visible
from qbench.report.html.embedded import digest, json_text
from qbench.report.html.sections import sections_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from qbench.core.page import Page

_CHOOSING = ("choose.js", "pareto.js", "chooser.js")
_LIBRARY = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js")
"""What draws pictures; only in a page that has one."""


def render(page: Page) -> str:
    """The page as a file that opens from disk and asks for nothing.

    A policy in it allows the scripts and the style that it was written with, by their digests, and
    nothing else: whatever a record's text may hold, it does not run.
    """
    from markupsafe import Markup

    outline = sections_of(page)
    drawn = _LIBRARY if outline.charts or outline.choosers else ()
    scripts = (*drawn, *(_CHOOSING if outline.choosers else ()), "page.js")
    style, *codes = (_asset(name) for name in ("page.css", *scripts))
    text = (
        _templates()
        .get_template("page.html")
        .render(
            title=visible(page.title),
            outline=outline,
            charts=Markup(json_text(outline.charts)),  # noqa: S704 - it is escaped for its place
            choosers=Markup(json_text(outline.choosers)),  # noqa: S704 - as above
            packed=page.packed,
            style=Markup(style),  # noqa: S704 - a file of this package
            style_digest=digest(style),
            scripts=[Markup(code) for code in codes],  # noqa: S704 - as above
            script_digests=[digest(code) for code in codes],
        )
    )
    return text if text.endswith("\n") else f"{text}\n"


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


@cache
def _asset(name: str) -> str:
    """A file of the package as it goes into the page."""
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")
