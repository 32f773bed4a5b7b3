"""One thing that stands in the way of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Obstacle:
    """What was found on the machine, and what to do about it."""

    topic: str
    """`device`, `memory`, `disk`, `network`, `access`, `packages`, `reference` or `cells`."""
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.found}; {self.remedy}"
