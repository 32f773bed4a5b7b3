"""The README's picture is that of the published records."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    script = REPOSITORY / "tools" / "readme_picture.py"
    subprocess.run([sys.executable, script, "--pictures", folder], check=True, cwd=REPOSITORY)
    return folder


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_committed_is_what_the_records_give(drawn: Path, theme: str) -> None:
    name = f"quality-{theme}.svg"
    committed = (REPOSITORY / "docs" / "pictures" / name).read_text(encoding="utf-8")
    assert (drawn / name).read_text(encoding="utf-8") == committed, "run tools/readme_picture.py"


def test_a_point_stands_where_its_numbers_say(drawn: Path) -> None:
    """Compared with the axes' own labels: 2.31 MiB and 4.43 % of fp4."""
    root = ET.parse(drawn / "quality-light.svg").getroot()
    texts = {str(one.text): one for one in root.iter(f"{SVG}text")}
    across = [float(texts[word].get("x", "")) for word in ("2", "4")]  # the last "2" and "4": of x
    lines = list(root.iter(f"{SVG}line"))
    up = [float(line.get("y1", "")) for line in lines if line.get("stroke-width") == "1"]
    points = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in root.iter(f"{SVG}circle")]
    described = root.findtext(f"{SVG}desc") or ""
    at = [one.split(":")[0] for one in described.split("; ")].index("fp4")
    assert "fp4: 2.31 MiB, +4.43 %" in described
    x, y = points[at]
    assert 2 + 2 * (x - across[0]) / (across[1] - across[0]) == pytest.approx(2.307, abs=0.01)
    assert (up[0] - y) / (up[0] - up[1]) == pytest.approx(4.433, abs=0.01)
    bar = next(
        line
        for line in lines
        if line.get("stroke-width") == "3"
        and float(line.get("x1", "")) == x
        and float(line.get("y1", "")) > y > float(line.get("y2", ""))
    )
    ends = [(up[0] - float(bar.get(end, ""))) / (up[0] - up[1]) for end in ("y1", "y2")]
    assert ends == pytest.approx([4.015, 4.886], abs=0.02)
