"""A measurement that lasts until the test lets it go: the act `waits` of `tests/plugins/unruly`.

So a test can act in the midst of a measurement, however quick or busy the machine is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

WAITS = "  unruly: {acts: [waits]}\n"
"""The measurement, for the end of a suite's `measure`; it waits in the cell fp32."""


def is_waiting(folder: Path) -> bool:
    """Whether it has begun in a process that was started in that workplace's folder."""
    return (folder / "waiting").exists()


def let_go(folder: Path) -> None:
    """Lets it end, and those that come later end at once."""
    (folder / "go").touch()
