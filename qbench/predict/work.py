"""What an item has the model do, as far as its peak depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict

from qbench.core.options import typed_options
from qbench.core.spec import Frozen, PrecisionRef, slugify
from qbench.precisions.mixed.units import By

if TYPE_CHECKING:
    from qbench.core.spec import Item


Forward = Literal["eager", "static", "compile", "cuda-graphs"]
"""How a forward pass runs.

    eager        operation by operation, with a cache that grows
    static       operation by operation, with a cache of a fixed size
    compile      compiled by torch, with a cache of a fixed size
    cuda-graphs  a decoding step recorded once as a CUDA graph and replayed
"""


CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
"""What torch.compile is asked for: `reduce-overhead` replays CUDA graphs, `max-autotune` tries
kernels too."""


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
    prefill_chunk: int | None = None
    """Tokens of the prompt that one forward reads; all at once unless given."""
    forward: Forward = "eager"
    compile_mode: CompileMode = "default"
    """Of `compile`."""
    attention: str | None = None
    """The attention kernel; the model's own choice unless given."""

    @property
    def tokens(self) -> int:
        """Of each sequence, in the end."""
        return self.prompt_tokens + self.new_tokens

    @property
    def prefill_parts(self) -> tuple[int, ...]:
        """Tokens of the prompt that each forward of prefill reads."""
        return parts_of(self.prompt_tokens, self.prefill_chunk)

    @property
    def slug(self) -> str:
        """Readable name: `b1-p128-n32`, `b1-p4096-n32-c512-compile-sdpa`."""
        others = [
            "" if self.prefill_chunk is None else f"c{self.prefill_chunk}",
            "" if self.forward == "eager" else self.forward,
            "" if self.compile_mode == "default" else self.compile_mode,
            "" if self.attention is None else slugify(self.attention),
        ]
        size = f"b{self.batch}-p{self.prompt_tokens}-n{self.new_tokens}"
        return "-".join(filter(None, (size, *others)))


def parts_of(tokens: int, chunk: int | None) -> tuple[int, ...]:
    """Tokens that each forward reads of so many, at most `chunk` at once; the last may be fewer."""
    if chunk is None or chunk >= tokens:
        return (tokens,)
    whole, rest = divmod(tokens, chunk)
    return (chunk,) * whole + ((rest,) if rest else ())


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

    @property
    def tokens(self) -> int:
        """Of each window."""
        return self.window


class Retrieval(_Part):
    """Prompts of a stated length are read, what is written after them included."""

    batch: int
    """Prompts at once."""
    length: int
    new_tokens: int
    prefill_chunk: int | None = None

    @property
    def point(self) -> GridPoint:
        """The same as a prompt and what is decoded after it."""
        given = self.model_dump(exclude={"length"})
        return GridPoint(**given, prompt_tokens=self.length - self.new_tokens)


class HeldAlone(Scoring):
    """A text is scored, of a reference with layers held in formats besides."""

    limit: int
    """Windows of the text."""
    by: By
    """Which layers are held together."""
    prune: str | None = None
    """Where it is given, a layer is held in all formats at once."""
    rest: str
    """Type that the reference is held in."""
    formats: tuple[PrecisionRef, ...]


_OF: dict[str, type[GridPoint | Scoring]] = {
    "memory": GridPoint,
    "latency": GridPoint,
    "quality": Scoring,
    "sensitivity": HeldAlone,
}


def work_of(item: Item) -> GridPoint | Scoring | None:
    """The work of an item whose peak is predicted; None for any other."""
    if item.measurement == "needle":
        return typed_options(Retrieval, item.params).point
    part = _OF.get(item.measurement)
    return None if part is None else typed_options(part, item.params)
