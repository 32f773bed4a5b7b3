"""Field types that the measurements' options share."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt
from pydantic_core import PydanticCustomError

from qbench.core.aliases import Also
from qbench.predict.work import Forward

T = TypeVar("T")


def as_tuple(value: object) -> object:
    """A single value as a list of one; one that is listed twice is taken once."""
    if not isinstance(value, list | tuple):
        return (value,)
    return tuple(entry for at, entry in enumerate(value) if entry not in value[:at])


def not_empty(value: tuple[T, ...]) -> tuple[T, ...]:
    """Refuses an empty list; a `min_length` would count what is wrong in a list as not there."""
    if not value:
        raise PydanticCustomError("too_short", "an empty list")
    return value


MOST_REPEATS = 100
"""Processes that a point is taken in: beyond it, a number was meant for something else."""

Repeats = Annotated[PositiveInt, Field(le=MOST_REPEATS)]
"""How many processes a point is taken in."""

OneOrMorePositive = Annotated[
    tuple[PositiveInt, ...],
    AfterValidator(not_empty),
    BeforeValidator(
        as_tuple,
        json_schema_input_type=PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)],
    ),
]
"""A positive whole number, or a list of them: one point of the grid for each."""
CONTEXT: Literal["context"] = "context"
"""In the place of a length: as many tokens as the model's own context leaves."""
_Length = PositiveInt | Literal["context"]
OneOrMoreLengths = Annotated[
    tuple[_Length, ...],
    AfterValidator(not_empty),
    BeforeValidator(
        as_tuple, json_schema_input_type=_Length | Annotated[list[_Length], Field(min_length=1)]
    ),
]
"""A number of tokens, or the model's own context; or a list of them."""
_Window = Annotated[int, Field(ge=2)] | Literal["context"]
OneOrMoreWindows = Annotated[
    tuple[_Window, ...],
    AfterValidator(not_empty),
    BeforeValidator(
        as_tuple, json_schema_input_type=_Window | Annotated[list[_Window], Field(min_length=1)]
    ),
]
"""Tokens of a window, of which the first is not scored; or a list of them."""
GridBatch = Annotated[OneOrMorePositive, Also("batch_size")]
GridPrompt = Annotated[OneOrMoreLengths, Also("input_len", "n_prompt")]
PrefillChunk = Annotated[
    PositiveInt | None,
    Also(
        "prefill_chunk_size",
        unlike=dict.fromkeys(
            ("max_num_batched_tokens", "chunked_prefill_size", "ubatch_size", "n_ubatch"),
            "`prefill_chunk` counts the tokens of each sequence; this counts those of all sequences"
            " of a batch",
        ),
    ),
]
"""Other names are those of transformers."""
GridOutput = Annotated[OneOrMorePositive, Also("max_new_tokens", "output_len", "n_gen")]
"""Of a grid; other names are those of transformers, vLLM's and llama.cpp's benchmarks."""
GridRepeats = Annotated[
    Repeats,
    Also(
        unlike={
            "repetitions": "`repeats` are processes of their own; iterations within one are"
            " `min_iterations` of latency"
        }
    ),
]

OneOrMoreForwards = Annotated[
    tuple[Forward, ...],
    AfterValidator(not_empty),
    BeforeValidator(
        as_tuple, json_schema_input_type=Forward | Annotated[list[Forward], Field(min_length=1)]
    ),
]
"""How a forward runs, or a list of ways: one point of the grid for each."""

Kernel = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]
"""Attention kernels by transformers' names."""
OneOrMoreKernels = Annotated[
    tuple[Kernel, ...],
    AfterValidator(not_empty),
    BeforeValidator(
        as_tuple, json_schema_input_type=Kernel | Annotated[list[Kernel], Field(min_length=1)]
    ),
]
"""An attention kernel, or a list of them: one point of the grid for each."""

OneOrMoreText = Annotated[
    tuple[str, ...],
    AfterValidator(not_empty),
    BeforeValidator(
        as_tuple, json_schema_input_type=str | Annotated[list[str], Field(min_length=1)]
    ),
]
"""A name, or a list of them."""
