"""What an item has the model do, as far as its peak depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ConfigDict

from qbench.core.options import typed_options
from qbench.core.spec import Frozen

if TYPE_CHECKING:
    from qbench.core.spec import Item


class _Part(Frozen):
    """A part of an item's parameters: what else stands there is left out."""

    model_config = ConfigDict(extra="ignore")


class GridPoint(_Part):
    """A prompt is read, then tokens are decoded after it."""

    batch: int
    """Sequences at once."""
    prompt_tokens: int
    new_tokens: int
    """Tokens decoded after the prompt."""

    @property
    def slug(self) -> str:
        """Readable name: `b1-p128-n32`."""
        return f"b{self.batch}-p{self.prompt_tokens}-n{self.new_tokens}"


class Scoring(_Part):
    """A text is scored, window by window."""

    batch: int
    """Windows at once."""
    window: int
    """Tokens of each."""
    divergence: bool = False
    """Whether the reference's predictions are there beside the cell's."""
    attention: str | None = None
    """The attention kernel; the model's own choice unless given."""


_OF: dict[str, type[GridPoint | Scoring]] = {
    "memory": GridPoint,
    "latency": GridPoint,
    "quality": Scoring,
}


def work_of(item: Item) -> GridPoint | Scoring | None:
    """The work of an item whose peak is predicted; None for any other."""
    part = _OF.get(item.measurement)
    return None if part is None else typed_options(part, item.params)
