"""The points that a grid of batch, prompt length and new tokens has for a model.

A length may be the word `context`. Of a list, the points that are longer than the model's context
are items all the same, which a plan skips with the reason: another model of the suite may take
them. A grid of which no point fits is refused.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from qbench.core.errors import Problem
from qbench.measures.options import CONTEXT
from qbench.predict.work import GridPoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.spec import ResolvedModel

Length = int | Literal["context"]

MOST_POINTS = 10_000
"""Points of a grid, their repeats counted, for one cell."""


def grid_points(options: Any, model: ResolvedModel) -> list[GridPoint]:
    """Each point once, the batch outermost; none for a grid that is refused."""
    if too_many(options) is not None:
        return []
    found = {}
    for batch, written, new in product(options.batch, options.prompt_tokens, options.new_tokens):
        prompt = prompt_of(written, new, model.context_tokens)
        if prompt is None:
            continue
        point: dict[str, Any] = {"batch": batch, "prompt_tokens": prompt, "new_tokens": new}
        if options.prefill_chunk is not None and options.prefill_chunk < prompt:
            point["prefill_chunk"] = options.prefill_chunk
        made = GridPoint(**point)
        found[made.slug] = made
    return list(found.values())


def grid_misfit(options: Any, model: ResolvedModel) -> Problem | None:
    """Why a grid has no point for a model, or too many; None if it is taken."""
    return too_many(options) or misfit(options.prompt_tokens, options.new_tokens, model)


def too_many(options: Any) -> Problem | None:
    """What is wrong with a grid of too many points; None with any other."""
    points = len(options.batch) * len(options.prompt_tokens) * len(options.new_tokens)
    if points * options.repeats <= MOST_POINTS:
        return None
    found = f"a grid of {points} points, {options.repeats} times each"
    return Problem("batch", found, f"at most {MOST_POINTS} together", "shorten the lists")


def misfit(
    prompt_tokens: Sequence[Length],
    new_tokens: Sequence[int],
    model: ResolvedModel,
    after: str | None = None,
) -> Problem | None:
    """Why no length fits into the model's context, or it is not known; None if one does.

    `after` says what comes after a prompt, where it is not new tokens alone.
    """
    context, name = model.context_tokens, model.ref.name
    if context is None:
        if CONTEXT not in prompt_tokens:
            return None
        expected = f"a number of tokens, as the context of {name} is not known"
        return Problem("prompt_tokens", CONTEXT, expected, "write how long a prompt it takes")
    new = min(new_tokens)
    prompts = [prompt_of(written, new, context) for written in prompt_tokens]
    if any(prompt is not None and prompt + new <= context for prompt in prompts):
        return None
    shortest = min((one for one in prompt_tokens if one != CONTEXT), default=CONTEXT)
    return Problem(
        "prompt_tokens",
        f"{shortest} with {after or f'{new} new tokens'}",
        f"at most {context} together, the context of {name}",
        f"set prompt_tokens to at most {context - new}"
        if new < context
        else f"set new_tokens to less than {context}",
    )


def prompt_of(written: Length, new_tokens: int, context: int | None) -> int | None:
    """Tokens of a prompt; None where the context leaves none, or is not known."""
    if written != CONTEXT:
        return int(written)
    left = 0 if context is None else context - new_tokens
    return left if left > 0 else None
