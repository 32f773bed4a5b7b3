"""Draws the README's picture from the published records: quality lost against bytes kept.

    .venv/bin/python tools/readme_picture.py

writes docs/pictures/quality-light.svg and quality-dark.svg. A test holds what is committed against
what this draws, so that picture and records cannot part.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "results" / "published" / "full"
PICTURES = ROOT / "docs" / "pictures"

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 72, 56
FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\""
SIZE = 'font-size="15"'
NEAR = 14
"""Pixels within which two points share one label."""


class Colours(NamedTuple):
    """The colours of one theme."""

    text: str
    faint: str
    grid: str
    point: str


THEMES = {
    "light": Colours("#1f2328", "#59636e", "#d1d9e0", "#0969da"),
    "dark": Colours("#f0f6fc", "#9198a1", "#3d444d", "#4493f8"),
}


@dataclass(frozen=True)
class Point:
    """A precision: what it keeps and what it loses."""

    label: str
    mebibytes: float
    lost_percent: float
    """Change of the perplexity from the reference's."""
    interval: tuple[float, float]
    """Ends of its 95 % interval, as the report gives them."""


class Axes(NamedTuple):
    """The largest values of both axes, and where a value stands in the picture."""

    mebibytes: int
    percent: int

    def across(self, mebibytes: float) -> float:
        """Pixels from the left."""
        return LEFT + (WIDTH - LEFT - RIGHT) * mebibytes / self.mebibytes

    def up(self, percent: float) -> float:
        """Pixels from the top."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * percent / self.percent

    def place(self, point: Point) -> tuple[float, float]:
        """Pixels of a point, from the left and from the top."""
        return self.across(point.mebibytes), self.up(point.lost_percent)


def read_points(folder: Path) -> list[Point]:
    """The untuned precisions of the records below a folder, as their report has them."""
    command = [sys.executable, "-m", "qbench", "report", str(folder), "--format", "json", "-o", "-"]
    found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    [table] = json.loads(found.stdout)["decision_tables"]
    [change] = [key for key in table["columns"] if key.startswith("change:")]
    return [_point(row["precision"], row["figures"], change) for row in table["rows"]]


def _point(label: str, figures: dict[str, dict[str, Any]], change: str) -> Point:
    """The reference has no change from itself."""
    lost = {end: 100 * (figures[change][end] or 0) for end in ("value", "low", "high")}
    # Of the format as it is served, where codes are simulated in more bytes.
    static = (figures.get("memory.served") or figures["memory.static"])["value"] / 2**20
    return Point(label, static, lost["value"], (lost["low"], lost["high"]))


def draw(points: list[Point], colours: Colours) -> str:
    """The picture as SVG."""
    axes = Axes(
        2 * math.ceil(max(point.mebibytes for point in points) / 2),
        max(1, math.ceil(max(max(point.interval) for point in points))),
    )
    title = f"The bundled model in {len(points)} precisions: quality lost against bytes kept"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f"<title>{escape(title)}</title>",
        f"<desc>{escape('; '.join(described(point) for point in points))}</desc>",
        words(LEFT, 26, "What a smaller model costs", colours.text, "start", 'font-size="19"'),
        words(
            LEFT,
            49,
            "increase of the perplexity in %, with its 95 % interval",
            colours.faint,
            "start",
            SIZE,
        ),
    ]
    for percent in range(axes.percent + 1):
        y = axes.up(percent)
        parts.append(line(LEFT, y, WIDTH - RIGHT, y, colours.grid))
        parts.append(words(LEFT - 12, y + 5, str(percent), colours.faint, "end", SIZE))
    for mebibytes in range(0, axes.mebibytes + 1, 2):
        x = axes.across(mebibytes)
        parts.append(words(x, HEIGHT - BOTTOM + 22, str(mebibytes), colours.faint, "middle", SIZE))
    axis = "bytes that the loaded model keeps, in MiB"
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(words(middle, HEIGHT - 10, axis, colours.faint, "middle", SIZE))
    for point in points:
        x, y = axes.place(point)
        low, high = map(axes.up, point.interval)
        parts.append(line(x, low, x, high, colours.point, width=3))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colours.point}"/>')
    for group in together(points, axes):
        x, y = max(axes.place(point) for point in group)
        label = ", ".join(point.label for point in group)
        top = min(axes.up(point.interval[1]) for point in group)
        if y - top > NEAR:  # beside a long interval, else above the point
            parts.append(words(x + 12, y - 7, label, colours.text, "start", SIZE))
        else:
            anchor, shift = ("end", 6) if x > WIDTH - 150 else ("start", -2)
            parts.append(words(x + shift, y - 13, label, colours.text, anchor, SIZE))
    return "\n".join([*parts, "</svg>"]) + "\n"


def together(points: list[Point], axes: Axes) -> list[list[Point]]:
    """Points that lie so near to one another that they share a label."""
    groups: list[list[Point]] = []
    for point in points:
        x, y = axes.place(point)
        for group in groups:
            there = axes.place(group[0])
            if abs(there[0] - x) < NEAR and abs(there[1] - y) < NEAR:
                group.append(point)
                break
        else:
            groups.append([point])
    return groups


def described(point: Point) -> str:
    """A point in words, for those who do not see the picture."""
    return f"{point.label}: {point.mebibytes:.2f} MiB, {point.lost_percent:+.2f} %"


def words(x: float, y: float, text: str, colour: str, anchor: str, size: str) -> str:
    """A line of text."""
    place = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text {place} fill="{colour}" text-anchor="{anchor}" {size}>{escape(text)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, *, width: int = 1) -> str:
    """A straight line."""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def main() -> None:
    """Writes both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    chosen = parser.parse_args()
    points = read_points(chosen.records)
    chosen.pictures.mkdir(parents=True, exist_ok=True)
    for theme, colours in THEMES.items():
        drawn = draw(points, colours)
        (chosen.pictures / f"quality-{theme}.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
